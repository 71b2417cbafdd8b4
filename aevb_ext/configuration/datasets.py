"""The data of a run by name or by path: the files of each dataset with a name, and whether they are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import check_extra, of_extra
from .._messages import python_or_flags

if TYPE_CHECKING:
    from .._types import StrPath

__all__ = ["KNOWN", "NAMES", "Known", "RemoteFile", "check_there", "own_path"]


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        name: its file name.
        urls: mirrors, tried in this order.
        checksum: ``"md5:..."`` or ``"sha256:..."`` of the file; None if only its content can be verified.
        other_names: other names under which the content is found, in another format.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    other_names: tuple[str, ...] = ()

    def may_be(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one, as far as its checksum can tell."""
        if self.checksum is None or path.name != self.name:
            return True
        with of_extra("train", "a download"):
            import pooch

        algorithm, _, expected = self.checksum.partition(":")
        return bool(pooch.file_hash(str(path), algorithm) == expected)


@dataclass(frozen=True)
class Known:
    """A dataset with a name.

    Attributes:
        name: the name that ``load`` takes, and the name of its folder.
        title: its usual name, for messages.
        files: the files that are needed, and where to download them.
        labels: files of labels; they are read if they are there.
    """

    name: str
    title: str
    files: tuple[RemoteFile, ...] = ()
    labels: tuple[RemoteFile, ...] = ()

    def paths(self, data_dir: StrPath | None = None) -> list[Path]:
        """Its files in ``data_dir/name`` or ``data_dir``, in the order of ``files``.

        Raises:
            FileNotFoundError: a file is missing. The message says where it was searched and where to download it.
        """
        found = []
        for file in self.files:
            path = self.find(data_dir, file)
            if path is None:
                raise FileNotFoundError(self._missing(data_dir, file))
            found.append(path)
        return found

    def find(self, data_dir: StrPath | None, file: RemoteFile) -> Path | None:
        """The path of one of its files, under any of the file's names; None if it is missing."""
        paths = (place / name for place in self._places(data_dir) for name in (*file.other_names, file.name))
        return next((path for path in paths if path.is_file()), None)

    def _places(self, data_dir: StrPath | None) -> list[Path]:
        return [] if data_dir is None else [Path(data_dir) / self.name, Path(data_dir)]

    def _missing(self, data_dir: StrPath | None, file: RemoteFile) -> str:
        places = " and ".join(str(place) for place in self._places(data_dir))
        names = " or ".join((*file.other_names, file.name))
        looked = f"{names} was looked for in {places}" if places else "no data_dir was given"
        return (
            f"{self.title} is not there: {looked}. Say where it is ({python_or_flags('data_dir=...', '--data-dir')}). "
            f"It is available from {file.urls[0]}; "
            f"`aevb train --data {self.name} --data-dir DIR --download` downloads it."
        )


def own_path(data: StrPath) -> Path:
    """The path of data without a name: a folder, or a file whose suffix says that it can be read.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is neither a path nor a name, or a file of another kind.
    """
    path = Path(data)
    if not str(data) or not path.exists():
        kinds = "a folder of images, or a .npy, .npz or .h5ad file"
        if str(data) and (os.path.sep in str(data) or path.suffix):
            where = python_or_flags("data", "--data")
            raise FileNotFoundError(f"there is no {path}: expected {kinds}; if it was moved, say where it is ({where})")
        raise ValueError(f"data must be the path of {kinds}, or one of {', '.join(NAMES)}, got {str(data)!r}")
    if not path.is_dir() and path.suffix.lower() not in (".npy", ".npz", ".h5ad"):
        raise ValueError(f"{path} is neither a folder of images nor a .npy, .npz or .h5ad file")
    return path


def check_there(data: str, data_dir: StrPath | None = None) -> None:
    """Raise what :func:`aevb_ext.data.load` raises where data of that name, or at that path, is not there."""
    if data in KNOWN:
        KNOWN[data].paths(data_dir)
    else:
        path = own_path(data)
        if path.suffix.lower() == ".h5ad" and path.is_file():
            check_extra("anndata", f"{path}, a .h5ad file,")


def _mirrored(mirrors: tuple[str, ...], name: str, checksum: str | None = None, **options: Any) -> RemoteFile:
    """A file that all ``mirrors`` have; each is the URL of a folder."""
    return RemoteFile(name, tuple(mirror + name for mirror in mirrors), checksum, **options)


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_FACES = ("https://cs.nyu.edu/~roweis/data/", "http://www.cs.nyu.edu/~roweis/data/")
_BINARIZED = (
    "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
)
# The checksums of files are those that torchvision verifies; for binarised MNIST, those of TensorFlow Datasets.
_BINARIZED_FILES = {
    "train": "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
KNOWN = {
    known.name: known
    for known in (
        Known("digits", "The digits"),
        Known(
            "mnist",
            "MNIST",
            (
                _mirrored(_MNIST, "train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                _mirrored(_MNIST, "t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
            ),
            (
                _mirrored(_MNIST, "train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432"),
                _mirrored(_MNIST, "t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c"),
            ),
        ),
        Known(
            "fashion_mnist",
            "Fashion-MNIST",
            (
                _mirrored(_FASHION, "train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                _mirrored(_FASHION, "t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
            ),
            (
                _mirrored(_FASHION, "train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
                _mirrored(_FASHION, "t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
            ),
        ),
        Known(
            "freyface",
            "Frey Face",
            (_mirrored(_FACES, "frey_rawface.mat", other_names=("freyfaces_u8.npy",)),),
        ),
        # The fixed binarisation by Larochelle: text, one line per image.
        Known(
            "binarized_mnist",
            "Binarised MNIST",
            tuple(
                _mirrored(
                    _BINARIZED,
                    f"binarized_mnist_{split}.amat",
                    checksum,
                    other_names=(f"binarized_mnist_{split}_packed.npy",),
                )
                for split, checksum in _BINARIZED_FILES.items()
            ),
        ),
    )
}
NAMES = tuple(KNOWN)
