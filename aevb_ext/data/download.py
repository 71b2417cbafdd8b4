"""Fetching a file from the first of its mirrors that has the right one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch

from .._types import StrPath

__all__ = ["DownloadError", "RemoteFile", "fetch"]

# Of each mirror, after the first attempt: a connection that broke once may hold the second time.
_RETRIES = 2


class DownloadError(OSError):
    """No mirror had the file; says for each why."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that others keep.

    Attributes:
        name: what it is called.
        urls: where it is: mirrors, tried in this order.
        checksum: ``"md5:..."`` or ``"sha256:..."`` of the file, or None where only ``check`` knows it.
        check: called with the path of what arrived; raises ValueError unless it is the right file.
        other_names: under which others have its content, in another format.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    check: Callable[[Path], object] | None = None
    other_names: tuple[str, ...] = ()

    def may_be(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one, as far as its checksum can tell."""
        if self.checksum is None or path.name != self.name:
            return True
        algorithm, _, expected = self.checksum.partition(":")
        return bool(pooch.file_hash(str(path), algorithm) == expected)


def fetch(remote: RemoteFile, folder: StrPath) -> Path:
    """The file in ``folder``, downloaded unless the right one is there, with a progress bar on stderr.

    What arrives lies under another name until its checksum is found right. Each mirror is tried three times.

    Raises:
        DownloadError: no mirror had it: names each, and what went wrong there.
        OSError: the folder cannot be made.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in remote.urls:
        fetcher = pooch.create(
            path=folder,
            base_url="",
            registry={remote.name: remote.checksum},
            urls={remote.name: url},
            retry_if_failed=_RETRIES,
        )
        try:
            return Path(fetcher.fetch(remote.name, downloader=_Downloader(remote.check)))
        # What the network does wrong is an OSError for requests, a wrong checksum a ValueError for pooch.
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
    raise DownloadError(f"{remote.name} could not be downloaded to {folder}:\n  " + "\n  ".join(failures))


class _Downloader(pooch.HTTPDownloader):
    """Shows its progress, and looks at what arrived before pooch gives it its name."""

    def __init__(self, check: Callable[[Path], object] | None):
        super().__init__(progressbar=True)
        self._check = check

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        super().__call__(url, output_file, pooch, check_only)
        if self._check is not None:
            self._check(Path(output_file))
