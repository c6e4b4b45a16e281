// Searches as the product's users send them: 80 % GET by the id of a point, 20 % POST with a vector.
//
// The thresholds are the service's own targets: time to first byte p50 < 10 ms, p95 < 30 ms, p99 < 50 ms, errors
// < 0.1 %. A run that misses one fails. Everything is set by the environment:
//
//   URL         https://127.0.0.1:8443
//   TOKEN       a token with vectors:read, and for filling vectors:write and collections:admin
//   COLLECTION  load-tests; made and filled before the run unless FILL=off
//   POINTS      2000 · DIMENSION 128 · K 10
//   RATE        requests per second, arriving whatever the server does (open loop); 0 for a closed loop of VUS users
//   VUS         20 · DURATION 60s
//   P50 P95 P99 milliseconds; "off" leaves the latency thresholds out (for builds that are not optimised)
import { check } from 'k6';
import http from 'k6/http';
import exec from 'k6/execution';

const env = (name, fallback) => __ENV[name] || fallback;
const url = env('URL', 'https://127.0.0.1:8443');
const collection = env('COLLECTION', 'load-tests');
const points = Number(env('POINTS', 2000));
const dimension = Number(env('DIMENSION', 128));
const k = Number(env('K', 10));
const rate = Number(env('RATE', 0));
const vus = Number(env('VUS', 20));
const duration = env('DURATION', '60s');
const api = `${url}/api/v1`;

const latency = ['P50', 'P95', 'P99']
  .map((name, i) => [['p(50)', 'p(95)', 'p(99)'][i], env(name, [10, 30, 50][i])])
  .filter(([, limit]) => limit !== 'off')
  .map(([percentile, limit]) => `${percentile}<${limit}`);

const thresholds = {
  'http_req_failed{phase:search}': ['rate<0.001'],
  checks: ['rate>0.999'],
};
if (latency.length > 0) thresholds['http_req_waiting{phase:search}'] = latency;

const scenario = rate > 0
  ? { executor: 'constant-arrival-rate', rate, timeUnit: '1s', preAllocatedVUs: vus, maxVUs: vus * 20, duration }
  : { executor: 'constant-vus', vus, duration };

export const options = {
  scenarios: { search: { ...scenario, tags: { phase: 'search' } } },
  thresholds,
  setupTimeout: '300s',
  // The development certificate is signed by a CA of its own.
  insecureSkipTLSVerify: env('VERIFY', 'off') !== 'on',
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'max'],
};

const headers = { 'content-type': 'application/json' };
if (__ENV.TOKEN) headers.authorization = `Bearer ${__ENV.TOKEN}`;

// The same points for every run: a linear congruential generator, as in Numerical Recipes.
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

function vector(random) {
  return Array.from({ length: dimension }, () => Math.round(random() * 1e4) / 1e4);
}

export function setup() {
  if (env('FILL', 'on') === 'off') return;
  must(http.put(`${api}/collections/${collection}`, JSON.stringify({ dimension }), { headers }), [200, 201]);
  const random = generator(1);
  for (let start = 0; start < points; start += 250) {
    const vectors = [];
    for (let i = start; i < Math.min(start + 250, points); i += 1) {
      vectors.push({ id: `v${i}`, values: vector(random), metadata: { i, even: i % 2 === 0 } });
    }
    must(http.post(`${api}/insert`, JSON.stringify({ collection, vectors }), { headers }), [200]);
  }
}

function must(response, statuses) {
  if (!statuses.includes(response.status)) {
    exec.test.abort(`${response.request.method} ${response.url}: ${response.status} ${response.body || response.error}`);
  }
}

export default function search() {
  const byId = Math.random() < 0.8;
  const name = byId ? 'GET /search' : 'POST /search';
  const parameters = { headers, tags: { name } };
  const response = byId
    ? http.get(`${api}/search?collection=${collection}&query_vector_id=v${Math.floor(Math.random() * points)}&k=${k}`, parameters)
    : http.post(`${api}/search`, JSON.stringify({ collection, query: vector(Math.random), k }), parameters);
  check(response, {
    'status is 200': (r) => r.status === 200,
    'k hits, best first': (r) => {
      if (r.status !== 200) return false;
      const scores = r.json('results').map((hit) => hit.score);
      return scores.length === k && scores.every((score, i) => i === 0 || score <= scores[i - 1]);
    },
  });
}
