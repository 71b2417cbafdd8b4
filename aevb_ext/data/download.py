"""Downloading a file from the first mirror that has the right one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._extras import of_extra
from .._types import StrPath

__all__ = ["DownloadError", "RemoteFile", "fetch"]

# Retries of each mirror after the first attempt: a connection that broke once may hold the second time.
_RETRIES = 2


class DownloadError(OSError):
    """No mirror had the file; the message says why for each."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        name: its file name.
        urls: mirrors, tried in this order.
        checksum: ``"md5:..."`` or ``"sha256:..."`` of the file; None if only ``check`` can verify it.
        check: called with the path of the downloaded file; raises ValueError unless it is the right file.
        other_names: other names under which the content is found, in another format.
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
        import pooch

        algorithm, _, expected = self.checksum.partition(":")
        return bool(pooch.file_hash(str(path), algorithm) == expected)


@of_extra("train", "a download")
def fetch(remote: RemoteFile, folder: StrPath) -> Path:
    """The file in ``folder``, downloaded unless the right one is there, with a progress bar on stderr.

    A download has a temporary name until its checksum is verified. Each mirror is tried three times.

    Raises:
        DownloadError: no mirror had it. The message names each mirror and its error.
        OSError: the folder cannot be made.
    """
    import pooch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    download, failures = pooch.HTTPDownloader(progressbar=True), []

    def checked(url: str, output_file: str, caller: Any, check_only: bool = False) -> None:
        """Run ``check`` on the download before pooch gives it its final name."""
        download(url, output_file, caller, check_only)
        if remote.check is not None:
            remote.check(Path(output_file))

    for url in remote.urls:
        fetcher = pooch.create(
            path=folder,
            base_url="",
            registry={remote.name: remote.checksum},
            urls={remote.name: url},
            retry_if_failed=_RETRIES,
        )
        try:
            return Path(fetcher.fetch(remote.name, downloader=checked))
        # requests raises OSError for network errors, pooch ValueError for a wrong checksum.
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
    raise DownloadError(f"{remote.name} could not be downloaded to {folder}:\n  " + "\n  ".join(failures))
