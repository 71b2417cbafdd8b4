"""Folders of images: splits and classes are found, and each image is read as a viewer shows it."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch

from aevb_ext import data

pytestmark = pytest.mark.once("pictures are read by Python and Pillow")

Image, ExifTags = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ExifTags")

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (3, 5)).astype(np.uint8)
COLOURS = RNG.randint(0, 256, (3, 5, 3)).astype(np.uint8)


def put(root, *names, size=(4, 3), value=0):
    """Pictures of these names in root; each of its own grey, counted from value."""
    for i, name in enumerate(names, value):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 100 + i).save(path)


def greys(split):
    """The grey of each picture of a split."""
    rows = data.first(split, len(split))
    assert (rows == rows[:, :1]).all()
    return (rows[:, 0].int() - 100).tolist()


def loaded(root, **options):
    """What is loaded, with at least as many pictures as a split needs."""
    found = data.load(root, **options)
    assert sum(len(s) for s in (found.train, found.test, found.valid) if s is not None) > 0
    return found


def opened(folder, content, ending=".png", shape=(3, 5), colour=False):
    """The pixels that are loaded of a file of this content."""
    folder.mkdir(exist_ok=True)
    for name in ("0", "1"):
        (folder / f"{name}{ending}").write_bytes(content)
    found = data.load(folder, colour=colour)
    assert found.image_shape == ((3, *shape) if colour else shape)
    pixels = found.train.reshape(found.image_shape).numpy()
    stays = data.load(folder, colour=colour, resident_bytes=0)
    assert torch.equal(data.first(stays.train, 1), found.train) and stays.description == found.description
    return (np.moveaxis(pixels, 0, -1) if colour else pixels), found.description


def saved(image, kind="PNG", **options):
    content = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(content, kind, **options)
    return content.getvalue()


def png16(array, **chunks):
    """A PNG file of uint16 [height, width] or [height, width, 2, 3 or 4]: Pillow writes none in colours."""
    height, width, channels = *array.shape[:2], 1 if array.ndim == 2 else array.shape[2]
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(lines), "IEND": b""}
    whole = b"\x89PNG\r\n\x1a\n"
    for name, content in parts.items():
        tagged = name.encode() + content
        whole += struct.pack(">I", len(content)) + tagged + struct.pack(">I", zlib.crc32(tagged))
    return whole


@pytest.mark.parametrize(
    "names, skipped",
    [
        (["a.png", ".a.png"], ".a.png"),
        (["a.png", ".ipynb_checkpoints/a-checkpoint.png"], ".ipynb_checkpoints"),
        (["x/a.png", "x/.git/b.png"], "x/.git"),
        (["a.png", "__MACOSX/._a.png", "__MACOSX/b.png"], "__MACOSX"),
        (["a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg"], "@eaDir"),
        (["a.png", "$RECYCLE.BIN/b.png"], "$RECYCLE.BIN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_hidden_is_no_data(tmp_path, names, skipped):
    put(tmp_path, *names)
    put(tmp_path / os.path.dirname(names[0]), "z.png", value=7)
    found = loaded(tmp_path)
    assert sorted(greys(found.train) + greys(found.test)) == [0, 7]
    assert found.description.endswith(f"skipped: {skipped}")


@pytest.mark.parametrize(
    "train, test, valid",
    [
        ("train", "test", "valid"),
        ("Train", "Test", "Valid"),
        ("TRAINING", "TESTING", "VALIDATION"),
        ("training", "testing", "val"),
        ("train", "Testing", "Val"),
        ("archive/train", "archive/test", "archive/val"),
        ("data/set/train", "data/set/test", "data/set/validation"),
    ],
)
def test_splits_by_what_others_call_them(tmp_path, train, test, valid):
    put(tmp_path, f"{train}/a.png", f"{train}/b.png", f"{test}/a.png", f"{valid}/a.png")
    found = loaded(tmp_path)
    assert [greys(split) for split in (found.train, found.test, found.valid)] == [[0, 1], [2], [3]]
    assert f"train 2 ({train}/), test 1 ({test}/), valid 1 ({valid}/)" in found.description
    assert "skipped" not in found.description


def test_a_split_for_validation_is_not_lost_where_the_test_is_held_out(tmp_path):
    put(tmp_path, *(f"train/{i}.png" for i in range(10)), "val/a.png")
    found = loaded(tmp_path)
    assert greys(found.valid) == [10] and len(found.train) == 9 and len(found.test) == 1
    assert "train 9 (train/), test 1 (held out of train: test_fraction 0.1), valid 1 (val/)" in found.description


@pytest.mark.parametrize(
    "names, complaint",
    [
        (["train/a.png", "Train/b.png"], "Train and train, each a train split: expected one"),
        (["train/a.png", "val/b.png", "validation/b.png"], "val and validation, each a valid split"),
        (["test/a.png", "b.png"], "the folder test, a test split, but no folder train"),
        (["val/a.png", "cat/b.png"], "the folder val, a valid split, but no folder train"),
        (["train/a.png", "test_images/b.png"], "test_images beside train: if it is a split, rename it to test"),
        (["seg_train/a.png", "seg_test/b.png"], "seg_test and seg_train, which would be mixed up"),
        (["trainset/a.png", "testSet/b.png"], "testSet and trainset, which would be mixed up"),
        (["cat/train/a.png", "cat/test/b.png", "dog/train/c.png"], "cat has the folders test and train, which would"),
        (["images/train/a.png", "images/val/b.png", "labels/x.txt.png"], "images has the folders train and val"),
        (["train/a.png", "test/readme.png.txt"], "test has no images"),
        (["notes.txt"], "has no images: no file in it, or in its folders, ends in .png"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_would_be_mixed_up_is_refused(tmp_path, names, complaint):
    for name in names:
        put(tmp_path, name) if name.endswith(".png") else (
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True),
            (tmp_path / name).touch(),
        )
    with pytest.raises(ValueError, match=complaint) as error:
        data.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_what_is_beside_the_splits_is_told(tmp_path):
    put(tmp_path, "train/a.png", "test/a.png", "b.png", "extra/c.png", "train/d.txt.png", "train/e/f.png")
    (tmp_path / "train" / "notes.txt").touch()
    found = loaded(tmp_path)
    assert greys(found.train) == [0, 4, 5] and greys(found.test) == [1]
    assert found.description.endswith("skipped: b.png, extra, train/notes.txt")
    for i in range(9):
        (tmp_path / f"{i}.csv").touch()
    assert data.load(tmp_path).description.endswith("skipped: 0.csv, 1.csv, 2.csv, 3.csv and 8 more")


@pytest.mark.parametrize("prefix", ["", "archive/", "train/", "train/train/"])
def test_folders_are_classes(tmp_path, prefix):
    names = [f"{prefix}{kind}/{i}.png" for kind in ("owl", "cat", "dog/tabby") for i in range(4)]
    put(tmp_path, *names)
    found = loaded(tmp_path, test_fraction=0.25)
    assert found.classes == ("cat", "dog", "owl")
    # The grey of a picture says in which folder it is.
    for split in ("train", "test"):
        x, labels = found.split(split)
        assert [{0: 2, 1: 0, 2: 1}[grey // 4] for grey in greys(x)] == labels.tolist() and labels.dtype == torch.int64
    assert len(found.train_labels) == 9 and "labels of train: 3 classes (0 cat, 1 dog, 2 owl)" in found.description
    few = data.load(tmp_path, train_count=2)
    assert few.train_labels.tolist() == found.train_labels[:2].tolist() == [0, 0]


def test_classes_are_numbered_over_all_splits(tmp_path):
    put(tmp_path, "train/b/0.png", "train/d/0.png", "test/a/0.png", "test/b/0.png", "valid/d/0.png")
    found = loaded(tmp_path)
    assert found.classes == ("a", "b", "d")
    assert [found.split(s)[1].tolist() for s in ("train", "test", "valid")] == [[1, 2], [0, 1], [2]]
    assert "test has 1 that train has not (such as a)" in found.description


@pytest.mark.parametrize(
    "names, told",
    [
        (["a.png", "b.png"], "no labels"),
        (["images/a.png", "images/b.png"], "no labels"),
        (["train/a.png", "train/b.png", "test/c.png"], "no labels"),
        (["cat/a.png", "dog/b.png", "c.png"], "no labels; 1 pictures of train are in no folder"),
        (["train/cat/a.png", "train/dog/b.png", "test/c.png"], "labels of train: 2 classes (0 cat, 1 dog)"),
        (["cat/a.png", "dog/b.png", "empty/c.txt"], "labels of train: 2 classes (0 cat, 1 dog)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_where_labels_are_and_where_not(tmp_path, names, told):
    for name in names:
        if name.endswith(".png"):
            put(tmp_path, name)
        else:
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).touch()
    found = loaded(tmp_path, test_fraction=0.5)
    assert told in found.description
    assert (found.train_labels is None) == told.startswith("no") and (found.classes is None) == told.startswith("no")


def test_links_and_odd_names(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(root, "b.png/c.PNG", "b.png/Ünïcödé 画.Png", "b.png/d.bmp", "b.png/new\nline.gif")
    put(elsewhere, "e.png", "f.png", value=4)
    (root / "linked").symlink_to(elsewhere)
    (root / "linked.png").symlink_to(elsewhere / "e.png")
    (elsewhere / "up").symlink_to(root)
    (root / "again").symlink_to(root / "b.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(root / "pipe.png")
    found = loaded(root)
    # A folder is read once, in whichever place it is met first.
    assert sorted(greys(found.train) + greys(found.test)) == [0, 1, 2, 3, 4, 4, 5]
    assert "skipped: " in found.description
    for name in ("nowhere.png", "pipe.png", "self.png"):
        assert name in data.folders.find_pictures(root).skipped
    os.makedirs(os.fsencode(root) + b"/\xff")
    put(root, "z/g.png")
    os.rename(root / "z" / "g.png", os.fsencode(root) + b"/\xff/g.png")
    # It can be printed.
    assert data.load(root).description.encode()


@pytest.mark.parametrize("kind, ending", [("JPEG", ".jpg"), ("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp")])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path, kind, ending, orientation):
    # By the definition of the tag: where the first row and the first column of what is stored belong.
    upright = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x.T, 2),
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    blocks = np.kron(GREY, np.ones((8, 8), np.uint8))
    content = saved(blocks, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {"quality": 100}))
    stored = (
        np.array(Image.open(io.BytesIO(saved(blocks, kind, quality=100))).convert("L")) if kind == "JPEG" else blocks
    )
    expected = upright(stored)
    pixels, told = opened(tmp_path, content, ending, expected.shape)
    assert np.array_equal(pixels, expected)
    assert ("2 turned upright as their EXIF says" in told) == (orientation > 1)


@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_16_bits_become_8_by_one_rule(tmp_path, channels):
    array = RNG.randint(0, 65536, (3, 5) if channels is None else (3, 5, channels)).astype(np.uint16)
    array[0, 0], array[0, 1] = 65535, 0
    array[1, :3] = np.array([128, 129, 65406]).reshape([3] + [1] * (channels is not None))
    real = array.astype(np.float64)
    if channels in (2, 4):
        array[2, :3, -1] = 0, 65535, 30000
        real = array.astype(np.float64)
        alpha = real[..., -1:] / 65535
        real = real[..., :-1] * alpha + 65535 * (1 - alpha)
    real = real.reshape(3, 5, -1)
    expected = np.broadcast_to(np.floor(np.round(real) / 257 + 0.5), (3, 5, 3))
    pixels, told = opened(tmp_path, png16(array), colour=True)
    assert np.array_equal(pixels, expected)
    assert "2 of 16 bits a number made 8" in told
    if channels is None:
        assert np.array_equal(opened(tmp_path, png16(array))[0], expected[..., 0])
        tiff = saved(Image.frombytes("I;16", (5, 3), array.astype("<u2").tobytes()), "TIFF")
        assert np.array_equal(opened(tmp_path / "tif", tiff, ".tif")[0], expected[..., 0])


def test_the_clear_colour_of_16_bits(tmp_path):
    array = np.full((3, 5, 3), 257, np.uint16)
    array[0, 0], array[0, 1] = (257, 257, 256), 514
    pixels, _ = opened(tmp_path, png16(array, tRNS=struct.pack(">HHH", 257, 257, 257)), colour=True)
    assert (pixels[0, 0] == 1).all() and (pixels[0, 1] == 2).all() and (pixels[1:] == 255).all()
    grey = array[..., 2]
    pixels, _ = opened(tmp_path / "grey", png16(grey, tRNS=struct.pack(">H", 256)))
    assert pixels[0, 0] == 255 and pixels[0, 1] == 2 and (pixels[1:] == 1).all()


def on_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return colours * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P with one clear colour", "L", "RGB", "1"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    alpha = RNG.randint(0, 256, (3, 5)).astype(np.uint8)
    alpha[0, :3] = 0, 255, 0
    options, colours = {}, COLOURS.astype(float)
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([COLOURS, alpha]))
    elif mode == "LA":
        image, colours = Image.fromarray(np.dstack([GREY, alpha])), np.repeat(GREY[..., None], 3, 2)
    elif mode.startswith("P"):
        image = Image.fromarray(np.arange(15, dtype=np.uint8).reshape(3, 5), "P")
        image.putpalette(COLOURS.tobytes())
        if mode != "P":
            alpha = np.where(np.arange(15).reshape(3, 5) == 4, 0, 255)
        options["transparency"] = alpha.astype(np.uint8).tobytes() if mode == "P" else 4
    elif mode == "1":
        bits = GREY > 128
        image, colours = Image.fromarray(bits), np.repeat(bits[..., None] * 255.0, 3, 2)
        alpha, options["transparency"] = np.where(bits, 255, 0), 0
    else:
        array = GREY if mode == "L" else COLOURS
        image, colours = Image.fromarray(array), np.broadcast_to(array.reshape(3, 5, -1), (3, 5, 3))
        alpha = np.full((3, 5), 255)
        alpha[1, 2] = 0
        options["transparency"] = int(GREY[1, 2]) if mode == "L" else tuple(COLOURS[1, 2].tolist())
    pixels, told = opened(tmp_path, saved(image, **options), colour=True)
    expected = on_white(colours, alpha)
    assert np.abs(pixels - expected).max() <= 1
    assert np.array_equal(pixels[(alpha == 0) | (alpha == 255)], expected[(alpha == 0) | (alpha == 255)])
    assert "2 with transparency laid on white" in told


@pytest.mark.parametrize(
    "mode, kind, ending, told",
    [
        ("CMYK", "TIFF", ".tif", "2 of colours made grey"),
        ("YCbCr", "JPEG", ".jpg", "2 of colours made grey"),
        ("P", "GIF", ".gif", "2 of colours made grey"),
        ("1", "PNG", ".png", None),
        ("1", "TIFF", ".TIF", None),
        ("L", "PPM", ".pgm", None),
        ("L", "WEBP", ".webp", "2 of colours made grey"),
        ("L", "JPEG2000", ".jp2", None),
    ],
)
def test_other_modes_are_as_pillow_shows_them(tmp_path, mode, kind, ending, told):
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(Image.fromarray(COLOURS).convert(mode), kind, **options)
    reference = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    pixels, description = opened(tmp_path, content, ending)
    luma = reference @ np.array([299, 587, 114]) / 1000
    assert np.abs(pixels - luma).max() <= 1
    assert ("converted" in description) == (told is not None) and (told or "") in description
    pixels, description = opened(tmp_path, content, ending, colour=True)
    assert np.array_equal(pixels, reference) and "converted" not in description


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(tmp_path, kind):
    frames = [Image.fromarray(np.full((3, 5), value, np.uint8)) for value in (150, 90, 130)]
    content = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    pixels, told = opened(tmp_path, content, f".{kind.lower()}")
    assert (pixels == 150).all() and "2 of several frames, of which the first is taken" in told


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("b.png", b"", "b.png is truncated, damaged or not an image"),
        ("b.jpg", b"<html>", "b.jpg is truncated, damaged or not an image"),
        ("b.tif", saved(GREY.astype(np.float32), "TIFF"), r"b.tif has values that are not pixels .*mode F"),
        ("b.tif", saved(GREY.astype(np.int32), "TIFF"), r"b.tif has values that are not pixels .*mode I"),
        ("b.png", saved(GREY.T.copy()), "b.png is 3 pixels wide and 5 high, the first image 5 and 3"),
        ("b.png", saved(GREY)[:60], "b.png is truncated, damaged or not an image"),
    ],
)
@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the files"])
def test_a_picture_that_is_none_is_named(tmp_path, name, content, complaint, resident_bytes):
    (tmp_path / "a.png").write_bytes(saved(GREY))
    (tmp_path / "c.png").write_bytes(saved(GREY))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        found = data.load(tmp_path, resident_bytes=resident_bytes)
        greys(found.train), greys(found.test)


def test_a_picture_that_is_gone_is_named(tmp_path):
    put(tmp_path, *(f"{i}.png" for i in range(10)))
    found = data.load(tmp_path, resident_bytes=0)
    (tmp_path / "3.png").unlink()
    for read in (greys, lambda split: list(data.prefetch(split, torch.arange(9).split(3), workers=2))):
        with pytest.raises(ValueError, match=r"3\.png cannot be read: No such file or directory"):
            read(found.train)
