"""Makes loader/tests/data/hvg.safetensors: scanpy's highly variable genes of a small made-up count matrix.

Run: python tools/golden/make_hvg_fixture.py   (scanpy 1.11.5, statsmodels, safetensors)

counts (u8, [cells, genes]); seurat and cell_ranger (u8, [genes]): 1 where chosen, 60 genes each.
"""
from pathlib import Path

import anndata
import numpy as np
import scanpy
from safetensors.numpy import save_file

TOP = 60


def main():
    random = np.random.default_rng(7)
    cells, genes = 90, 400
    mean = random.gamma(0.6, 2.0, genes)
    spread = random.uniform(0.3, 6.0, genes)
    depth = random.lognormal(0, 0.4, cells)
    rate = random.gamma(spread, mean / spread, (cells, genes)) * depth[:, None]
    counts = np.minimum(random.poisson(rate), 255).astype(np.float32)
    counts[:, 5] = 0
    tensors = {"counts": counts.astype(np.uint8)}
    for flavor in ("seurat", "cell_ranger"):
        data = anndata.AnnData(counts.copy())
        scanpy.pp.normalize_total(data, target_sum=1e4)
        scanpy.pp.log1p(data)
        scanpy.pp.highly_variable_genes(data, n_top_genes=TOP, flavor=flavor)
        chosen = data.var["highly_variable"].to_numpy()
        assert chosen.sum() == TOP, "no ties at the border"
        tensors[flavor] = chosen.astype(np.uint8)
    path = Path(__file__).parents[2] / "loader/tests/data/hvg.safetensors"
    versions = {"script": "tools/golden/make_hvg_fixture.py", "seed": "7", "scanpy": "1.11.5",
                "numpy": np.__version__}
    save_file(tensors, path, metadata=versions)
    print(path, counts.mean(), (counts.sum(0) == 0).sum())


main()
