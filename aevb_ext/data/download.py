"""Downloading a file from the first mirror that has the right one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._extras import of_extra
from .._types import StrPath
from ..configuration.datasets import RemoteFile

__all__ = ["DownloadError", "fetch"]

# Retries of each mirror after the first attempt: a connection that broke once may hold the second time.
_RETRIES = 2


class DownloadError(OSError):
    """No mirror had the file; the message says why for each."""


@of_extra("train", "a download")
def fetch(remote: RemoteFile, folder: StrPath, check: Callable[[Path], object] | None = None) -> Path:
    """The file in ``folder``, downloaded unless the right one is there, with a progress bar on stderr.

    A download has a temporary name until its checksum is verified. Each mirror is tried three times.

    Args:
        remote: the file.
        folder: it is made if it is missing.
        check: called with the path of the download; raises ValueError unless it is the right file.

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
        if check is not None:
            check(Path(output_file))

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
