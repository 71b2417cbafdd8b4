"""Reading .npy and .npz files: which of their arrays are data points, labels and splits."""

import os
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .._messages import python_or_flags
from .arrays import ArrayFile, layout, read_array, read_rows
from .counts import csr_data, is_sparse
from .folders import SPLIT_OF, is_hidden
from .integrity import FileError, reading
from .own_data import FoundData, Labels, read_labels

__all__ = ["read_arrays"]

# Common names of data points and labels, in any letter case, alone or with the name of a split: x_train, train_labels.
_POINTS = {"x", "data", "image", "images"}
_LABELS = {"y", "label", "labels", "target", "targets"}
# In a zip file's local header: the offset of its two lengths, and its size without name and extra field.
_ZIP_LENGTHS, _ZIP_HEADER = 26, 30

# (split, whether the array holds labels); the split is None if the array's name has none.
Role = tuple[str | None, bool]


def read_arrays(
    path: Path, resident_bytes: int, image_shape: tuple[int, ...] | None = None, array: str | None = None
) -> FoundData:
    """The splits that are in a .npy or .npz file, flat, and their labels.

    An array of more than ``resident_bytes`` stays in the file; a compressed one is read.

    Args:
        path: the file.
        resident_bytes: the most that a split takes in memory.
        image_shape: the image shape of a row. None: as the arrays' own shapes say.
        array: the name of the array of a .npz file that is the data. None: found by common names.

    Raises:
        ValueError: the file is damaged, an array is not data, or it is not clear which array is the data. The message
            names the file and the array.
    """
    if path.suffix.lower() == ".npz":
        return _read_npz(path, resident_bytes, image_shape, array)
    if array is not None:
        raise ValueError(f"array must be left out for {path}: it names an array of a .npz file, got {array!r}")
    with reading(path, "a .npy file"), open(path, "rb") as file:
        rows, event = read_rows(ArrayFile(file, str(path), os.path.getsize(path), path, 0), resident_bytes, image_shape)
    return FoundData({"train": rows}, layout(event)[0], Labels())


def _read_npz(path: Path, resident_bytes: int, image_shape: tuple[int, ...] | None, array: str | None) -> FoundData:
    with reading(path, "a .npz file"), zipfile.ZipFile(path) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = Path(member.filename).stem
            if member.is_dir() or any(is_hidden(part) for part in Path(member.filename).parts):
                continue
            if name in members:
                raise FileError(f"{path} has two arrays {name}: {members[name].filename} and {member.filename}")
            members[name] = member
        if array is None and is_sparse(list(members)):
            return csr_data(_all_of(archive, path, members), path)
        points, labels = _chosen(path, list(members), array)
        splits, events = {}, {}
        for split, name in points.items():
            with _opened(archive, path, members[name]) as source:
                splits[split], events[split] = read_rows(source, resident_bytes, image_shape)
        if len(set(events.values())) > 1:
            raise FileError(f"{path}: data points differ in shape from split to split: {events}")
        arrays = {}
        for split, name in labels.items():
            with _opened(archive, path, members[name]) as source:
                arrays[split] = source.what, read_array(source)
    found = read_labels(arrays, {split: len(rows) for split, rows in splits.items()})
    used = {*points.values(), *labels.values()}
    return FoundData(
        splits, layout(events["train"])[0], found, points, skipped=[name for name in members if name not in used]
    )


def _all_of(archive: zipfile.ZipFile, path: Path, members: dict[str, zipfile.ZipInfo]) -> dict[str, np.ndarray | None]:
    arrays = {}
    for name, member in members.items():
        with _opened(archive, path, member) as source:
            arrays[name] = read_array(source)
    return arrays


def _chosen(path: Path, names: list[str], array: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the arrays of data points and of those of labels, each by split."""
    there = f"{path} has the arrays {', '.join(names) or '(none)'}"
    if array is not None and array not in names:
        raise FileError(f"array must be one of {', '.join(names) or '(none)'}, which {path} has, got {array!r}")
    roles: dict[Role, list[str]] = {}
    for name in names:
        if role := _role(name):
            roles.setdefault(role, []).append(name)
    points = {role[0]: found for role, found in roles.items() if not role[1]}
    of_splits: dict[str | None, list[str]] = {
        split: points[split] for split in ("train", "test", "valid") if split in points
    }
    others = [name for name in names if (role := _role(name)) is None or not role[1]]
    if array is not None:
        points = {"train": [array]}
    elif len(names) == 1:
        points = {"train": names}
    elif of_splits:
        points = of_splits
    elif None in points or len(others) == 1:
        points = {"train": points.get(None, others)}
    if "train" not in points or None in points:
        raise FileError(
            f"{there}; expected one, or train and, where there are such splits, test and valid (or x_train, "
            "train_images and their like), or images and labels: name the one that is the data "
            f"({python_or_flags('array=...', '--array')})"
        )
    labels = {split: roles[split, True] for split in points if (split, True) in roles}
    if len(points) == 1 and not labels and (None, True) in roles:
        labels = {"train": roles[None, True]}
    if labels.get("train") == points["train"]:
        # The only array of the file is the data, even if it is called "y".
        labels = {}
    for found in (*points.values(), *labels.values()):
        if len(found) > 1:
            raise FileError(
                f"{there}, of which {' and '.join(found)} mean the same by their names: keep one, or name the one that "
                f"is the data ({python_or_flags('array=...', '--array')})"
            )
    first_of, labels_of = ({split: found[0] for split, found in of.items() if split} for of in (points, labels))
    return first_of, labels_of


def _role(name: str) -> Role | None:
    """What an array of this name holds; None: unknown."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
    others = [word for word in words if word not in SPLIT_OF]
    if not words or len(splits) > 1 or len(others) > 1 or not (_POINTS | _LABELS).issuperset(others):
        return None
    return (splits[0] if splits else None), bool(others) and others[0] in _LABELS


@contextmanager
def _opened(archive: zipfile.ZipFile, path: Path, member: zipfile.ZipInfo) -> Iterator[ArrayFile]:
    """The array of a member of the archive, mappable if it is not compressed."""
    is_stored = member.compress_type == zipfile.ZIP_STORED
    start, size = (_start_of_member(path, member), member.compress_size) if is_stored else (None, member.file_size)
    with archive.open(member) as file:
        assert isinstance(file, zipfile.ZipExtFile)  # typeshed has only IO[bytes]
        yield ArrayFile(file, f"{path}: {member.filename}", size, path, start)


def _start_of_member(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member begin: after its local header, name and extra field."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        lengths: tuple[int, int] = struct.unpack_from("<HH", file.read(_ZIP_HEADER), _ZIP_LENGTHS)
    return member.header_offset + _ZIP_HEADER + sum(lengths)
