"""Users' data: arrays in files, folders of images, torch Datasets; in memory or left in files."""

import io
import re
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from aevb_ext import data
from aevb_ext.noise import keys_at

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 3, 5), dtype=np.uint8)
DTYPES = ["bool", "uint8", "float16", "float32", "float64"]


def rows(split):
    """All of a split."""
    return data.first(split, len(split))


def whole(loaded):
    """All data points of data with a held-out test split, in the order that they had."""
    count = len(loaded.train) + len(loaded.test)
    test = np.sort(np.random.RandomState(0).permutation(count)[: len(loaded.test)])
    x = torch.empty(count, loaded.dim, dtype=rows(loaded.train).dtype)
    x[np.setdiff1d(np.arange(count), test)], x[test] = rows(loaded.train), rows(loaded.test)
    return x


def zip_of(path, arrays, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(name, content.getvalue())


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("event", [(6,), (3, 5), (1, 3, 5), (3, 5, 1), (3, 4, 5), (4, 5, 3), (2, 3, 4, 5)], ids=str)
def test_npy(tmp_path, event, dtype, resident_bytes):
    array = RNG.integers(0, 2 if dtype == "bool" else 200, (20, *event)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    loaded = data.load(tmp_path / "a.npy", resident_bytes=resident_bytes)
    assert len(loaded.train) == 18 and len(loaded.test) == 2 and loaded.name == str(tmp_path / "a.npy")
    assert loaded.x_scale == (1 / 255 if dtype == "uint8" else 1)
    picture = {(3, 5): (3, 5), (1, 3, 5): (3, 5), (3, 5, 1): (3, 5), (3, 4, 5): (3, 4, 5), (4, 5, 3): (3, 4, 5)}
    assert loaded.image_shape == picture.get(event)
    expected = array.transpose(0, 3, 1, 2) if event == (4, 5, 3) else array
    assert torch.equal(whole(loaded), torch.from_numpy(expected.reshape(20, -1).copy()))
    resident = data.rows_of(loaded.train).resident
    assert resident == (resident_bytes > 0) and data.rows_of(loaded.train).dtype == getattr(torch, dtype)


def test_npy_in_fortran_order(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(BYTES))
    assert torch.equal(whole(data.load(tmp_path / "a.npy")), torch.from_numpy(BYTES.reshape(20, 15)))
    with pytest.raises(ValueError, match=r"a\.npy is in Fortran order.*ascontiguousarray"):
        data.load(tmp_path / "a.npy", resident_bytes=0)


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save, resident_bytes):
    path = tmp_path / "a.npz"
    splits = {"train": BYTES[:12], "test": BYTES[12:17], "valid": BYTES[17:]}
    save(path, labels=np.arange(12), **splits)
    loaded = data.load(path, resident_bytes=resident_bytes)
    assert loaded.image_shape == (3, 5)
    for split, array in splits.items():
        found = getattr(loaded, split)
        assert torch.equal(rows(found), torch.from_numpy(array.reshape(len(array), -1)))
        assert isinstance(found, data.StoredRows) == (save is np.savez and resident_bytes == 0)
    save(path, BYTES.astype("float32"))
    assert torch.equal(whole(data.load(path, resident_bytes=resident_bytes)), torch.tensor(BYTES.reshape(20, -1) * 1.0))
    save(path, mean=BYTES, logvar=BYTES)
    with pytest.raises(ValueError, match=r"a\.npz has the arrays mean, logvar; expected one, or train and.*array="):
        data.load(path)


@pytest.mark.parametrize("start", range(8))
def test_numbers_in_a_zip_file_may_begin_anywhere(tmp_path, start):
    array = RNG.standard_normal((6, 4))
    zip_of(tmp_path / "a.npz", {"x" * (start + 1) + ".npy": array})
    assert torch.equal(whole(data.load(tmp_path / "a.npz", resident_bytes=0)), torch.from_numpy(array))


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
@pytest.mark.parametrize(
    "array, complaint",
    [
        (np.array([{}, {}], dtype=object), "holds Python objects, which are not read"),
        (np.zeros((4, 2), np.complex64), "is of <c8, expected bool, an integer dtype, float16"),
        (np.zeros((4, 2), "U3"), "is of <U3, expected"),
        (np.zeros((4, 2), np.longdouble), "is of <f16, expected"),
        (np.zeros((4, 2), [("a", "f4")]), "is of .V4, expected"),
        (np.zeros((4, 2), "M8[s]"), "is of <M8.s., expected"),
        (np.zeros(4, np.float32), r"has shape \(4,\), expected \[N, \*event\]"),
        (np.zeros((0, 4), np.float32), r"has shape \(0, 4\), expected"),
        (np.zeros((1, 4), np.float32), "at least two data points to hold one out"),
    ],
)
def test_arrays_that_are_no_data_are_refused(tmp_path, array, complaint, resident_bytes):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    for file in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=complaint) as error:
            data.load(tmp_path / file, resident_bytes=resident_bytes)
        assert file in str(error.value)


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
def test_the_first_of_the_training_points(tmp_path, resident_bytes):
    np.savez(tmp_path / "a.npz", train=BYTES[:12], test=BYTES[12:])
    loaded = data.load(tmp_path / "a.npz", train_count=5, resident_bytes=resident_bytes)
    assert torch.equal(rows(loaded.train), torch.from_numpy(BYTES[:5].reshape(5, -1)))
    assert len(loaded.test) == 8 and loaded.source["train_count"] == 5
    for count in (0, 13, 2.5):
        with pytest.raises(ValueError, match=f"train_count must be an integer between 1 and 12, got {count}"):
            data.load(tmp_path / "a.npz", train_count=count)
    assert torch.equal(data.load("digits", train_count=7).train_labels, data.load("digits").train_labels[:7])


def test_numbers_that_are_not_finite_are_named(tmp_path):
    array = np.zeros((6, 4), np.float32)
    array[4, 1], array[5, 0] = np.inf, np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a\.npy: data point 4 has a number that is not finite"):
        data.load(tmp_path / "a.npy")


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
def test_damaged_files_are_refused(tmp_path, resident_bytes):
    np.save(tmp_path / "a.npy", BYTES)
    np.savez(tmp_path / "a.npz", BYTES)
    np.savez_compressed(tmp_path / "b.npz", BYTES)
    for file in ("a.npy", "a.npz", "b.npz"):
        content = (tmp_path / file).read_bytes()
        for size in (0, 5, 40, len(content) - 1):
            (tmp_path / file).write_bytes(content[:size])
            with pytest.raises(ValueError, match=re.escape(str(tmp_path / file)) + ".*truncated"):
                data.load(tmp_path / file, resident_bytes=resident_bytes)
    (tmp_path / "b.npz").write_bytes(content[:150] + bytes([content[150] ^ 1]) + content[151:])
    with pytest.raises(ValueError, match=r"b\.npz: arr_0\.npy is truncated, damaged"):
        data.load(tmp_path / "b.npz", resident_bytes=resident_bytes)
    # A header that promises more than there is: neither memory nor another member's bytes are taken for it.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 3, 5)})
    (tmp_path / "a.npy").write_bytes(header.getvalue() + BYTES.tobytes())
    with pytest.raises(ValueError, match="truncated: it has 300 bytes of data, its header promises 16888"):
        data.load(tmp_path / "a.npy", resident_bytes=resident_bytes)


def test_splits_must_be_alike(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.zeros((4, 6)), test=np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"a\.npz: data points differ in shape.*'test': \(5,\)"):
        data.load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", train=np.zeros((4, 6)), test=np.zeros((2, 6), np.uint8))
    with pytest.raises(ValueError, match=r"differ from split to split: train: torch.float64 \[6\], test: torch.uint8"):
        data.load(tmp_path / "a.npz")


def test_paths_that_are_no_data_are_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"there is no .*b\.npy: expected a folder of images"):
        data.load(tmp_path / "b.npy")
    with pytest.raises(ValueError, match=r"a\.txt is neither a folder"):
        data.load(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="has no images"):
        data.load(tmp_path)


def test_the_held_out_split(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(50.0).reshape(50, 1))
    for fraction, count in [(0.1, 5), (0.5, 25), (1e-9, 1), (1 - 1e-9, 49)]:
        loaded = data.load(tmp_path / "a.npy", test_fraction=fraction)
        train, test = loaded.train.flatten().tolist(), loaded.test.flatten().tolist()
        assert len(test) == count and sorted(train + test) == list(range(50))
        assert train == sorted(train) and test == sorted(test)
        stored = data.load(tmp_path / "a.npy", test_fraction=fraction, resident_bytes=0)
        assert torch.equal(rows(stored.test), loaded.test) and torch.equal(rows(stored.train), loaded.train)
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="test_fraction must lie between 0 and 1"):
            data.load(tmp_path / "a.npy", test_fraction=fraction)


def test_the_largest_files_are_not_read(tmp_path):
    """5 GB on paper; the file system keeps what was written alone."""
    count, width = 50_000, 100_000
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, width)})
        start = file.tell()
        file.truncate(start + count * width)
        for i in (3, count - 1):
            file.seek(start + i * width)
            file.write(bytes([7] * width))
    before = anonymous_memory()
    loaded = data.load(tmp_path / "a.npy")
    assert len(loaded.train) == 45_000 and loaded.dim == width and not loaded.train.resident
    index = torch.searchsorted(loaded.train.index, torch.tensor([3, 4, 25_000, count - 1]))
    assert torch.equal(loaded.train.index[index][[0, 3]], torch.tensor([3, count - 1]))
    sums = [x.sum(1).tolist() for x in data.prefetch(loaded.train, [index[:2], index[2:]])]
    assert sums == [[7 * width, 0], [0, 7 * width]]
    assert anonymous_memory() - before < 50e6


def anonymous_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def save_pictures(folder, pictures, ending=".png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:03}{ending}", **options)


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the files"])
def test_a_folder_of_images(tmp_path, resident_bytes):
    save_pictures(tmp_path / "b" / "nested", BYTES[15:], ".bmp")
    save_pictures(tmp_path / "a", BYTES[:15])
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "._000.png").write_bytes(b"what another system leaves")
    loaded = data.load(tmp_path, resident_bytes=resident_bytes)
    assert loaded.image_shape == (3, 5) and loaded.x_scale == 1 / 255 and loaded.name == str(tmp_path)
    assert data.rows_of(loaded.train).resident == (resident_bytes > 0)
    assert torch.equal(whole(loaded), torch.from_numpy(BYTES.reshape(20, 15)))


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the files"])
def test_a_folder_of_colours_and_of_splits(tmp_path, resident_bytes):
    colours = RNG.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8)
    for split, part in {"train": colours[:6], "test": colours[6:8], "valid": colours[8:]}.items():
        save_pictures(tmp_path / split, part)
    loaded = data.load(tmp_path, colour=True, resident_bytes=resident_bytes)
    assert loaded.image_shape == (3, 4, 5)
    found = torch.cat([rows(split) for split in (loaded.train, loaded.test, loaded.valid)])
    assert torch.equal(found.reshape(9, 3, 4, 5), torch.from_numpy(colours).movedim(-1, 1))
    grey = data.load(tmp_path, resident_bytes=resident_bytes)
    # ITU-R 601-2 luma, as Pillow's documentation has it.
    luma = colours @ np.array([299, 587, 114]) / 1000
    assert grey.image_shape == (4, 5) and np.abs(rows(grey.train).reshape(6, 4, 5).numpy() - luma[:6]).max() <= 1


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the files"])
def test_images_that_are_no_data_are_refused(tmp_path, resident_bytes):
    save_pictures(tmp_path, BYTES)

    def complaint():
        with pytest.raises(ValueError) as error:
            rows(data.load(tmp_path, resident_bytes=resident_bytes).train)
        return str(error.value)

    path = tmp_path / "007.png"
    whole = path.read_bytes()
    Image.fromarray(BYTES[7].T.copy()).save(path)
    assert re.search(r"007\.png is 3 pixels wide and 5 high, the first image 5 and 3", complaint())
    path.write_bytes(b"\x89PNG")
    assert "007.png is truncated, damaged or not an image" in complaint()
    path.write_bytes(whole[: whole.index(b"IDAT") + 6])
    assert "007.png is truncated, damaged or not an image" in complaint()
    path.unlink()
    Image.fromarray(BYTES[7].astype(np.float32)).save(tmp_path / "007.tif")
    assert re.search(r"007\.tif has values that are not pixels of 8 or 16 bits \(mode F\)", complaint())


class Items(Dataset):
    """A Dataset of the given items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@pytest.mark.parametrize("kind", ["tensors", "tuples", "arrays", "pictures of one colour"])
def test_a_torch_dataset(kind):
    x = torch.from_numpy(BYTES)
    items = {
        "tensors": Items(x),
        "tuples": TensorDataset(x, torch.arange(20)),
        "arrays": Items(BYTES),
        "pictures of one colour": Subset(Items(x[:, None]), range(20)),
    }[kind]
    loaded = data.from_dataset(items)
    assert loaded.image_shape == (3, 5) and loaded.x_scale == 1 / 255 and loaded.name == type(items).__name__
    assert torch.equal(whole(loaded), x.flatten(1)) and not loaded.train.resident
    split = data.from_dataset(Subset(items, range(5)), Subset(items, [7]), name="mine", x_scale=1.0)
    assert torch.equal(rows(split.test), x[7:8].flatten(1)) and (split.name, split.x_scale) == ("mine", 1)
    assert split.valid is None and len(split.train) == 5
    assert torch.equal(split.train.gather(torch.tensor([3, 0, 3])), x[[3, 0, 3]].flatten(1))


def test_datasets_that_are_no_data_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3)

    for dataset, error, complaint in [
        (Stream(), TypeError, r"must have len\(\) and items by number .* got Stream"),
        (Items([]), ValueError, "at least one item"),
        (Items([torch.zeros(3, dtype=torch.int64) - 1] * 3), ValueError, r"train\[0\] has integers from -1 to -1"),
        (Items([torch.zeros(3, dtype=torch.complex64)] * 3), ValueError, r"train\[0\] is of torch.complex64"),
        (Items([Image.new("L", (3, 3))] * 3), TypeError, r"train\[0\] is Image, expected a tensor"),
        (Items([torch.zeros(3), torch.zeros(4)] * 9), ValueError, r"train\[1\] is torch.float32 of shape \[4\]"),
        (Items([torch.zeros(3), torch.zeros(3).double()] * 9), ValueError, r"train\[1\] is torch.float64"),
    ]:
        with pytest.raises(error, match=complaint):
            loaded = data.from_dataset(dataset)
            loaded.train.rows.gather(torch.tensor([0, 1]))


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
def test_binarize(tmp_path, resident_bytes):
    np.save(tmp_path / "a.npy", BYTES)
    half = data.load(tmp_path / "a.npy", binarize="threshold", resident_bytes=resident_bytes)
    assert isinstance(half.train, data.BitRows) and half.x_scale == 1 and half.image_shape == (3, 5)
    assert torch.equal(whole(half), torch.from_numpy(BYTES.reshape(20, 15) >= 128).to(torch.uint8))
    drawn = data.load(tmp_path / "a.npy", binarize="dynamic", resident_bytes=resident_bytes)
    assert drawn.x_scale == 1 and drawn.train.resident == (resident_bytes > 0)
    p = rows(data.load(tmp_path / "a.npy").train).double() / 255
    n = 400
    keys = [keys_at(0, "binarize", torch.arange(18) + e * 18) for e in range(n)]
    x = torch.stack([drawn.train.gather(torch.arange(18), key) for key in keys]).double()
    # Sums of 6000 draws: each of the 18 is further off than 5 standard deviations with probability 6e-7.
    assert ((x.mean(0) - p).sum(1).abs() <= 5 * ((p * (1 - p)).sum(1) / n).sqrt()).all()


def test_what_is_no_probability_is_not_binarized(tmp_path):
    np.save(tmp_path / "a.npy", BYTES.astype("float32"))
    for how in data.BINARIZE:
        for resident_bytes in (0, 1 << 20):
            with pytest.raises(ValueError, match=r"a\.npy: train \* x_scale has values in .*expected probabilities"):
                data.load(tmp_path / "a.npy", binarize=how, resident_bytes=resident_bytes)
        data.load(tmp_path / "a.npy", binarize=how, x_scale=1 / 255)
    with pytest.raises(ValueError, match="binarize must be None or one of dynamic, threshold, got 'often'"):
        data.load("digits", binarize="often")
    digits = data.load("digits", binarize="dynamic")
    assert digits.x_scale == 1 and len(digits.train) == 1500
