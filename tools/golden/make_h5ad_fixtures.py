"""Writes small AnnData files for the loader's tests.

Every matrix is 6 cells x 5 genes (raw: 7) with value(i, j) = (7 i + 3 j) % 5, so that the Rust
tests can compute what they expect. The committed files come from the repository root, with
anndata 0.12.19 and h5py 3.16.0, by

    python tools/golden/make_h5ad_fixtures.py loader/tests/data

With `--all`, the folder also gets larger files in the layouts h5py writes by default; with
`--template`, the writer's template for a categorical column is made again.
"""
import pathlib
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

OUT = pathlib.Path(sys.argv[1])
N_OBS, N_VARS = 6, 5
CELLS = [f"cell{i}" for i in range(N_OBS)]
GENES = [f"gene{j}" for j in range(N_VARS)]
TYPES = ["B", "T", None, "B", "NK", "T"]


def values(n_vars=N_VARS, dtype=np.float32):
    i, j = np.indices((N_OBS, n_vars))
    return ((7 * i + 3 * j) % 5).astype(dtype)


def unsorted_csr(dense):
    """CSR with each row's columns descending and one explicit zero, as scanpy's raw can be."""
    indptr, indices, data = [0], [], []
    for row in dense:
        for j in reversed(range(len(row))):
            if row[j] != 0 or j == 0:
                indices.append(j)
                data.append(row[j])
        indptr.append(len(indices))
    return sp.csr_matrix((np.array(data), np.array(indices), np.array(indptr)), shape=dense.shape)


def full():
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(TYPES),
            "counts": np.arange(N_OBS) * 10,
            "score": [0.5, np.nan, 1.5, 2.0, -1.0, 3.25],
            "doublet": [True, False, False, True, False, True],
            "note": ["é", "", "c", "d", "e", "long text with spaces"],
            "maybe_int": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"),
            "maybe_bool": pd.array([True, None, False, True, True, False], dtype="boolean"),
            "maybe_text": pd.array(["x", None, "y", "x", "z", "y"], dtype="string"),
            "cluster": pd.Categorical([0, 1, 0, 2, 1, 0], ordered=True),
        },
        index=CELLS,
    )
    var = pd.DataFrame({"highly_variable": [True, False, True, False, True]}, index=GENES)
    raw = anndata.AnnData(
        unsorted_csr(values(7, np.int64)),
        obs=obs[[]],
        var=pd.DataFrame({"length": np.arange(7)}, index=[f"raw{j}" for j in range(7)]),
    )
    adata = anndata.AnnData(sp.csr_matrix(values()), obs=obs, var=var)
    adata.raw = raw
    adata.layers["csc"] = sp.csc_matrix(values(dtype=np.float64))
    adata.layers["dense"] = values(dtype=np.int32)
    adata.layers["half"] = values(dtype=np.float16)
    adata.obsm["X_umap"] = np.arange(N_OBS * 2, dtype=np.float64).reshape(N_OBS, 2)
    adata.uns["nested"] = {"a": {"b": np.array([1, 2, 3]), "text": "deep"}, "flag": True, "none": None}
    adata.uns["names"] = np.array(["p", "q"], dtype=object)
    return adata


def compact():
    """The same in a newer HDF5 layout, which is smaller: one file of columns, one of matrices."""
    adata = full()
    with h5py.File(OUT / "modern_columns.h5ad", "w", libver="v114") as file:
        columns = anndata.AnnData(obs=adata.obs, var=adata.var, uns=adata.uns)
        anndata.io.write_elem(file, "/", columns)
    with h5py.File(OUT / "modern_matrices.h5ad", "w", libver="v114") as file:
        adata.obs, adata.var = adata.obs[[]], adata.var[[]]
        adata.uns = {}
        del adata.layers["dense"]
        anndata.io.write_elem(file, "/", adata, dataset_kwargs={"compression": "lzf"})


def records():
    """anndata 0.6: compound obs and var, categories in uns, h5sparse attributes, dotted raw."""
    text = h5py.string_dtype()
    with h5py.File(OUT / "legacy_records.h5ad", "w") as file:
        obs = np.zeros(
            N_OBS,
            dtype=[("index", text), ("cell_type", "i1"), ("counts", "<i8"), ("score", ">f4"),
                   ("note", "S5"), ("doublet", "?")],
        )
        obs["index"] = CELLS
        obs["cell_type"] = pd.Categorical(TYPES).codes
        obs["counts"] = np.arange(N_OBS) * -10
        obs["score"] = [0.5, np.nan, 1.5, 2.0, -1.0, 3.25]
        obs["note"] = [b"a", b"", b"ccccc", b"d", b"e", b"f"]
        obs["doublet"] = [True, False, False, True, False, True]
        file["obs"] = obs
        file["uns/cell_type_categories"] = np.array(["B", "NK", "T"], dtype=text)
        var = np.zeros(N_VARS, dtype=[("index", "S5")])
        var["index"] = GENES
        file["var"] = var
        matrix = sp.csr_matrix(values())
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = np.array(matrix.shape)
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name), maxshape=(None,), compression="gzip")
        file.create_dataset("raw.X", data=values(7))
        raw_var = np.zeros(7, dtype=[("index", text), ("kind", "i1")])
        raw_var["index"] = [f"raw{j}" for j in range(7)]
        raw_var["kind"] = [0, 1, 0, 1, 0, 1, -1]
        file["raw.var"] = raw_var
        file["raw.cat/kind_categories"] = np.array(["coding", "other"], dtype=text)


def categories():
    """anndata 0.7: a group a dataframe, codes that refer to `__categories`."""
    text = h5py.string_dtype()
    with h5py.File(OUT / "legacy_categories.h5ad", "w") as file:
        obs = file.create_group("obs")
        obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
        obs.attrs["column-order"] = np.array(["cell_type", "counts"], dtype=object)
        obs["index"] = np.array(CELLS, dtype=text)
        obs["cell_type"] = pd.Categorical(TYPES).codes
        obs["counts"] = np.arange(N_OBS)
        obs["__categories/cell_type"] = np.array(["B", "NK", "T"], dtype=text)
        obs["__categories/cell_type"].attrs["ordered"] = False
        obs["cell_type"].attrs["categories"] = obs["__categories/cell_type"].ref
        var = file.create_group("var")
        var.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
        var.attrs["column-order"] = np.array([], dtype=float)
        var["index"] = np.array(GENES, dtype=text)
        file.create_dataset("X", data=values(), chunks=(4, 2), compression="lzf")


def huge():
    """A few kB that claim 2^40 cells."""
    with h5py.File(OUT / "broken_huge.h5ad", "w", libver="v114") as file:
        for name, rows in (("obs", 1 << 40), ("var", 1)):
            frame = file.create_group(name)
            frame.attrs["_index"] = "index"
            frame.create_dataset("index", (rows,), "S1", chunks=(min(rows, 1024),))


def template():
    """A group with a boolean attribute, which the writer copies (see loader/src/h5ad/edit.rs)."""
    with h5py.File("loader/src/h5ad/unordered.h5", "w", libver="v110") as file:
        file.create_group("unordered").attrs["ordered"] = False


OUT.mkdir(parents=True, exist_ok=True)
anndata.settings.allow_write_nullable_strings = True
if "--all" in sys.argv:
    for compression in (None, "gzip", "lzf"):
        full().write_h5ad(OUT / f"full_{compression or 'plain'}.h5ad", compression=compression)
compact()
records()
categories()
huge()
if "--template" in sys.argv:
    template()
