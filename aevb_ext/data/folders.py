"""Finding the images in a folder, with the split and the class of each."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .._extras import of_extra
from .integrity import FileError
from .own_data import Labels

__all__ = ["SPLIT_OF", "Pictures", "find_pictures", "is_hidden"]

# Common names of a split, in any letter case.
SPLIT_OF = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
}
# Folders that operating systems create (copies, thumbnails, deleted files), apart from those that begin with a dot.
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
# Formats that Pillow lists but does not decode itself.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass
class Pictures:
    """The images found in a folder.

    Attributes:
        paths: the files of each split, sorted.
        origins: the folder of each split.
        labels: the classes, one for each folder of images within a split.
        skipped: paths within the folder that were not read.
    """

    paths: dict[str, list[Path]]
    origins: dict[str, Path]
    labels: Labels
    skipped: list[str]


def find_pictures(folder: Path) -> Pictures:
    """The images of a folder: every file with a suffix that Pillow decodes, except hidden files.

    Splits are subfolders with the names in :data:`SPLIT_OF`; if there are none, the whole folder is ``"train"``.
    Classes are the folders directly inside a split, as in torchvision's ImageFolder, if there are at least two of them
    and every image of the split is in one. A folder that contains nothing but one other folder is replaced by that one.

    Raises:
        FileError: there are no images; two folders are the same split; there is a test split and no train; or splits
            are nested so that they would be mixed up.
        OSError: a folder cannot be read. The message names it.
    """
    look = _Look(folder)
    place, (folders, pictures) = folder, look(folder)
    while len(folders) == 1 and not pictures and not _splits(place, folders):
        inner = look(folders[0])
        if inner[1] or not inner[0]:
            break
        place, (folders, pictures) = folders[0], inner
    origins = _splits(place, folders)
    if origins:
        look.skip(*pictures, *(f for f in folders if f not in origins.values()))
        inside = {split: look(origin) for split, origin in origins.items()}
    else:
        origins, inside = {"train": place}, {"train": (folders, pictures)}
    found = {split: _in_split(look, *within) for split, within in inside.items()}
    for split, origin in origins.items():
        if not found[split]:
            raise FileError(
                f"{origin} has no images: no file in it, or in its folders, ends in .png, .jpg or their like"
            )
    paths = {split: [path for path, _ in pairs] for split, pairs in found.items()}
    return Pictures(paths, origins, _labels(found), look.skipped)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that an operating system created."""
    return name.startswith(".") or name in _OF_SYSTEMS


class _Look:
    """Lists folders, and records what is skipped."""

    def __init__(self, folder: Path):
        with of_extra("train", "a folder of images"):
            from PIL import Image

        Image.init()
        self._endings = {
            ending
            for ending, name in Image.registered_extensions().items()
            if name in Image.OPEN and name not in _NOT_DECODED
        }
        self._folder, self._seen = folder, {_identity(folder)}
        self._known: dict[Path, tuple[list[Path], list[Path]]] = {}
        self.skipped: list[str] = []

    def __call__(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and the images directly inside a folder, without hidden ones."""
        if folder not in self._known:
            self._known[folder] = self._listed(folder)
        return self._known[folder]

    def _listed(self, folder: Path) -> tuple[list[Path], list[Path]]:
        folders, pictures = [], []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if is_hidden(entry.name):
                    self.skip(path)
                elif os.path.isdir(path) if entry.is_symlink() else entry.is_dir():
                    # Through a link, it may be a folder that was seen already, or a parent of this one.
                    if (identity := _identity(path)) in self._seen:
                        self.skip(path)
                    else:
                        self._seen.add(identity)
                        folders.append(path)
                elif path.suffix.lower() in self._endings and path.is_file():
                    pictures.append(path)
                else:
                    self.skip(path)
        return folders, pictures

    def inside(self, folder: Path) -> list[Path]:
        """All images in a folder and its subfolders."""
        folders, pictures = self(folder)
        _check_not_mixed(folder, folders)
        return pictures + [path for inner in folders for path in self.inside(inner)]

    def skip(self, *paths: Path) -> None:
        self.skipped += [str(path.relative_to(self._folder)) for path in paths]


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _splits(place: Path, folders: list[Path]) -> dict[str, Path]:
    """The folders that are splits by their names, in the order of :data:`SPLIT_OF`."""
    found: dict[str, Path] = {}
    for folder in folders:
        if split := SPLIT_OF.get(folder.name.lower()):
            if split in found:
                raise FileError(
                    f"{place} has the folders {found[split].name} and {folder.name}, each a {split} split: expected one"
                )
            found[split] = folder
    if not found:
        _check_not_mixed(place, folders)
    elif "train" not in found:
        split, folder = next(iter(found.items()))
        raise FileError(
            f"{place} has the folder {folder.name}, a {split} split, but no folder train: expected both, or the path "
            "of a folder without splits"
        )
    else:
        for folder in folders:
            if len(named := _named_in(folder)) == 1 and folder not in found.values() and not named & set(found):
                raise FileError(
                    f"{place} has the folder {folder.name} beside {found['train'].name}: if it is a split, rename it "
                    f"to {named.pop()}, else move it elsewhere"
                )
    return {split: found[split] for split in ("train", "test", "valid") if split in found}


def _check_not_mixed(place: Path, folders: list[Path]) -> None:
    """Raise FileError if folder names contain the words of different splits: such folders are not classes."""
    named = [(folder.name, splits) for folder in folders if (splits := _named_in(folder))]
    if len(set().union(*(splits for _, splits in named))) > 1:
        raise FileError(
            f"{place} has the folders {' and '.join(name for name, _ in named)}, which would be mixed up: expected "
            "splits called train, test and valid, side by side in the folder that is given, with their classes in them"
        )


def _named_in(folder: Path) -> set[str]:
    """The splits whose words a folder's name contains: seg_train, TestImages, trainset."""
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", folder.name)]
    return {SPLIT_OF[w] for word in words if (w := word if word in SPLIT_OF else word.removesuffix("set")) in SPLIT_OF}


def _in_split(look: _Look, folders: list[Path], pictures: list[Path]) -> list[tuple[Path, str | None]]:
    """(path of an image, name of its class or None if it is in no class folder), sorted by path."""
    while len(folders) == 1 and not pictures:
        inner = look(folders[0])
        if inner[1] or not inner[0]:
            break
        _check_not_mixed(folders[0], inner[0])
        folders, pictures = inner
    found: list[tuple[Path, str | None]] = [(path, None) for path in pictures]
    found += [(path, folder.name) for folder in folders for path in look.inside(folder)]
    return sorted(found, key=lambda pair: pair[0])


def _labels(found: dict[str, list[tuple[Path, str | None]]]) -> Labels:
    names: dict[str, list[str]] = {}
    unread = []
    for split, pairs in found.items():
        of = [name for _, name in pairs]
        if alone := of.count(None):
            if alone < len(of):
                unread.append(f"{alone} pictures of {split} are in no folder, so the folders are not taken as classes")
        else:
            names[split] = [name for name in of if name is not None]
    if len(set().union(*names.values())) < 2:
        return Labels(unread=unread)
    return Labels.of_names(names, unread)
