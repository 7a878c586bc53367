"""Makes loader/tests/data/binning.safetensors: numpy's answers to the 51-bin rule with given uniforms.

Run: python tools/golden/make_binning_fixture.py   (numpy, safetensors)

The rule is scGPT's (scgpt/preprocess.py, `binning` and `_digitize`), restated here with the random numbers
as an argument. For each case: values (f32), n_bins, uniforms (f64, one for each non-zero value in order),
edges (f64) and bins (f32).
"""
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file


def binning(row, n_bins, uniforms):
    if row.min() <= 0:
        chosen = row.nonzero()
    else:
        chosen = np.arange(len(row))
    values = row[chosen]
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    left = np.digitize(values, edges)
    right = np.digitize(values, edges, right=True)
    digits = np.ceil(uniforms * (right - left) + left)
    assert digits.min() >= 1 and digits.max() <= n_bins - 1
    bins = np.zeros(len(row))
    bins[chosen] = digits
    return edges, bins.astype(np.float32)


def rows(random):
    for size in (1, 2, 3, 7, 49, 50, 51, 128, 499):
        counts = random.negative_binomial(0.8, 0.15, size).astype(np.float32)
        counts[0] += 1
        yield counts
        yield np.log1p(counts * np.float32(1e4 / counts.sum()))
        yield random.gamma(0.5, 3.0, size).astype(np.float32)
        yield counts + 1
    yield np.ones(33, np.float32)
    yield np.array([0, 5, 5, 5, 0, 1], np.float32)
    yield (np.arange(500) / 3 + 1e-3).astype(np.float32)


def main():
    random = np.random.default_rng(20240501)
    tensors = {}
    for number, row in enumerate(rows(random)):
        n_bins = 51 if number % 5 else (3, 10, 101)[number // 5 % 3]
        uniforms = random.random(np.count_nonzero(row))
        edges, bins = binning(row, n_bins, uniforms)
        name = f"{number:02}"
        tensors |= {f"{name}.values": row.astype(np.float32), f"{name}.uniforms": uniforms,
                    f"{name}.edges": edges, f"{name}.bins": bins,
                    f"{name}.n_bins": np.array([n_bins], np.float32)}
    path = Path(__file__).parents[2] / "loader/tests/data/binning.safetensors"
    versions = {"script": "tools/golden/make_binning_fixture.py", "seed": "20240501",
                "numpy": np.__version__, "safetensors": safetensors.__version__}
    save_file(tensors, path, metadata=versions)
    print(path, len(tensors) // 5, "cases")


main()
