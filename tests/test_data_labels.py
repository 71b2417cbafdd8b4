"""Labels: those of the data points, where they are known, and none needed where they are not."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_data import idx

from aevb_ext import data
from aevb_ext.configuration.datasets import KNOWN

real_data = pytest.mark.skipif("AEVB_DATA_DIR" not in os.environ, reason="AEVB_DATA_DIR does not name the real data")


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """MNIST's files, of 60000 + 3 pictures whose pixel says what their label is; a function that leaves some out."""
    labels = np.random.RandomState(0).randint(0, 10, 60003).astype(np.uint8)
    contents = {
        "train-images-idx3-ubyte.gz": idx(labels[:60000, None, None]),
        "t10k-images-idx3-ubyte.gz": idx(labels[60000:, None, None]),
        "train-labels-idx1-ubyte.gz": idx(labels[:60000]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[60000:]),
    }
    known = KNOWN["mnist"]

    def of_these(files):
        return tuple(
            replace(f, checksum=f"md5:{hashlib.md5(contents[f.name]).hexdigest()}") for f in files if f.name in contents
        )

    monkeypatch.setitem(KNOWN, "mnist", replace(known, files=of_these(known.files), labels=of_these(known.labels)))

    def load(without=(), **options):
        for name, content in contents.items():
            (tmp_path / name).unlink(missing_ok=True)
            if name not in without:
                (tmp_path / name).write_bytes(content)
        return data.load("mnist", tmp_path, **options)

    return load


def test_each_picture_has_its_own_label(mnist):
    loaded = mnist()
    for split, count in (("train", 50000), ("valid", 10000), ("test", 3)):
        x, labels = loaded.split(split)
        assert labels.dtype == torch.int64 and labels.shape == (count,)
        assert torch.equal(x[:, 0].long(), labels)


def test_labels_are_not_needed(mnist):
    loaded = mnist(without=("train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"))
    assert loaded.train_labels is None and loaded.valid_labels is None and loaded.test_labels is None
    # Each file for itself.
    loaded = mnist(without=("train-labels-idx1-ubyte.gz",))
    assert loaded.train_labels is None and loaded.valid_labels is None and len(loaded.test_labels) == 3


def test_labels_that_are_others_are_refused(mnist, tmp_path):
    mnist()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(ValueError, match=r"t10k-labels.*: its md5 is .*, expected "):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_labels_stay_through_what_is_done_to_data(mnist, binarize):
    loaded = mnist(binarize=binarize, x_scale=1 / 9).to("cpu")
    for split in ("train", "valid", "test"):
        assert torch.equal(loaded.split(split)[1], getattr(mnist(), f"{split}_labels"))


def test_labels_of_the_digits_are_those_of_the_pictures():
    digits = data.load("digits")
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    expected = {
        image.astype(np.uint8).tobytes(): label for image, label in zip(sklearn.images, sklearn.target, strict=True)
    }
    for split in ("train", "test"):
        x, labels = digits.split(split)
        counts = x.reshape(-1, 8, 4, 8, 4)[:, :, 0, :, 0].contiguous()
        assert [expected[image.numpy().tobytes()] for image in counts] == labels.tolist()


def test_digits_of_a_label_look_alike():
    # Chance is 0.1: what is nearest to a picture of the test has its label.
    digits = data.load("digits")
    nearest = torch.cdist(digits.test.float(), digits.train.float()).argmin(1)
    assert (digits.train_labels[nearest] == digits.test_labels).float().mean() > 0.95


def test_a_split_without_labels_or_with_others():
    digits = data.load("digits")
    assert replace(digits, test_labels=None).split("test")[1] is None
    with pytest.raises(ValueError, match="digits has no valid split"):
        digits.split("valid")
    with pytest.raises(ValueError, match="split must be one of train, test, valid, got 'tset'"):
        digits.split("tset")
    with pytest.raises(ValueError, match=r"train_labels of shape \[1500\] for 10 data points"):
        replace(digits, train=digits.train[:10]).split("train")


@real_data
def test_labels_of_mnist():
    mnist = data.load("mnist", os.environ["AEVB_DATA_DIR"])
    # How many there are of each digit in the 60000 and in the 10000, as their authors count them.
    train = torch.cat([mnist.train_labels, mnist.valid_labels]).bincount()
    assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
