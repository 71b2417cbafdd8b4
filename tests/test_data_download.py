"""Files are fetched whole or not at all, from the first mirror that has the right one."""

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aevb_ext import data
from aevb_ext.configuration.datasets import KNOWN, RemoteFile
from aevb_ext.data.download import DownloadError, fetch
from aevb_ext.data.known import CHECKS

pytestmark = pytest.mark.once("files are fetched by Python")

CONTENT = bytes(range(256)) * 400
CHECKSUM = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Mirror(BaseHTTPRequestHandler):
    """Answers as the first folder of the path says."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.server.asked.append(kind)
        if kind == "missing" or (kind == "busy" and self.server.asked.count("busy") == 1):
            self.send_error(404 if kind == "missing" else 503)
            return
        body = self.server.content[::-1] if kind == "other" else self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "truncated" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    # The pauses between two attempts.
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.asked, server.content = [], CONTENT
    server.url = f"http://127.0.0.1:{server.server_port}"
    # The thread notices the end of the server in so many seconds.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def remote(server, *kinds, **options):
    # Nobody listens at port 9 of this machine.
    urls = ["http://127.0.0.1:9/a.bin" if kind == "dead" else f"{server.url}/{kind}/a.bin" for kind in kinds]
    return RemoteFile("a.bin", tuple(urls), **({"checksum": CHECKSUM} | options))


def test_a_file_is_fetched_once_with_a_progress_bar(server, tmp_path, capsys):
    for _ in range(2):
        path = fetch(remote(server, "good"), tmp_path / "new" / "folder")
        assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]
    assert server.asked == ["good"]
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["dead", "missing", "other", "truncated"])
def test_the_next_mirror_is_asked(server, tmp_path, bad):
    path = fetch(remote(server, bad, "good"), tmp_path)
    assert path.read_bytes() == CONTENT and list(tmp_path.iterdir()) == [path]
    assert server.asked == ([] if bad == "dead" else [bad] * 3) + ["good"]


def test_a_busy_mirror_is_asked_again(server, tmp_path):
    assert fetch(remote(server, "busy", "good"), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["busy", "busy"]


def test_when_no_mirror_has_it_each_is_named_and_nothing_is_left(server, tmp_path):
    file = remote(server, "dead", "missing", "other", "truncated")
    with pytest.raises(DownloadError) as error:
        fetch(file, tmp_path)
    title, *reasons = str(error.value).splitlines()
    assert title == f"a.bin could not be downloaded to {tmp_path}:"
    wrong = {"dead": "refused", "missing": "404", "other": CHECKSUM[4:], "truncated": "51200 bytes read"}
    for reason, url, what in zip(reasons, file.urls, wrong.values(), strict=True):
        assert reason.startswith(f"  {url}: ") and what in reason
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    assert fetch(remote(server, "good"), tmp_path).read_bytes() == CONTENT
    # When it cannot be had, what was there stays.
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError):
        fetch(remote(server, "dead"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"


def test_content_that_only_a_reader_can_check(server, tmp_path):
    def check(path):
        if path.read_bytes() != CONTENT:
            raise ValueError("these are no faces")

    assert fetch(remote(server, "other", "good", checksum=None), tmp_path, check).read_bytes() == CONTENT
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DownloadError, match=r"other/a\.bin: these are no faces"):
        fetch(remote(server, "other", checksum=None), tmp_path, check)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_not_the_network(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as error:
        fetch(remote(server, "good"), tmp_path / "file" / "folder")
    assert not isinstance(error.value, DownloadError) and server.asked == []


def test_download_fetches_what_is_missing_or_damaged(server, tmp_path, monkeypatch):
    files = tuple(replace(remote(server, "good"), name=name) for name in ("a.bin", "b.bin"))
    labels = (replace(remote(server, "good"), name="labels.bin"),)
    monkeypatch.setitem(KNOWN, "mnist", replace(KNOWN["mnist"], files=files, labels=labels))
    (tmp_path / "a.bin").write_bytes(CONTENT)
    data.download("mnist", tmp_path)
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == {"b.bin", "labels.bin"}
    (tmp_path / "a.bin").write_bytes(b"of another data set, under the same name")
    data.download("mnist", tmp_path)
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == {"a.bin", "b.bin", "labels.bin"}
    data.download("digits", tmp_path)
    assert server.asked == ["good"] * 3


def test_labels_that_no_mirror_has_are_a_warning(server, tmp_path, monkeypatch):
    labels = (replace(remote(server, "missing"), name="labels.bin"),)
    monkeypatch.setitem(KNOWN, "mnist", replace(KNOWN["mnist"], files=(remote(server, "good"),), labels=labels))
    with pytest.warns(UserWarning, match=r"MNIST is used without its labels: labels\.bin could not be downloaded"):
        data.download("mnist", tmp_path)
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("name", data.NAMES)
def test_every_file_has_a_second_mirror_and_a_checksum(name):
    for file in (*KNOWN[name].files, *KNOWN[name].labels):
        assert len(file.urls) >= 2 and (file.checksum or name in CHECKS)
