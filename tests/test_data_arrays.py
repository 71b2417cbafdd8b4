"""Users' arrays: the names by which they are found, their values, and their labels."""

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from test_data_files import Items, rows
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, random_split

from aevb_ext import data

X = np.random.RandomState(0).randint(0, 256, (12, 3, 5)).astype(np.uint8)
X[:, 0, 0] = np.arange(244, 256)
Y = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
both = pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])


def savez(path, **arrays):
    """np.savez of arrays by names that a keyword may not be."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, np.asarray(array))
            archive.writestr(f"{name}.npy", content.getvalue())
    return path


def places(split):
    """Which points of X they are."""
    return (rows(split)[:, 0].int() - 244).tolist()


@both
@pytest.mark.parametrize(
    "points, labels",
    [
        (("train", "test", "valid"), ("train_labels", "test_labels", "valid_labels")),
        (("train_images", "test_images", "val_images"), ("train_labels", "test_labels", "val_labels")),
        (("x_train", "x_test", "x_val"), ("y_train", "y_test", "y_val")),
        (("X_train", "X_test", "X_valid"), ("Y_train", "Y_test", "Y_valid")),
        (("train_x", "test_x", "validation_x"), ("train_y", "test_y", "validation_y")),
        (("training-data", "testing-data", "validation-data"), ("training-targets", "testing-targets", "val-targets")),
    ],
    ids=lambda names: names[0],
)
def test_arrays_by_what_others_call_them(tmp_path, points, labels, resident_bytes):
    parts = [slice(0, 6), slice(6, 9), slice(9, 12)]
    arrays = {name: X[part] for name, part in zip(points, parts, strict=True)}
    arrays |= {name: Y[part] for name, part in zip(labels, parts, strict=True)}
    loaded = data.load(savez(tmp_path / "a.npz", info=np.zeros(3), **arrays), resident_bytes=resident_bytes)
    for split, part in zip(("train", "test", "valid"), parts, strict=True):
        x, found = loaded.split(split)
        assert torch.equal(rows(x), torch.from_numpy(X[part].reshape(-1, 15)))
        assert found.dtype == torch.int64 and found.tolist() == Y[part].tolist()
    assert f"train 6 ({points[0]}), test 3 ({points[1]}), valid 3 ({points[2]})" in loaded.description
    assert loaded.description.endswith("skipped: info") and loaded.image_shape == (3, 5)


@pytest.mark.parametrize(
    "names, options",
    [
        (("images", "labels"), {}),
        (("image", "label"), {}),
        (("x", "y"), {}),
        (("X", "Y"), {}),
        (("data", "target"), {}),
        (("train", "labels"), {}),
        (("faces", "labels"), {}),
        (("faces", "labels"), {"array": "faces"}),
        (("images", "train_labels"), {"array": "images"}),
    ],
    ids=lambda value: "-".join(value),
)
def test_one_array_and_its_labels_are_held_out_together(tmp_path, names, options):
    loaded = data.load(
        savez(tmp_path / "a.npz", **dict(zip(names, (X, Y), strict=True))), **options, test_fraction=0.25
    )
    assert len(loaded.train) == 9 and len(loaded.test) == 3
    for split in ("train", "test"):
        x, labels = loaded.split(split)
        assert labels.tolist() == Y[places(x)].tolist()
    assert loaded.source.get("array") == options.get("array")


@pytest.mark.parametrize(
    "names, options, complaint",
    [
        (["mean", "logvar"], {}, r"a\.npz has the arrays mean, logvar; expected one, .*\(array="),
        (["x_test", "y_test", "z"], {}, "expected one, or train"),
        (["labels", "y"], {}, "expected one, or train"),
        (["x", "images"], {}, "x and images mean the same by their names: keep one, or .*array="),
        (["train", "x_train"], {}, "train and x_train mean the same by their names"),
        (["val", "train", "validation"], {}, "val and validation mean the same by their names"),
        (["x", "y", "labels"], {}, "y and labels mean the same by their names"),
        (["x", "z"], {"array": "w"}, r"array must be one of x, z, which .*a\.npz has, got 'w'"),
        (["x"], {"array": 3}, r"array must be a name, got 3"),
        ([], {}, r"has the arrays \(none\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_arrays_that_may_be_either_are_refused(tmp_path, names, options, complaint):
    path = savez(tmp_path / "a.npz", **{name: X for name in names})
    with pytest.raises((ValueError, TypeError), match=complaint):
        data.load(path, **options)


def test_two_members_of_one_name_are_refused_and_hidden_ones_skipped(tmp_path):
    path = savez(tmp_path / "a.npz", **{"x": X, "__MACOSX/._x": Y, "folder/": Y})
    assert len(data.load(path).train) == 11
    savez(path, **{"x": X, "more/x": X})
    with pytest.raises(ValueError, match=r"a\.npz has two arrays x: x\.npy and more/x\.npy"):
        data.load(path)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (Y.astype(np.uint8), Y),
        (Y.astype(">i4"), Y),
        (Y.astype(np.float64), Y),
        (Y[:, None].astype(np.uint8), Y),
        (Y - 100, Y - 100),
        (Y > 4, Y > 4),
        (np.eye(10)[Y], Y),
        (np.eye(10, dtype=bool)[Y], Y),
    ],
    ids=["uint8", "big-endian", "float", "column", "negative", "bool", "one-hot", "one-hot bool"],
)
def test_labels_are_whole_numbers(tmp_path, labels, expected):
    loaded = data.load(savez(tmp_path / "a.npz", x=X, y=labels))
    for split in ("train", "test"):
        x, found = loaded.split(split)
        assert found.dtype == torch.int64 and found.tolist() == expected[places(x)].astype(int).tolist()
    assert loaded.classes is None


def test_labels_that_are_names(tmp_path):
    kinds = np.array(["owl", "cat", "dog"])
    for names in (kinds[Y % 3], np.char.encode(kinds[Y % 3])):
        loaded = data.load(savez(tmp_path / "a.npz", x=X, y=names))
        assert loaded.classes == ("cat", "dog", "owl")
        for split in ("train", "test"):
            x, found = loaded.split(split)
            assert [loaded.classes[i] for i in found] == kinds[Y % 3][places(x)].tolist()
        assert "labels of train: 3 classes (0 cat, 1 dog, 2 owl)" in loaded.description


@pytest.mark.parametrize(
    "labels, told",
    [
        (Y + 0.5, r"y\.npy is not one label per data point: it is of float64, and not all whole numbers"),
        (np.full(12, np.nan), "is of float64, and not all whole numbers"),
        (np.full(12, 1e300), "is of float64, and not all whole numbers"),
        (np.full(12, 2**64 - 1, np.uint64), "is of uint64, and not all whole numbers"),
        (np.ones((12, 4)), r"it has shape \[12, 4\]"),
        (np.zeros((12, 2, 2), int), r"it has shape \[12, 2, 2\]"),
        (Y.astype("M8[s]"), "is of datetime64"),
    ],
    ids=["halves", "nan", "huge", "uint64", "many", "matrices", "times"],
)
def test_what_is_no_label_is_told_and_left_out(tmp_path, labels, told):
    loaded = data.load(savez(tmp_path / "a.npz", x=X, y=labels))
    assert loaded.train_labels is None and loaded.test_labels is None and re.search(told, loaded.description)


@pytest.mark.parametrize("labels", [Y[:11], np.append(Y, 0), Y[:0], np.array(3), np.eye(10)[Y[:5]]])
def test_labels_of_another_length_are_refused(tmp_path, labels):
    count = len(labels) if labels.ndim else 0
    for names in (("x", "y"), ("x_train", "y_train")):
        path = savez(tmp_path / "a.npz", **dict(zip(names, (X, labels), strict=True)))
        with pytest.raises(ValueError, match=rf"a\.npz: y.*\.npy has {count} labels for the 12 data points of train"):
            data.load(path)


@both
@pytest.mark.parametrize(
    "dtype", ["i1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", "<i8", ">i8", "<u8", ">u8", "u1"]
)
def test_integers_are_bytes_where_they_fit(tmp_path, dtype, resident_bytes):
    high = 127 if dtype == "i1" else 255
    array = (X.astype(int) * high // 255).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    loaded = data.load(tmp_path / "a.npy", resident_bytes=resident_bytes)
    found = torch.cat([rows(loaded.train), rows(loaded.test)])
    assert found.dtype == torch.uint8 and loaded.x_scale == 1 / 255
    order = np.argsort(np.append(*[np.array(places(s)) for s in (loaded.train, loaded.test)])) if high == 255 else None
    if order is not None:
        assert np.array_equal(found.numpy()[order], X.reshape(12, 15))
    else:
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, array.reshape(12, 15).tolist()))
    if dtype == "u1":
        return
    array[3, 1, 1] = -1 if dtype[-2] == "i" else 256
    np.save(tmp_path / "a.npy", array)
    expected = r"a\.npy has integers from .* \(u?int\d+\), and integers are read as bytes, from 0 to 255: save it as"
    with pytest.raises(ValueError, match=expected):
        loaded = data.load(tmp_path / "a.npy", resident_bytes=resident_bytes)
        rows(loaded.train), rows(loaded.test)


def test_what_is_told_to_be_typed_works(tmp_path):
    for array in (X.astype(np.uint16) * 257, X.astype(np.int16) - 300):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError) as error:
            data.load(tmp_path / "a.npy")
        formula = re.search(r"save it as floats, (.*), or as bytes", str(error.value)).group(1)
        np.save(tmp_path / "a.npy", eval(formula))
        loaded = data.load(tmp_path / "a.npy")
        assert rows(loaded.train).dtype == torch.float32 and loaded.x_scale == 1
        every = torch.cat([loaded.train, loaded.test])
        assert every.min() >= 0 and every.max() == 1


@both
@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "<f4"])
def test_floats_in_either_order_of_bytes(tmp_path, dtype, resident_bytes):
    array = np.random.RandomState(1).standard_normal((12, 4)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    loaded = data.load(tmp_path / "a.npy", test_fraction=0.25, resident_bytes=resident_bytes)
    x = torch.cat([rows(loaded.train), rows(loaded.test)])
    assert x.dtype == {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}[dtype[1:]]
    native = array.astype(array.dtype.newbyteorder("="))
    assert torch.equal(x[x[:, 0].argsort()], torch.from_numpy(native[native[:, 0].argsort()]))


def test_booleans_that_are_others_are_damage(tmp_path):
    array = np.ones((4, 3), np.uint8)
    array[2, 1] = 7
    np.save(tmp_path / "a.npy", array.view(bool))
    for resident_bytes in (0, 1 << 20):
        with pytest.raises(ValueError, match=r"a\.npy is damaged: booleans are bytes"):
            loaded = data.load(tmp_path / "a.npy", resident_bytes=resident_bytes)
            rows(loaded.train), rows(loaded.test)


def test_bytes_that_are_not_of_255_steps_are_told(tmp_path):
    for high, told in ((1, "1"), (16, "0.0625"), (63, "0.015873"), (64, None), (0, None)):
        np.save(tmp_path / "a.npy", np.full((4, 3), high, np.int64))
        description = data.load(tmp_path / "a.npy").description
        assert ("no byte of train is above" in description) == (told is not None)
        assert told is None or description.endswith(f"if {high} is white, x_scale is {told}")
    np.save(tmp_path / "a.npy", np.ones((4, 3), np.uint8))
    assert "no byte" not in data.load(tmp_path / "a.npy", x_scale=1.0).description


@both
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "shape, image_shape", [((28, 20), (28, 20)), ((3, 4, 5), (3, 4, 5)), ((4, 5, 3), (3, 4, 5)), ((1, 6, 7), (6, 7))]
)
def test_rows_that_are_pictures(tmp_path, shape, image_shape, order, resident_bytes):
    pictures = np.random.RandomState(2).randint(0, 256, (12, *shape)).astype(np.uint8)
    flat = pictures.reshape(12, -1)
    np.save(tmp_path / "a.npy", np.asarray(flat, order=order))
    np.save(tmp_path / "b.npy", pictures)
    if order == "F" and resident_bytes == 0:
        with pytest.raises(ValueError, match="Fortran order"):
            data.load(tmp_path / "a.npy", image_shape=shape, resident_bytes=0)
        return
    given, own = (
        data.load(tmp_path / name, image_shape=how, resident_bytes=resident_bytes)
        for name, how in (("a.npy", shape), ("b.npy", None))
    )
    assert given.image_shape == own.image_shape == image_shape
    assert torch.equal(rows(given.train), rows(own.train)) and torch.equal(rows(given.test), rows(own.test))
    assert given.source["image_shape"] == list(shape)
    assert data.load(tmp_path / "a.npy").image_shape is None
    again = data.load(given.source.pop("data"), **given.source)
    assert again.image_shape == image_shape


@pytest.mark.parametrize(
    "image_shape, error, complaint",
    [
        (
            (5, 5),
            ValueError,
            r"image_shape must have as .* of .*a\.npy, 15 \(shape \[12, 15\]\), got 5x5",
        ),
        ((15,), ValueError, r"image_shape must be \(height, width\), .* got \(15,\)"),
        ((5, 1, 3, 1), ValueError, "image_shape must be"),
        ((-3, -5), ValueError, "image_shape must be"),
        ("3x5", TypeError, "image_shape must be .* got '3x5'"),
        (15, TypeError, "image_shape must be .* got 15"),
        ((3.0, 5), TypeError, "image_shape must be .* got a tuple of 3.0, 5"),
    ],
)
def test_shapes_that_pictures_cannot_have(tmp_path, image_shape, error, complaint):
    np.save(tmp_path / "a.npy", X.reshape(12, 15))
    with pytest.raises(error, match=complaint):
        data.load(tmp_path / "a.npy", image_shape=image_shape)


@pytest.mark.parametrize("name", ["data", "data_dir"])
@pytest.mark.parametrize(
    "value, told",
    [
        (["a"], "a list of 'a'"),
        (("a", 2), "a tuple of 'a', 2"),
        (42, "42"),
        (b"a", "bytes"),
        ({}, "dict"),
        (np.array(["a"]), "ndarray"),
        (torch.zeros(2), r"a tensor of float32, shape \[2\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_path(name, value, told):
    with pytest.raises(TypeError, match=rf"^{name} must be a .*path.*, got {told}$"):
        data.load(*([value] if name == "data" else ["mnist", value]))


def test_what_is_no_name_and_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"^data must be a name or a path .*, got None"):
        data.load(None)
    for text in ("", " ", "cifar"):
        with pytest.raises(ValueError, match=f"data must be the path of .*, or one of digits, .* got '{text}'"):
            data.load(text)
    for options, complaint in [
        ({"x_scale": "1"}, "x_scale must be a number, got '1'"),
        ({"test_fraction": None}, "test_fraction must be a number, got None"),
        ({"resident_bytes": "1"}, "resident_bytes must be a number, got '1'"),
        ({"binarize": ["dynamic"]}, r"binarize must be None or one of dynamic, threshold, got \['dynamic'\]"),
        ({"train_count": "3"}, "train_count must be an integer between 1 and 1500, got '3'"),
        ({"image_shape": (8, 8)}, r"image_shape must be left out for digits: .* files \(.npy, .npz\), got \(8, 8\)"),
        ({"array": "x"}, r"array must be left out for digits: .* files \(.npy, .npz\), got 'x'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=complaint):
            data.load("digits", **options)
    np.save("a.npy", X)
    with pytest.raises(
        ValueError, match=r"array must be left out for a\.npy: it names an array of a \.npz file, got 'x'"
    ):
        data.load("a.npy", array="x")


class Pairs(Dataset):
    """Asked for items, it counts."""

    def __init__(self, points, labels):
        self.points, self.labels, self.asked = points, labels, 0

    def __len__(self):
        return len(self.points)

    def __getitem__(self, i):
        self.asked += 1
        return self.points[i], self.labels[i]


@pytest.mark.parametrize(
    "labels",
    [Y.tolist(), Y, torch.from_numpy(Y), torch.from_numpy(Y).to(torch.uint8), Y[:, None], (Y > 4).tolist()],
    ids=["ints", "numpy", "tensors", "bytes", "columns", "bools"],
)
def test_second_entries_of_a_dataset_are_labels(labels):
    expected = np.asarray(labels).reshape(-1).astype(int)
    loaded = data.from_dataset(Pairs(X, labels), test_fraction=0.25)
    assert len(loaded.train) == 9
    for split in ("train", "test"):
        x, found = loaded.split(split)
        assert found.dtype == torch.int64 and found.tolist() == expected[places(x)].tolist()
    test = Pairs(X[:5], labels[:5])
    assert data.from_dataset(Items(X), test).test_labels.tolist() == expected[:5].tolist()


def test_a_tensor_dataset_has_its_labels_at_hand(monkeypatch):
    points, labels = torch.from_numpy(X), torch.from_numpy(Y)
    asked = []
    original = TensorDataset.__getitem__
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda self, i: asked.append(i) or original(self, i))
    train, test = random_split(TensorDataset(points, labels), [8, 4], torch.Generator().manual_seed(0))
    loaded = data.from_dataset(train, test)
    assert len(asked) <= 4
    for split in ("train", "test"):
        x, found = loaded.split(split)
        assert found.tolist() == Y[places(x)].tolist()
    inner = data.from_dataset(Subset(Subset(TensorDataset(points, labels), range(2, 12)), [3, 0, 1]), test)
    assert inner.train_labels.tolist() == Y[[5, 2, 3]].tolist()


@pytest.mark.parametrize("second", [0.5, "cat", {"box": 1}, None, np.zeros(3), torch.zeros(2), torch.tensor(0.5)])
def test_second_entries_that_are_no_labels_are_left_out(second):
    dataset = Pairs(X, [second] * 12)
    loaded = data.from_dataset(dataset)
    assert loaded.train_labels is None and loaded.test_labels is None and dataset.asked <= 4
    with pytest.raises(ValueError, match=r"train\[7\] has no whole number as its second entry, and train\[0\] has"):
        data.from_dataset(Pairs(X, [1] * 7 + [second] * 5))


class NoLength(Dataset):
    def __getitem__(self, i):
        return torch.zeros(3)


class Raises(NoLength):
    def __len__(self):
        raise TypeError("no")


class NoItems(IterableDataset):
    def __len__(self):
        return 4

    def __iter__(self):
        return iter(torch.zeros(4, 3))


@pytest.mark.parametrize(
    "dataset, error, complaint",
    [
        (NoLength(), TypeError, r"must have len\(\) and items by number .*, got NoLength"),
        (Raises(), TypeError, r"must have len\(\) and items by number .*, got Raises"),
        (NoItems(), TypeError, r"must have len\(\) and items by number .*, got NoItems"),
        (42, TypeError, r"must have len\(\) and items by number .*, got int"),
        ("a.npy", TypeError, r"\[0\] is str, expected a tensor"),
        ({"a": torch.zeros(3)}, TypeError, "must have items by number, and .*0. raised KeyError: 0"),
        ([], ValueError, "must have at least one item, got none"),
        ([{"image": torch.zeros(3)}] * 4, TypeError, r"\[0\] is dict, expected a tensor"),
        ([()] * 4, TypeError, r"\[0\] is tuple, expected a tensor"),
        ([(3, 4)] * 4, TypeError, r"\[0\] is int, expected a tensor"),
        ([torch.zeros(0, 3)] * 4, ValueError, r"\[0\] has shape \[0, 3\], expected numbers"),
        ([torch.zeros(3).to_sparse()] * 4, ValueError, r"\[0\] is of torch.float32 \(torch.sparse_coo\), expected"),
        ([np.zeros(3, "U1")] * 4, ValueError, r"\[0\] is of <U1, expected"),
        ([np.array([1, 256])] * 4, ValueError, r"\[0\] has integers from 1 to 256 \(int64\)"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("split", ["train", "test", "valid"])
def test_datasets_are_refused_by_the_name_of_their_split(dataset, error, complaint, split):
    with pytest.raises(error, match=f"^{split}.*{complaint}"):
        data.from_dataset(**({"train": Items(torch.zeros(4, 3))} | {split: dataset}))


@pytest.mark.parametrize("at_once", [False, True])
def test_a_dataset_that_has_fewer_items_than_it_says(at_once):
    class Fewer(NoLength):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            return torch.zeros(7, 3)[i]

    if at_once:
        Fewer.__getitems__ = lambda self, numbers: [torch.zeros(3) for i in numbers if i < 7]
    rows = data.DatasetRows(Fewer())
    expected = "was asked for 3 items and gave 1" if at_once else r"has 9 items, and dataset\[7\] raised IndexError"
    with pytest.raises(ValueError, match=rf"^dataset .*{expected}"):
        rows.gather(torch.tensor([6, 7, 8]))


@both
def test_rows_in_a_file_are_copied_by_its_name(tmp_path, resident_bytes):
    np.savez(tmp_path / "a.npz", train=X.astype(">i2"), test=X)
    train = data.load(tmp_path / "a.npz", resident_bytes=resident_bytes).train
    copied = pickle.loads(pickle.dumps(train))
    assert torch.equal(rows(copied), rows(train)) and type(copied) is type(train)


def test_datasets_of_other_numbers():
    for array in (X.astype(">f4"), X.astype(np.uint16), X.astype(np.int64), X[:, ::-1]):
        loaded = data.from_dataset(Items(array), Items(array[:2]))
        expected = torch.from_numpy(np.ascontiguousarray(array).astype("f4" if array.dtype.kind == "f" else "u1"))
        assert torch.equal(rows(loaded.train), expected.flatten(1))
    loaded = data.from_dataset(Items(torch.from_numpy(X).to(torch.int32)), Items(X[:3]))
    assert rows(loaded.train).dtype == torch.uint8 and loaded.x_scale == 1 / 255
    with pytest.raises(
        ValueError, match=r"differ from split to split: train: torch.uint8 \[15\], test: torch.uint8 \[3\]"
    ):
        data.from_dataset(Items(X), Items(X[:, 0, :3]))
    with pytest.raises(ValueError, match="Items has one data point: expected at least two"):
        data.from_dataset(Items(X[:1]))
