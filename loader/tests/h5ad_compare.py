"""Compares an AnnData file written by the loader with its input: usage h5ad_compare.py IN OUT.

The additions are those of h5ad_python.rs. Fails on the first difference.
"""
import sys
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
source, target = sys.argv[1:]

ADDED = {"obs/predicted", "obs/many", "obs/score_new", "obs/sure", "obs/maybe", "obs/comment",
         "obsm/X_new", "uns/new"}
ADDED |= {"obs/cell_type", "obs/__categories/cell_type"}  # replaced


def same(a, b):
    if isinstance(a, h5py.Reference):
        return True  # an address: what it leads to is compared by itself
    if isinstance(a, np.ndarray) and a.dtype.kind == "f":
        return np.array_equal(a, b, equal_nan=True)
    if isinstance(a, h5py.Empty):
        return isinstance(b, h5py.Empty) and a.dtype == b.dtype
    return np.array_equal(a, b)


def check_object(name, a, b):
    assert type(a) is type(b), name
    left, right = dict(a.attrs), dict(b.attrs)
    if name == "obs":
        left.pop("column-order", None), right.pop("column-order", None)
    assert left.keys() == right.keys(), (name, left, right)
    for key in left:
        assert same(left[key], right[key]), (name, key, left[key], right[key])
        assert a.attrs.get_id(key).get_type() == b.attrs.get_id(key).get_type(), (name, key)
    if isinstance(a, h5py.Dataset):
        if a.attrs.get("encoding-type") == "null":
            return  # `None`: its content means nothing
        for field in ("shape", "dtype", "chunks", "compression", "maxshape", "shuffle"):
            assert getattr(a, field) == getattr(b, field), (name, field)
        if a.dtype.kind == "V":
            for field in a.dtype.names:
                assert same(a[field], b[field]), (name, field)
        else:
            assert same(a[()], b[()]), name


seen = 0
with h5py.File(source) as a, h5py.File(target) as b:
    def visit(name, left):
        global seen
        if any(name == added or name.startswith(added + "/") for added in ADDED):
            return
        assert name in b, f"{name} is lost"
        check_object(name, left, b[name])
        seen += 1
    check_object("/", a, b)
    a.visititems(visit)
    extra = []
    b.visititems(lambda name, _: extra.append(name) if name not in a else None)
    stray = [n for n in extra if not any(n == x or n.startswith(x + "/") for x in ADDED)]
    assert [n for n in stray if n not in ("obsm", "uns")] == [], stray

old, new = anndata.read_h5ad(source), anndata.read_h5ad(target)
n = old.n_obs
index = np.arange(n)
expected = old.obs.copy()
expected["cell_type"] = pd.Categorical(np.where(index % 2, "even more", "é"), categories=["é", "even more"])
names = [f"k{i}" for i in range(200)]
expected["predicted"] = pd.Categorical.from_codes(index % 4 - 1, categories=["b", "a", "c"])
expected["many"] = pd.Categorical.from_codes(index % 200, categories=names)
expected["score_new"] = np.where(index == 1, np.nan, index / 4)
expected["sure"] = index % 3 == 0
expected["maybe"] = pd.array([None if i % 3 == 1 else bool(i % 2) for i in index], dtype="boolean")
expected["comment"] = [f"cell {i} ü" if i % 5 else "" for i in index]
order = [c for c in old.obs.columns]
order += [c for c in expected.columns if c not in order]
# pandas may read text as its own string type; what matters is the values.
for frame in (expected, new.obs):
    for column in frame:
        if pd.api.types.is_string_dtype(frame[column]) and frame[column].dtype.name != "category":
            frame[column] = frame[column].astype(object)
pd.testing.assert_frame_equal(new.obs[sorted(new.obs)], expected[sorted(expected)], check_names=False)
assert sorted(new.obs) == sorted(order), (list(new.obs), order)
assert list(new.obs)[: len(old.obs.columns)] == list(old.obs.columns)
assert not new.obs["predicted"].cat.ordered
pd.testing.assert_frame_equal(new.var, old.var)

added = new.obsm["X_new"]
assert added.dtype == np.float32 and added.shape == (n, 3)
np.testing.assert_array_equal(added, (np.arange(n * 3).reshape(n, 3) / 8).astype(np.float32))
uns = new.uns["new"]
assert uns["text"] == "scMMGPT é" and uns["number"] == 0.25 and uns["integer"] == -(2**40)
assert uns["boolean"] is True or uns["boolean"] == np.True_, uns["boolean"]
assert np.asarray(uns["boolean"]).dtype == bool
assert list(uns["list"]) == ["x", "", "long " * 20] and list(uns["empty"]) == []
np.testing.assert_array_equal(uns["numbers"], [1.0, np.nan, -3.5])
assert uns["map"]["deep"]["x"] == 1 and uns["nothing"] == {}


def matrices(data):
    yield "X", data.X
    yield from data.layers.items()
    if data.raw is not None:
        yield "raw", data.raw.X


for (name, a), (_, b) in zip(matrices(old), matrices(new), strict=True):
    assert type(a) is type(b), name
    if a is not None:
        a, b = (m.toarray() if hasattr(m, "toarray") else m for m in (a, b))
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b)
new.copy().write_h5ad(target + ".again", compression="gzip")
anndata.read_h5ad(target + ".again")
print(f"{seen} objects kept")
