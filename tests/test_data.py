"""The embedded digits are the real ones; files are read whole, and refused when they are not what they should be."""

import gzip
import os
import struct

import numpy as np
import pytest
import torch

import aevb_ext
from aevb_ext import data
from aevb_ext._files import atomic_write
from aevb_ext.configuration.datasets import KNOWN

real_data = pytest.mark.skipif("AEVB_DATA_DIR" not in os.environ, reason="AEVB_DATA_DIR does not name the real data")


def idx(array, kind=0x08):
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes())


def test_digits_are_the_uci_digits():
    digits = data.load("digits")
    assert digits.train.shape == (1500, 1024) and digits.test.shape == (297, 1024) and digits.dim == 1024
    assert digits.train.dtype == torch.uint8 and digits.image_shape == (32, 32) and digits.x_scale == 1 / 16
    blocks = torch.cat([digits.train, digits.test]).reshape(1797, 8, 4, 8, 4)
    counts = blocks[:, :, 0, :, 0]
    assert (blocks == counts[:, :, None, :, None]).all()
    sklearn = pytest.importorskip("sklearn.datasets")
    # The same images, in another order.
    original = sorted(image.tobytes() for image in sklearn.load_digits().images.astype(np.uint8))
    assert sorted(image.numpy().tobytes() for image in counts.contiguous()) == original


def test_likelihood_of_digits_is_binomial_in_the_counts():
    blocks = data.load("digits").test.reshape(-1, 8, 4, 8, 4)
    counts = blocks[:, :, 0, :, 0].double()
    logits = torch.randn(len(counts), 8, 8, dtype=torch.float64)
    binomial = torch.distributions.Binomial(16, logits=logits).log_prob(counts)
    ways = torch.lgamma(torch.tensor(17.0).double()) - torch.lgamma(counts + 1) - torch.lgamma(17 - counts)
    pixels = logits[:, :, None, :, None].expand(-1, 8, 4, 8, 4)
    bernoulli = aevb_ext.bernoulli_log_prob(blocks, pixels, x_scale=1 / 16)
    torch.testing.assert_close(bernoulli, (binomial - ways).sum((1, 2)), rtol=1e-10, atol=0)


@real_data
def test_mnist():
    mnist = data.load("mnist", os.environ["AEVB_DATA_DIR"])
    assert mnist.train.shape == (50000, 784) and mnist.valid.shape == (10000, 784) and mnist.test.shape == (10000, 784)
    # The mean pixel of the 60000 training images, known as 0.1307.
    every = torch.cat([mnist.train, mnist.valid]).double()
    assert (every.mean() * mnist.x_scale).item() == pytest.approx(0.1307, abs=5e-5)


@real_data
def test_freyface():
    faces = data.load("freyface", os.environ["AEVB_DATA_DIR"])
    assert faces.train.shape == (1600, 560) and faces.test.shape == (365, 560)
    assert faces.train.min() == 8 and faces.train.max() <= 238


@pytest.mark.parametrize(
    "kind, dtype", [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (0, 28, 28), (2, 3, 4)])
def test_idx_round_trip(tmp_path, kind, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    (tmp_path / "a.gz").write_bytes(idx(array, kind))
    read = data.read_idx(tmp_path / "a.gz")
    assert read.dtype == array.dtype and np.array_equal(read, array)


def test_damaged_idx_is_refused(tmp_path):
    path, whole = tmp_path / "train-images.gz", idx(np.arange(200, dtype=np.uint8).reshape(2, 10, 10))
    for content, complaint in [
        (whole[:-20], "truncated"),
        (whole[:5], "truncated"),
        (b"<html>not found</html>", "not a gzip file"),
        (b"", "truncated|not an idx"),
        (gzip.compress(b"\x1f\x8b\x08\x00"), "magic number is 0x1f8b0800"),
        (gzip.compress(gzip.decompress(whole)[:-1]), "215 bytes"),
        (gzip.compress(gzip.decompress(whole)[:9]), "9 bytes"),
        (gzip.compress(gzip.decompress(whole) + b"x"), "217 bytes"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=complaint) as error:
            data.read_idx(path)
        assert "train-images.gz" in str(error.value)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=f"expected {'0' * 32}"):
        data.read_idx(path, "md5:" + "0" * 32)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz.*/mnist and .*https://"):
        data.load("mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"freyfaces_u8\.npy or frey_rawface\.mat.*https://"):
        data.load("freyface", tmp_path)
    with pytest.raises(FileNotFoundError, match="data_dir="):
        data.load("mnist")
    with pytest.raises(
        FileNotFoundError, match=r"binarized_mnist_train_packed\.npy or binarized_mnist_train\.amat.*https://"
    ):
        data.load("binarized_mnist", tmp_path)
    with pytest.raises(ValueError, match="digits, mnist, fashion_mnist, freyface, binarized_mnist, got 'cifar'"):
        data.load("cifar")
    with pytest.raises(ValueError, match=r"name must be one of digits, .*, got 'cifar'"):
        data.download("cifar", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_other_mnist_is_refused(name, tmp_path):
    for file in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        (tmp_path / file).write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match=r"train-images.*: its md5 is .*, expected "):
        data.load(name, tmp_path)


@real_data
def test_binarized_mnist_is_the_same_as_text_and_packed(tmp_path):
    packed = data.load("binarized_mnist", os.environ["AEVB_DATA_DIR"])
    assert [len(rows) for rows in (packed.train, packed.valid, packed.test)] == [50000, 10000, 10000]
    assert packed.train.packed.nbytes == 50000 * 98 and packed.dim == 784 and packed.image_shape == (28, 28)
    for split in ("train", "valid", "test"):
        rows = getattr(packed, split)
        text = np.full((len(rows), 784, 2), ord(" "), np.uint8)
        text[:, :, 0] = ord("0") + data.first(rows, len(rows)).numpy()
        text[:, -1, 1] = ord("\n")
        text.tofile(tmp_path / f"binarized_mnist_{split}.amat")
    read = data.load("binarized_mnist", tmp_path)
    assert torch.equal(read.train.packed, packed.train.packed) and torch.equal(read.test.packed, packed.test.packed)
    # What was written is the published file, so that to download it would find it there.
    file = KNOWN["binarized_mnist"].files[-1]
    assert file.may_be(tmp_path / file.name) and file.name == "binarized_mnist_test.amat"


def test_damaged_binarized_mnist_is_refused(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"binarized_mnist_{split}.amat").write_bytes(b"0 1 " * 392)
    with pytest.raises(ValueError, match=r"the bits of .*train\.amat: its sha256 is"):
        data.load("binarized_mnist", tmp_path)
    (tmp_path / "binarized_mnist_train.amat").write_bytes(b"0 1 " * 391)
    with pytest.raises(ValueError, match="has 1564 bytes, expected lines of 784"):
        data.load("binarized_mnist", tmp_path)


def test_damaged_freyface_is_refused(tmp_path):
    path = tmp_path / "freyfaces_u8.npy"
    np.save(path, np.zeros((1965, 560), np.uint8))
    with pytest.raises(ValueError, match=r"the pixels of .*: its md5 is"):
        data.load("freyface", tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"freyfaces_u8\.npy is truncated"):
        data.load("freyface", tmp_path)
    np.save(path, np.zeros((3, 560), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(3, 560\)"):
        data.load("freyface", tmp_path)
    path.unlink()
    pytest.importorskip("scipy")
    (tmp_path / "frey_rawface.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"frey_rawface\.mat is truncated"):
        data.load("freyface", tmp_path)


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
