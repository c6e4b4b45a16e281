// Says what came of a run of http-tests/cache-tests: how many of each kind passed, and which did not. Told by the suite's
// own rules, so that a test whose precondition failed counts as failed.
//
//   node score.mjs CHECKOUT RESULTS.json
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const [checkout, results] = process.argv.slice(2)
const load = file => import(pathToFileURL(path.resolve(checkout, file)).href)
const suites = (await load('tests/index.mjs')).default
const { determineTestResult, resultTypes } = await load('test-engine/lib/results.mjs')
const told = JSON.parse(fs.readFileSync(results))
const nameOf = type => Object.keys(resultTypes).find(name => resultTypes[name] === type)
const passed = { required: 0, optimal: 0, check: 0 }
const total = { ...passed }
const lacking = []
for (const test of suites.flatMap(suite => suite.tests).filter(test => !test.browser_only)) {
  const kind = test.kind ?? 'required'
  const result = nameOf(determineTestResult(suites, test.id, told))
  total[kind] += 1
  if (result === 'pass' || result === 'yes') passed[kind] += 1
  else if (kind !== 'check') lacking.push(`${kind} ${test.id}: ${result}, ${told[test.id]?.[1] ?? ''}`)
}
lacking.sort().forEach(line => console.log(line))
for (const kind of ['required', 'optimal']) console.log(`${kind}: ${passed[kind]} of ${total[kind]}`)
console.log(`of ${total.check} questions of taste, ${passed.check} are answered with yes`)
process.exitCode = passed.required === total.required && passed.optimal >= 0.95 * total.optimal ? 0 : 1
