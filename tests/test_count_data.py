"""Matrices of counts in files: what is read of them, that they stay sparse, and what is refused, by row and column."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from aevb_ext.cli.main import main
from aevb_ext.data import CsrRows, SubsetRows, load, rows_of
from aevb_ext.models import make_model
from aevb_ext.train import fit

DTYPES = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64")


def counts(rows=40, columns=12, seed=0):
    """Counts of which a third are not 0, with an empty row and an empty column."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(3, (rows, columns)) * (rng.random((rows, columns)) < 1 / 3)
    x[5], x[:, 7] = 0, 0
    return x


def csr(x):
    """The arrays of a CSR matrix, as scipy.sparse.save_npz names them."""
    row, column = np.nonzero(x)
    return {
        "indices": column.astype(np.int32),
        "indptr": np.searchsorted(row, np.arange(len(x) + 1)).astype(np.int32),
        "format": np.array(b"csr"),
        "shape": np.array(x.shape),
        "data": x[row, column],
    }


def written(path, x, save=np.savez_compressed, **changed):
    save(path, **{**csr(x), **changed})
    return path


def whole(data):
    """All rows of a dataset, in the order of its file."""
    rows = rows_of(data.train), rows_of(data.test)
    order = torch.cat([each.index for each in rows]).argsort()
    return torch.cat([each.gather(torch.arange(len(each))) for each in rows])[order]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_a_matrix_is_what_was_written_in_its_dtype(tmp_path, dtype, save):
    x = counts().astype(dtype)
    data = load(written(tmp_path / "x.npz", x, save))
    assert data.x_scale == 1 and data.image_shape is None and data.dim == 12
    assert (len(data.train), len(data.test)) == (36, 4)
    assert torch.equal(whole(data), torch.from_numpy(x))


@pytest.mark.parametrize("given, kept", [("int8", "int16"), ("uint16", "int32"), ("uint32", "int64"), (">i4", "int32")])
def test_other_integers_become_the_next_wider_ones(tmp_path, given, kept):
    data = load(written(tmp_path / "x.npz", counts().astype(given)))
    assert whole(data).dtype == getattr(torch, kept) and torch.equal(whole(data).long(), torch.from_numpy(counts()))


def test_what_scipy_writes_is_read(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(tmp_path / "x.npz", sparse.csr_matrix(counts()))
    assert torch.equal(whole(load(tmp_path / "x.npz")), torch.from_numpy(counts()))
    sparse.save_npz(tmp_path / "x.npz", sparse.csc_matrix(counts()))
    with pytest.raises(ValueError, match=r"format 'csc', expected 'csr': scipy.sparse.save_npz\(path, matrix.tocsr"):
        load(tmp_path / "x.npz")


def test_rows_are_gathered_in_any_order_and_numbers_of_one_place_are_added():
    rows = CsrRows(np.array([1, 2, 4, 8]), np.array([2, 0, 2, 1]), np.array([0, 3, 3, 4]), (3, 3))
    assert rows.gather(torch.tensor([2, 0, 1, 0])).tolist() == [[0, 8, 0], [2, 0, 5], [0, 0, 0], [2, 0, 5]]
    assert rows.gather(torch.tensor([], dtype=torch.int64)).shape == (0, 3)
    bits = CsrRows(np.array([True, False, True]), np.array([0, 0, 2]), np.array([0, 2, 3]), (2, 3))
    assert bits.gather(torch.tensor([0, 1])).tolist() == [[True, False, False], [False, False, True]]


DAMAGED = {
    "indptr falls": ({"indptr": [0, 2, 1, 3]}, "indptr falls from 2 to 1 at row 1"),
    "indptr ends elsewhere": ({"indptr": [0, 1, 2, 4]}, "indptr goes from 0 to 4, expected from 0 to 3"),
    "indptr is of another length": ({"indptr": [0, 1, 3]}, "indptr has 3 numbers for 3 rows, expected 4"),
    "a column too far": ({"indices": [0, 4, 1]}, "row 1 has a number in column 4, expected columns from 0 to 3"),
    "a column below 0": ({"indices": [0, 1, -1]}, "row 2 has a number in column -1"),
    "indices that are fewer": ({"indices": [0, 1]}, "indices has 2 numbers and data 3"),
    "indices that are floats": ({"indices": [0.0, 1, 2]}, "indices is of float64, expected int32 or int64"),
    "NaN": ({"data": [1, np.nan, 2]}, "row 1, column 1 is nan, expected a finite number"),
    "text": ({"data": ["1", "2", "3"]}, "is of str32, expected one of bool"),
    "no columns": ({"shape": [3, 0]}, r"has shape \[3, 0\]"),
    "three dimensions": ({"shape": [3, 4, 1]}, r"shape is \[3, 4, 1\], expected two whole numbers"),
    "another format": ({"format": b"coo"}, "a sparse matrix of format 'coo', expected 'csr'"),
}


@pytest.mark.parametrize("changed, complaint", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_csr_matrix_is_refused_by_name(tmp_path, changed, complaint):
    right = {"data": [1, 2, 3], "indices": [0, 1, 2], "indptr": [0, 1, 2, 3], "shape": [3, 4], "format": b"csr"}
    np.savez(tmp_path / "x.npz", **{name: np.array(array) for name, array in {**right, **changed}.items()})
    with pytest.raises(ValueError, match=rf"x\.npz.*{complaint}"):
        load(tmp_path / "x.npz")


def test_a_file_without_an_array_or_cut_short_is_refused_by_name(tmp_path):
    arrays = csr(counts())
    del arrays["indptr"]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=r"x\.npz is a sparse matrix without indptr"):
        load(tmp_path / "x.npz")
    path = written(tmp_path / "cut.npz", counts())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.npz is truncated, damaged or not"):
        load(path)
    with zipfile.ZipFile(written(tmp_path / "y.npz", counts())) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each[:-8] if name == "data.npy" else each)
    with pytest.raises(ValueError, match=r"y\.npz: data\.npy is truncated"):
        load(tmp_path / "y.npz")


# (the number, likelihood, what is expected of it)
OUTSIDE = {
    "a negative count": (-1, "poisson", "is -1: expected counts, which are whole numbers from 0 on"),
    "a fraction": (0.5, "negative_binomial", "is 0.5: expected counts"),
    "a level of grey": (3, "discretized_logistic", "is 3: expected one of the 256 levels"),
    "no share": (1.25, "continuous_bernoulli", r"is 1.25: expected numbers in \[0, 1\]"),
    "no class": (0.5, "categorical", "is 0.5: expected a class: a whole number from 0 to 0"),
}


@pytest.mark.parametrize("number, likelihood, complaint", OUTSIDE.values(), ids=OUTSIDE)
def test_a_number_that_the_likelihood_does_not_take_is_refused_by_row_and_column(
    tmp_path, capsys, monkeypatch, number, likelihood, complaint
):
    monkeypatch.chdir(tmp_path)
    x = np.zeros((50, 6))
    x[33, 4] = number
    written(Path("x.npz"), x)
    assert main(["train", "--data", "x.npz", "--likelihood", likelihood, "--out", "run"]) == 1
    assert re.search(rf"x\.npz: row 33, column 4 {complaint}", capsys.readouterr().err)


def test_a_dense_matrix_is_refused_by_its_place_in_the_split(tmp_path):
    x = np.zeros((50, 6), np.float32)
    x[:, 2] = -3
    np.save(tmp_path / "x.npy", x)
    data = load(tmp_path / "x.npy")
    model = make_model(x_dim=6, latent=1, hidden=2, likelihood="nb")
    with pytest.raises(ValueError, match=r"x\.npy: data\.train\[0, 2\] is -3: expected counts"):
        fit(model, data, samples_seen=100)
    with pytest.raises(ValueError, match=r"is 2 \(\* x_scale 0.25: 0.5\): expected counts"):
        make_model(x_dim=1, latent=1, hidden=2, likelihood="nb").decoder.check_support(
            torch.tensor([[4], [2]]), 0.25, "x"
        )


def test_integers_are_for_likelihoods_that_take_them(tmp_path):
    data = load(written(tmp_path / "x.npz", counts()))
    with pytest.raises(TypeError, match=r"data.train is of torch.int64.*counts have likelihoods of their own"):
        fit(make_model(x_dim=12, latent=1, hidden=2), data, samples_seen=100)


def test_too_many_classes_are_taken_for_a_mistake(tmp_path, capsys):
    path = written(tmp_path / "x.npz", counts() * 50_000)
    assert main(["train", "--data", str(path), "--likelihood", "categorical", "--out", str(tmp_path / "run")]) == 1
    assert "expected numbers of classes, from 0 on: fewer than 65536" in capsys.readouterr().err


MEASURED = """
import json, sys, torch
from aevb_ext.data import load
from aevb_ext.models import make_model
from aevb_ext.train.arguments import check_support
from aevb_ext.train import Processes

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

torch.set_num_threads(1)
model = make_model(x_dim=20000, latent=1, hidden=1, likelihood="nb")
before = peak()
data = load(sys.argv[1])
check_support(model, data, Processes())
print(json.dumps({"bytes": peak() - before, "rows": len(data.train)}))
"""


def test_memory_is_that_of_the_sparse_matrix(tmp_path):
    # 6000 x 20,000 numbers of int32, of which 20 a row are there: 480 MB dense.
    rng = np.random.default_rng(0)
    shape, each = (6000, 20_000), 20
    np.savez(
        tmp_path / "x.npz",
        data=rng.integers(1, 9, shape[0] * each).astype(np.int32),
        indices=rng.integers(shape[1], size=shape[0] * each).astype(np.int32),
        indptr=np.arange(shape[0] + 1, dtype=np.int32) * each,
        shape=np.array(shape),
        format=np.array(b"csr"),
    )
    told = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "x.npz"], check=True, capture_output=True, text=True
    ).stdout
    found = json.loads(told.splitlines()[-1])
    assert found["rows"] == 5400
    assert found["bytes"] < 140e6  # a few chunks of 16 MB, where all rows are 480


def test_a_h5ad_file_says_what_to_type_without_anndata(tmp_path, capsys, monkeypatch):
    (tmp_path / "x.h5ad").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "anndata", None)
    monkeypatch.setattr("aevb_ext._extras.find_spec", lambda name: None if name == "anndata" else object())
    with pytest.raises(ImportError, match=r"needs the extra 'anndata', of which anndata is not installed here: type `"):
        load(tmp_path / "x.h5ad")
    assert main(["train", "--data", str(tmp_path / "x.h5ad")]) == 1
    assert "needs the extra 'anndata'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "asarray"])
def test_the_matrix_of_a_h5ad_file(tmp_path, form):
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    x = counts().astype(np.int32)
    anndata.AnnData((np.asarray if form == "asarray" else getattr(sparse, form))(x)).write_h5ad(tmp_path / "x.h5ad")
    data = load(tmp_path / "x.h5ad", test_fraction=0.25)
    assert data.x_scale == 1 and isinstance(rows_of(data.train), SubsetRows) == (form != "asarray")
    found = torch.cat([rows_of(split).gather(torch.arange(len(split))) for split in (data.train, data.test)])
    assert found.dtype == torch.int32 and sorted(found.tolist()) == sorted(x.tolist())
    (tmp_path / "x.h5ad").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"x\.h5ad is truncated, damaged or not a \.h5ad file"):
        load(tmp_path / "x.h5ad")
