"""Files that were damaged, or are changed while they are in use: a ValueError says what is wrong, with their name."""

import io
import os
import pickle
import random
import resource
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from test_data import idx

from aevb_ext import data
from aevb_ext.data.known import _read_amat, _read_npy
from aevb_ext.models import make_model
from aevb_ext.train import Callback, fit

pytestmark = pytest.mark.once("files are read by Python and NumPy")

Image = pytest.importorskip("PIL.Image")

X = np.random.RandomState(0).randint(0, 256, (12, 5, 7)).astype(np.uint8)
X[0, 0, 0] = 255
Y = np.arange(12) % 3


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(compression, **arrays):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array))
    return file.getvalue()


def picture(kind, **options):
    file = io.BytesIO()
    Image.fromarray(X[0]).save(file, kind, **options)
    return file.getvalue()


def read_data(path, resident_bytes=1 << 20):
    loaded = data.load(path, resident_bytes=resident_bytes)
    return torch.cat([data.first(split, len(split)) for split in (loaded.train, loaded.test)])


def read_stored(path):
    return read_data(path, 0)


# Each with its name, its content and who reads it.
FILES = {
    "npy": ("a.npy", lambda: npy(X), read_data),
    "npy, stored": ("a.npy", lambda: npy(X), read_stored),
    "npy, bool, stored": ("a.npy", lambda: npy(X > 99), read_stored),
    "npy of floats": ("a.npy", lambda: npy(X.astype(">f4")), read_data),
    "npz": ("a.npz", lambda: npz(zipfile.ZIP_STORED, x_train=X, y_train=Y, x_test=X), read_data),
    "npz, stored": ("a.npz", lambda: npz(zipfile.ZIP_STORED, train=X.astype("i2"), train_labels=Y), read_stored),
    "npz, deflated": ("a.npz", lambda: npz(zipfile.ZIP_DEFLATED, images=X, labels=Y), read_data),
    "npz, bzip2": ("a.npz", lambda: npz(zipfile.ZIP_BZIP2, images=X), read_data),
    "npz, lzma": ("a.npz", lambda: npz(zipfile.ZIP_LZMA, images=X), read_data),
    "idx": ("a.gz", lambda: idx(X), data.read_idx),
    "known npy": ("a.npy", lambda: npy(X), _read_npy),
    "amat": ("a.amat", lambda: b"0 1 " * 392, _read_amat),
    **{
        kind: (f"0.{ending}", lambda kind=kind, options=options: picture(kind, **options), None)
        for kind, ending, options in [
            ("PNG", "png", {}),
            ("JPEG", "jpg", {}),
            ("GIF", "gif", {}),
            ("BMP", "bmp", {}),
            ("TIFF", "tif", {"compression": "tiff_lzw"}),
            ("WEBP", "webp", {}),
            ("PPM", "pgm", {}),
            ("TGA", "tga", {}),
        ]
    },
}


CHECKED = {"npz, deflated", "npz, bzip2", "npz, lzma", "idx"}


def read_folder(path):
    Image.fromarray(X[1]).save(path.parent / "whole.bmp")
    return read_data(path.parent)


def damaged(content, random):
    """The content with some bytes changed, cut, doubled or left out."""
    content = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        if not content:
            break
        # More often where headers and directories are.
        at = random.choice(
            [
                random.randrange(len(content)),
                random.randrange(min(120, len(content))),
                -random.randrange(1, min(120, len(content)) + 1),
            ]
        )
        kind = random.randrange(6)
        if kind < 3:
            content[at] = random.choice(
                [0, 1, 127, 128, 255, random.randrange(256), content[at] ^ 1 << random.randrange(8)]
            )
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            del content[at : at % len(content) + random.randrange(1, 9)]
        else:
            content[at:at] = random.randbytes(random.randrange(1, 9))
    return bytes(content)


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_read_or_named(tmp_path, kind):
    name, content, read = FILES[kind]
    content, read = content(), read or read_folder
    path = tmp_path / name
    path.write_bytes(content)
    right = read(path)
    refused = 0
    # A run of ours had 3000 rounds.
    for seed in range(int(os.environ.get("AEVB_DAMAGED_FILES", 30))):
        path.write_bytes(damaged(content, random.Random(f"{kind} {seed}")))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(path)
        except ValueError as error:
            refused += 1
            assert str(tmp_path) in str(error), f"round {seed}: {error}"
        except Exception as error:
            raise AssertionError(f"round {seed}: {type(error).__name__}: {error}") from error
        else:
            # Where there is a checksum of what is read.
            assert kind not in CHECKED or np.array_equal(found, right), f"round {seed}"
        # Whatever a header promises; in KiB.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, f"round {seed}"
    assert refused > 0


def with_directory(content, **fields):
    """An archive of one member with these fields of its central directory changed."""
    at = content.rindex(b"PK\1\2")
    places = {"method": (10, "<H"), "size": (24, "<I"), "offset": (42, "<I"), "flags": (8, "<H")}
    content = bytearray(content)
    for name, value in fields.items():
        struct.pack_into(places[name][1], content, at + places[name][0], value)
    return bytes(content)


@pytest.mark.parametrize("resident_bytes", [1 << 20, 0], ids=["in memory", "in the file"])
@pytest.mark.parametrize(
    "content",
    [
        with_directory(npz(zipfile.ZIP_STORED, x=X), offset=1 << 30),
        with_directory(npz(zipfile.ZIP_STORED, x=X), offset=2**32 - 1),
        with_directory(npz(zipfile.ZIP_DEFLATED, x=X), method=12),
        with_directory(npz(zipfile.ZIP_DEFLATED, x=X), method=9),
        with_directory(npz(zipfile.ZIP_DEFLATED, x=X), method=99),
        with_directory(npz(zipfile.ZIP_DEFLATED, x=X), flags=1),
        npz(zipfile.ZIP_STORED, x=X)[:-30] + bytes(30),
        b"PK",
    ],
    ids=["past the end", "far past the end", "bzip2", "deflate64", "unknown", "encrypted", "no end", "PK"],
)
def test_a_damaged_archive_is_named(tmp_path, content, resident_bytes):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz"):
        data.load(path, resident_bytes=resident_bytes)


class Executed:
    def __reduce__(self):
        return os.mkdir, (str(Executed.folder),)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "labels.npz", "pickle.npy", "pickle.npz"])
def test_no_pickle_is_executed(tmp_path, name):
    Executed.folder = tmp_path / "executed"
    array = np.array([Executed()] * 12)
    if name.startswith("pickle"):
        (tmp_path / name).write_bytes(pickle.dumps(Executed()))
    elif name == "a.npy":
        np.save(tmp_path / name, array)
    elif name == "a.npz":
        np.savez(tmp_path / name, array)
    else:
        np.savez(tmp_path / name, images=X, labels=array)
    if name == "labels.npz":
        loaded = data.load(tmp_path / name)
        assert "labels.npy holds Python objects, which are not read" in loaded.description
        assert loaded.train_labels is None
    else:
        with pytest.raises(ValueError, match=name):
            data.load(tmp_path / name)
    assert not Executed.folder.exists()


@pytest.mark.parametrize("archive", [False, True], ids=["npy", "npz"])
def test_a_header_that_promises_too_much(tmp_path, archive):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 2)})
    path = tmp_path / ("a.npz" if archive else "a.npy")
    path.write_bytes(header.getvalue() + bytes(160))
    if archive:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x.npy", header.getvalue() + bytes(160))
    with pytest.raises(ValueError, match="truncated: it has 160 bytes of data, its header promises 16000000000000"):
        data.load(path)
    if archive:
        # The directory promises as much.
        zip64 = struct.pack("<HHQ", 1, 8, 17 * 10**12)
        content = bytearray(with_directory(path.read_bytes(), size=2**32 - 1))
        at = content.rindex(b"PK\1\2")
        struct.pack_into("<H", content, at + 30, len(zip64))
        end = content.rindex(b"PK\5\6")
        struct.pack_into("<I", content, end + 12, end - at + len(zip64))
        path.write_bytes(content[:end] + zip64 + content[end:])
        with pytest.raises(ValueError, match=r"a\.npz: x\.npy needs 16000000000000 bytes of memory, .* uncompressed"):
            data.load(path)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("array", [X, X.astype("<i4"), X.astype(">f8")], ids=["bytes", "integers", "big-endian"])
def test_a_file_that_becomes_shorter_is_named(tmp_path, name, array):
    path = tmp_path / name
    np.save(path, array) if name == "a.npy" else np.savez(path, array)
    split = data.load(path, resident_bytes=0).train
    everything = torch.arange(len(split))
    before = split.gather(everything)
    batches = data.prefetch(split, everything.split(2), depth=1)
    assert torch.equal(next(batches), before[:2])
    os.truncate(path, 400)
    with pytest.raises(ValueError, match=rf"{name} was changed while it was in use: it has 400 bytes, and \d+ are"):
        split.gather(everything)
    with pytest.raises(ValueError, match="was changed while it was in use"):
        list(batches)
    # Another file in its place is no harm to one that is open.
    np.save(tmp_path / "other.npy", array)
    other = data.load(tmp_path / "other.npy", resident_bytes=0).train
    os.truncate(path, 0)
    os.replace(path, tmp_path / "other.npy")
    assert torch.equal(other.gather(everything), before)


def test_training_ends_with_the_name_of_a_file_that_becomes_shorter(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((400, 16), np.float32))
    loaded = data.load(path, resident_bytes=0)
    model = make_model("mlp", x_dim=16, latent=2, hidden=4)

    class Shorten(Callback):
        def on_log(self, run, log):
            os.truncate(path, 1000)

    with pytest.raises(ValueError, match=r"a\.npy was changed while it was in use"):
        fit(model, loaded, samples_seen=4000, batch_size=20, log_every=200, callbacks=[Shorten()])
