#!/usr/bin/env python3
"""Times exact search of scmmgpt-engine and of faiss on the same vectors, in turn, on the same number of CPU threads.

    pip install faiss-cpu==1.15.1 numpy       # into an environment of its own
    python tools/compare_with_faiss.py [--items 1000000] [--width 512] [--queries 1000] [--k 10] [--threads 2] [--rounds 5]

Ours is the `peers` bench: an index file, mapped and searched tile by tile. faiss is IndexFlatIP, with its vectors in memory. A round is
one search of each, the order changing from round to round; a ratio is faiss's time over ours in one round, and the last line shows the
median over the rounds, so that a neighbour on the machine disturbs both alike. Above 1 we are faster.

Before the timing both search once: items that differ (scores that round alike) must be fewer than one in 1,000, or the exit status is 1.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import faiss
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent


def uniform(seed, start, shape):
    """Numbers in [-1, 1): `uniform_values` of benches/workload/mod.rs, from value `start` on."""
    word = np.arange(start, start + int(np.prod(shape)), dtype=np.uint32) * np.uint32(0x9E3779B1)
    word += np.uint32(seed * 0x85EBCA6B % 2**32)
    word ^= word >> np.uint32(15)
    word *= np.uint32(0x2C1B3C6D)
    word ^= word >> np.uint32(12)
    word *= np.uint32(0x297A2D39)
    word ^= word >> np.uint32(15)
    return ((word >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - np.float32(1)).reshape(shape)


class Ours:
    """The bench, answering one line with one line."""

    def __init__(self, name, threads):
        command = ["cargo", "bench", "--quiet", "-p", "scmmgpt-benches", "--bench", "peers", "--"]
        command += ["--stdin", "--threads", str(threads), "--repeats", "1"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name

    def ask(self):
        self.process.stdin.write(self.name + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            sys.exit(f"{self.name}: {answer['error']}")
        return answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in [("items", 1_000_000), ("width", 512), ("queries", 1000), ("k", 10), ("threads", 2), ("rounds", 5)]:
        parser.add_argument(f"--{option}", type=int, default=default)
    arguments = parser.parse_args()
    items, width, k = arguments.items, arguments.width, arguments.k

    faiss.omp_set_num_threads(arguments.threads)
    index = faiss.IndexFlatIP(width)
    step = max(1, 2**24 // width)
    for start in range(0, items, step):
        index.add(uniform(2, start * width, (min(step, items - start), width)))
    queries = uniform(1, 0, (arguments.queries, width))

    ours = Ours(f"search_f32_n{items}_w{width}_q{arguments.queries}_k{k}", arguments.threads)
    found = np.array(ours.ask()["checks"]).reshape(-1, k)
    _, expected = index.search(queries, k)
    missing = 1 - np.mean([len(np.intersect1d(*pair)) / k for pair in zip(found, expected)])
    print(f"{items} x {width}, {arguments.queries} queries, k {k}, {arguments.threads} threads; items that differ: {missing:.6f}")
    if missing > 1e-3:
        sys.exit("the results differ")

    def time_ours():
        return ours.ask()["seconds"]["minimum"]

    def time_faiss():
        start = time.perf_counter()
        index.search(queries, k)
        return time.perf_counter() - start

    ratios = []
    for turn in range(arguments.rounds):
        if turn % 2 == 0:
            mine, theirs = time_ours(), time_faiss()
        else:
            theirs, mine = time_faiss(), time_ours()
        ratios.append(theirs / mine)
        print(f"ours {mine:7.3f} s   faiss {theirs:7.3f} s   ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")
    ours.process.stdin.close()
    ours.process.wait()


if __name__ == "__main__":
    main()
