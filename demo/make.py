#!/usr/bin/env python3
"""Makes the demo data from the Fashion-MNIST files of Debian's package `dataset-fashion-mnist`. Nothing else is needed.

    apt-get install dataset-fashion-mnist && python3 demo/make.py
"""

import gzip
import json
import pathlib
import struct

SOURCE = pathlib.Path("/usr/share/datasets/fashion-mnist")
TARGET = pathlib.Path(__file__).parent
NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
PIXELS = 28 * 28
STORED = 5000
QUERIES_PER_CLASS = 10


def images(half):
    data = gzip.open(SOURCE / f"{half}-images-idx3-ubyte.gz").read()
    magic, count, rows, columns = struct.unpack(">4i", data[:16])
    assert (magic, rows * columns) == (2051, PIXELS)
    return [data[16 + i * PIXELS : 16 + (i + 1) * PIXELS] for i in range(count)]


def labels(half):
    data = gzip.open(SOURCE / f"{half}-labels-idx1-ubyte.gz").read()
    assert struct.unpack(">i", data[:4]) == (2049,)
    return list(data[8:])


def write_npy(path, rows):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(rows)}, {PIXELS}), }}"
    header = header.ljust(128 - 10 - 1) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"".join(rows))


def write_points(path, ids, of):
    lines = [json.dumps({"id": i, "metadata": {"label": n, "name": NAMES[n]}}) for i, n in zip(ids, of)]
    path.write_text("\n".join(lines) + "\n")


def main():
    stored, stored_labels = images("train")[:STORED], labels("train")[:STORED]
    write_npy(TARGET / "fashion-mnist.npy", stored)
    write_points(TARGET / "fashion-mnist.jsonl", [f"train-{i:05}" for i in range(STORED)], stored_labels)

    test, test_labels = images("t10k"), labels("t10k")
    chosen = [i for n in range(len(NAMES)) for i in [i for i, x in enumerate(test_labels) if x == n][:QUERIES_PER_CLASS]]
    write_npy(TARGET / "queries.npy", [test[i] for i in chosen])
    write_points(TARGET / "queries.jsonl", [f"test-{i:05}" for i in chosen], [test_labels[i] for i in chosen])

    # The first test image of each class, as a body for POST /api/v1/search.
    (TARGET / "queries").mkdir(exist_ok=True)
    for n, name in enumerate(NAMES):
        query = list(test[test_labels.index(n)])
        body = json.dumps({"collection": "fashion-mnist", "k": 5, "query": query}, separators=(",", ":"))
        (TARGET / "queries" / f"{name}.json").write_text(body + "\n")


main()
