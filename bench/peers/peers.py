"""Searches per CPU second at equal recall: the segments of searchd beside other engines, one after the other in one run.

    bench/peers/run FOLDER…

Each engine has a process of its own and one thread, is asked one query at a time (ScaNN in batches, too), and is asked ever
harder until recall@10 is past .99; the figures at .95 and .99 lie between two of those points. What counts is the CPU time
of the whole process, so a machine that does other things as well changes little. Calls from Python cost a peer a few
microseconds; of qdrant-edge, whose answers are objects, some ten. Ours is asked from Rust, by `graph_bench --sweep`, at
the beginning and again at the end: how far the two differ says how steady the machine was.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

K = 10
# Each figure is the best of this many runs.
RUNS = 3
MOST_QUERIES = 2_000
RECALLS = (0.95, 0.99)
PAST = RECALLS[-1] + 0.003
EFS = (10, 15, 20, 30, 40, 50, 64, 80, 104, 130, 160, 200, 260, 340, 450, 700, 1_000)
M, EF_CONSTRUCTION = 16, 200


class Data:
    """Rows and queries as f32, of length one for cosine."""

    def __init__(self, folder):
        folder = Path(folder)
        self.euclidean = (folder / "base.u8.npy").exists()
        kind = "u8" if self.euclidean else "f16"
        self.base = self.read(folder / f"base.{kind}.npy")
        self.queries = self.read(folder / f"queries.{kind}.npy")[:MOST_QUERIES]
        self.nearest = np.load(folder / "gt_ids.i32.npy")[:MOST_QUERIES, :K]
        self.rows, self.dimension = self.base.shape

    def read(self, path):
        values = np.load(path).astype(np.float32)
        if not self.euclidean:
            values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return np.ascontiguousarray(values)

    def recall(self, found):
        hits = sum(len(set(map(int, ids)) & set(map(int, truth))) for ids, truth in zip(found, self.nearest))
        return hits / (len(self.nearest) * K)


def hnswlib(data):
    import hnswlib as library

    index = library.Index(space="l2" if data.euclidean else "ip", dim=data.dimension)
    index.set_num_threads(1)
    index.init_index(max_elements=data.rows, M=M, ef_construction=EF_CONSTRUCTION)
    start = time.process_time()
    index.add_items(data.base)
    built = time.process_time() - start

    def ask(ef):
        index.set_ef(ef)
        return lambda query: index.knn_query(query, k=K)[0][0]

    return built, {"one at a time": (ask, EFS)}


def faiss(data, quantized=False):
    import faiss as library

    library.omp_set_num_threads(1)
    metric = library.METRIC_L2 if data.euclidean else library.METRIC_INNER_PRODUCT
    if quantized:
        index = library.IndexHNSWSQ(data.dimension, library.ScalarQuantizer.QT_8bit, M, metric)
    else:
        index = library.IndexHNSWFlat(data.dimension, M, metric)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    start = time.process_time()
    if quantized:
        index.train(data.base)
    index.add(data.base)
    built = time.process_time() - start

    def ask(ef):
        index.hnsw.efSearch = ef
        return lambda query: index.search(query[None], K)[1][0]

    return built, {"one at a time": (ask, EFS)}


def usearch(data, dtype="bf16"):
    from usearch.index import Index

    index = Index(
        ndim=data.dimension,
        metric="l2sq" if data.euclidean else "ip",
        dtype=dtype,
        connectivity=M,
        expansion_add=EF_CONSTRUCTION,
    )
    keys = np.arange(data.rows)
    start = time.process_time()
    index.add(keys, data.base, threads=1)
    built = time.process_time() - start

    def ask(ef):
        index.expansion_search = ef
        return lambda query: index.search(query, K, threads=1).keys

    return built, {"one at a time": (ask, EFS)}


def vsag(data):
    import pyvsag

    parameters = {
        "dtype": "float32",
        "metric_type": "l2" if data.euclidean else "ip",
        "dim": data.dimension,
        "index_param": {
            "base_quantization_type": "sq8",
            "use_reorder": True,
            "precise_quantization_type": "fp32",
            "max_degree": 2 * M,
            "ef_construction": EF_CONSTRUCTION,
            "build_thread_count": 1,
        },
    }
    index = pyvsag.Index("hgraph", json.dumps(parameters))
    start = time.process_time()
    index.build(data.base.reshape(-1), np.arange(data.rows, dtype=np.int64), data.rows, data.dimension)
    built = time.process_time() - start

    def ask(ef):
        parameters = json.dumps({"hgraph": {"ef_search": ef}})
        return lambda query: index.knn_search(query, K, parameters)[0]

    return built, {"one at a time": (ask, EFS)}


def scann(data):
    import scann as library

    leaves = max(100, int(data.rows**0.5))
    start = time.process_time()
    builder = library.scann_ops_pybind.builder(
        data.base, K, "squared_l2" if data.euclidean else "dot_product"
    )
    builder = builder.set_n_training_threads(1)
    tree = builder.tree(num_leaves=leaves, num_leaves_to_search=leaves // 10, training_sample_size=data.rows)
    index = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
    index.set_num_threads(1)
    built = time.process_time() - start
    # Leaves to look into, and candidates to compare exactly.
    efforts = [
        (max(1, int(leaves * share)), reordered)
        for share, reordered in (
            (0.02, 40), (0.04, 60), (0.06, 80), (0.1, 100), (0.15, 120), (0.2, 160), (0.3, 200), (0.4, 250), (0.6, 300),
            (0.8, 400), (1.0, 600),
        )
    ]

    def ask(effort):
        kept = {"leaves_to_search": effort[0], "pre_reorder_num_neighbors": effort[1]}
        return lambda query: index.search(query, final_num_neighbors=K, **kept)[0]

    def ask_all(effort):
        kept = {"leaves_to_search": effort[0], "pre_reorder_num_neighbors": effort[1]}
        return lambda queries: index.search_batched(queries, final_num_neighbors=K, **kept)[0]

    return built, {"one at a time": (ask, efforts), "in batches": (ask_all, efforts)}


def qdrant(data, quantized=False):
    import qdrant_edge as library

    distance = library.Distance.Euclid if data.euclidean else library.Distance.Dot
    config = library.EdgeConfig(
        vectors=library.EdgeVectorParams(size=data.dimension, distance=distance),
        hnsw_config=library.HnswIndexConfig(
            m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=1, max_indexing_threads=1
        ),
        quantization_config=library.ScalarQuantizationConfig(type=library.ScalarType.Int8) if quantized else None,
        max_search_threads=1,
    )
    folder = tempfile.TemporaryDirectory()
    shard = library.EdgeShard.create(folder.name, config)
    start = time.process_time()
    for first in range(0, data.rows, 1_000):
        rows = data.base[first : first + 1_000].tolist()
        points = [library.Point(first + i, row) for i, row in enumerate(rows)]
        shard.update(library.UpdateOperation.upsert_points(points))
    while shard.optimize():
        pass
    built = time.process_time() - start
    lists = {query.tobytes(): query.tolist() for query in data.queries}

    def ask(ef):
        params = library.SearchParams(hnsw_ef=ef)

        def search(query):
            nearest = library.Query.Nearest(lists[query.tobytes()])
            found = shard.search(library.SearchRequest(query=nearest, limit=K, params=params))
            return [point.id for point in found]

        search.folder = folder
        return search

    return built, {"one at a time": (ask, EFS)}


ENGINES = {
    "hnswlib f32": hnswlib,
    "faiss HNSW f32": faiss,
    "faiss HNSW SQ8": lambda data: faiss(data, quantized=True),
    "usearch bf16": usearch,
    "VSAG HGraph SQ8": vsag,
    "qdrant-edge f32": qdrant,
    "qdrant-edge int8": lambda data: qdrant(data, quantized=True),
    "ScaNN": scann,
}


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(name, folder):
    """Prints what one engine does as a line of JSON."""
    data = Data(folder)
    before = resident()
    built, ways = ENGINES[name](data)
    report = {"build": data.rows / built, "bytes": (resident() - before) / data.rows, "ways": {}}
    for way, (ask, efforts) in ways.items():
        points = []
        for effort in efforts:
            search = ask(effort)
            best = float("inf")
            for _ in range(RUNS):
                start = time.process_time()
                found = search(data.queries) if way == "in batches" else [search(query) for query in data.queries]
                best = min(best, time.process_time() - start)
            points.append((data.recall(found), best / len(data.queries) * 1e6))
            print(f"    {name}, {way}, {effort}: {points[-1][0]:.4f} {points[-1][1]:.1f} µs", file=sys.stderr)
            if points[-1][0] > PAST:
                break
        report["ways"][way] = {str(recall): between(points, recall) for recall in RECALLS}
    print(json.dumps(report))


def between(points, recall):
    """Queries per CPU second at a recall, from two points around it; None where there are none."""
    for low, high in zip(points, points[1:]):
        if low[0] <= recall <= high[0]:
            part = (recall - low[0]) / max(high[0] - low[0], 1e-9)
            return 1e6 / (low[1] + part * (high[1] - low[1]))
    # The least effort may be past it already.
    return 1e6 / points[0][1] if points[0][0] >= recall else None


def ours(program, folder):
    printed = subprocess.run([program, "--sweep", folder], check=True, capture_output=True, text=True).stdout
    print(printed, file=sys.stderr)
    speeds = re.findall(r"at recall ([\d.]+): (\d+) queries", printed)
    report = {
        "build": float(re.search(r"([\d.]+) rows per CPU second", printed)[1]),
        "bytes": float(re.search(r"([\d.]+) bytes of all a vector", printed)[1]),
        "ways": {"one at a time": {recall: float(speed) for recall, speed in speeds}},
    }
    return report


def table(reports):
    fastest = {recall: 0.0 for recall in map(str, RECALLS)}
    for name, report in reports:
        if not name.startswith("nearfield"):
            for recall in fastest:
                fastest[recall] = max(fastest[recall], report["ways"]["one at a time"][recall] or 0.0)
    print("| engine | asked | at .95 | at .99 | × fastest peer | build, rows per CPU second | bytes a vector |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, report in reports:
        for way, speeds in report["ways"].items():
            shown = [f"{speed:,.0f}" if speed else "not reached" for speed in speeds.values()]
            times = [f"{(speeds[r] or 0) / fastest[r]:.2f}" if fastest[r] else "–" for r in fastest]
            print(f"| {name} | {way} | {shown[0]} | {shown[1]} | {times[0]}, {times[1]} "
                  f"| {report['build']:,.0f} | {report['bytes']:,.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph-bench", default="target/release/examples/graph_bench", help="our program")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only these peers")
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, arguments.folders[0])
        return
    for folder in arguments.folders:
        reports = [("nearfield", ours(arguments.graph_bench, folder))]
        for name in arguments.engine or ENGINES:
            command = [sys.executable, __file__, "--one", name, folder]
            outcome = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if outcome.returncode == 0:
                reports.append((name, json.loads(outcome.stdout.splitlines()[-1])))
            else:
                print(f"{name} failed with {outcome.returncode}: it is not in the table", file=sys.stderr)
        reports.append(("nearfield, again", ours(arguments.graph_bench, folder)))
        print(f"\n{Path(folder).name}\n")
        table(reports)


if __name__ == "__main__":
    main()
