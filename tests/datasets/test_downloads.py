"""The real download code against a local HTTP server that also lies, stalls and dies."""

import functools
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib.datasets import downloads
from lib.errors import DataError

CONTENT = bytes(range(256)) * 4096  # a megabyte


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.content``; the first ``len(server.faults)`` requests go wrong in the way they name."""

    def do_GET(self):
        server = self.server
        server.paths.append(self.path)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        content = bytearray(server.content)
        if fault == "flip":
            content[len(content) // 2] ^= 1
        if fault == "page":  # a sign-in page in place of the file, with status 200
            content = b"<html>Please sign in</html>"
        if fault == "empty":
            content = b""
        self.send_response(200)
        if fault != "short":  # without a length, a cut connection looks like the end of the file
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault in ("truncate", "short", "die", "stall"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "stall":
                server.released.wait(20)
            if fault == "die":  # a reset, not an orderly end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
            return None
        if server.slow:
            time.sleep(server.slow)
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.faults, server.paths, server.slow = CONTENT, [], [], 0
        server.released = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    """A registry of one file, known by its SHA-256, another by its blob id; the folder that is downloaded to."""
    entry = {
        "title": "a test file",
        "file": "file.bin",
        "address": f"{server.address}/pinned/file.bin",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    other = {"title": "a git file", "file": "git.bin", "address": f"{server.address}/git.bin", "blob": blob}
    monkeypatch.setattr(downloads, "registry", lambda: {"file": entry, "git": other})
    monkeypatch.setenv("SCBERT_TIMEOUT", "0.5")
    monkeypatch.setenv("SCBERT_DATA_DIR", str(tmp_path / "downloads"))
    for name in ("SCBERT_OFFLINE", "SCBERT_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "downloads"


def kept(folder):
    """The files of a folder, notes and locks left out."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".verified")))


@pytest.mark.parametrize("name", ["file", "git"])
def test_downloads_once_and_verifies(server, place, name):
    path = downloads.fetch(name)
    assert path.read_bytes() == CONTENT and path.parent == place
    assert downloads.fetch(name) == path and len(server.paths) == 1


@pytest.mark.parametrize("fault", ["truncate", "short", "die", "stall", "flip", "page", "empty", 500, 503])
def test_one_fault_is_mended_by_the_next_try(server, place, fault):
    server.faults = [fault]
    assert downloads.fetch("file").read_bytes() == CONTENT
    assert kept(place) == ["file.bin"] and len(server.paths) == 2


@pytest.mark.parametrize(
    "fault, says",
    [
        ("truncate", "IncompleteRead"),
        ("short", "bytes|sha256"),
        ("die", "reset|IncompleteRead"),
        ("stall", "timed out"),
        ("flip", "sha256"),
        ("page", "sha256"),
        ("empty", "sha256"),
        (500, "500"),
        (404, "404"),
        (403, "403"),
    ],
)
def test_a_lasting_fault_leaves_nothing_and_says_why(server, place, fault, says):
    server.faults = [fault] * 3
    with pytest.raises(DataError, match=f"(?s)could not be downloaded.*({says}).*by hand.*README.*file.bin"):
        downloads.fetch("file")
    assert kept(place) == []
    server.faults = []
    assert downloads.fetch("file").read_bytes() == CONTENT  # the next call succeeds


def test_a_missing_file_is_asked_for_once(server, place):
    server.faults = [404]
    with pytest.raises(DataError, match="404"):
        downloads.fetch("file")
    assert len(server.paths) == 1


@pytest.mark.slow
def test_a_killed_download_leaves_no_wrong_file(server, place):
    """The process dies in the middle: what it wrote is not under the file's name, and the next process succeeds."""
    server.faults = ["stall"]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from lib.datasets import downloads\n"
        "entry = {'title': 'a test file', 'file': 'file.bin', 'address': sys.argv[2], 'sha256': sys.argv[3]}\n"
        "downloads.registry = lambda: {'file': entry}\ndownloads.fetch('file')"
    )
    entry = downloads.registry()["file"]
    root = str(Path(__file__).resolve().parents[2])
    patient = os.environ | {"SCBERT_TIMEOUT": "60"}  # it must not try again before it is killed
    process = subprocess.Popen([sys.executable, "-c", code, root, entry["address"], entry["sha256"]], env=patient)
    for _ in range(200):
        if server.paths and place.exists() and list(place.glob(".*.file.bin")):
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert server.paths and not (place / "file.bin").exists()
    assert downloads.fetch("file").read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_used_if_it_verifies(server, place):
    place.mkdir()
    (place / "git.bin").write_bytes(CONTENT)
    (place / "file.bin").write_bytes(CONTENT[:-1] + b"x")
    assert downloads.fetch("git").read_bytes() == CONTENT
    with pytest.raises(DataError, match="file.bin is not the file that was published: its sha256 is .* Delete it"):
        downloads.fetch("file")
    assert (place / "file.bin").read_bytes() == CONTENT[:-1] + b"x"  # a user's file is never removed
    assert not server.paths


def test_a_verified_file_that_changes_is_noticed(server, place):
    path = downloads.fetch("file")
    time.sleep(0.01)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match="not the file that was published"):
        downloads.fetch("file")


def test_offline_asks_nobody(server, place, monkeypatch):
    monkeypatch.setenv("SCBERT_OFFLINE", "1")
    with pytest.raises(DataError, match="SCBERT_OFFLINE is set. Put a test file there by hand from http"):
        downloads.fetch("file")
    assert not server.paths
    (place / "file.bin").write_bytes(CONTENT)
    assert downloads.fetch("file").read_bytes() == CONTENT


def test_a_mirror_takes_the_addresses_place(server, place, monkeypatch):
    monkeypatch.setenv("SCBERT_MIRROR", server.address + "/mirror/")
    downloads.fetch("file")
    assert server.paths == ["/mirror/file.bin"]


def test_processes_that_ask_together_download_once(server, place):
    server.slow = 0.3
    threads = [threading.Thread(target=functools.partial(downloads.fetch, "file")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (place / "file.bin").read_bytes() == CONTENT and len(server.paths) == 1


def test_an_unknown_name_and_a_folder_that_cannot_be_written(server, place, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="no source 'nothing'. Sources: file, git"):
        downloads.fetch("nothing")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SCBERT_DATA_DIR", str(tmp_path / "file" / "downloads"))
    with pytest.raises(DataError, match="SCBERT_DATA_DIR"):
        downloads.fetch("file")


def test_a_drive_item_names_the_equal_way_by_hand(server, place, monkeypatch):
    import gdown

    entry = {"title": "a drive item", "file": "item.pth", "address": "https://drive.google.com/file/d/abc", "drive": "abc"}
    monkeypatch.setattr(downloads, "registry", lambda: {"item": entry})
    asked = []
    monkeypatch.setattr(gdown, "download", lambda **given: asked.append(given["id"]))  # gdown's answer to a full quota
    with pytest.raises(DataError, match="Google Drive gave no file.*by hand .*put it at .*item.pth"):
        downloads.fetch("item")
    assert asked == ["abc"] * 3
    (place / "item.pth").write_bytes(b"weights")  # no hash is published: its loader checks the content
    assert downloads.fetch("item").read_bytes() == b"weights"


def test_the_registry_is_complete_and_pinned():
    for name, entry in downloads.registry.__wrapped__().items():
        assert {"title", "file", "address", "licence", "citation"} <= entry.keys(), name
        if "github" in entry["address"]:
            assert any(len(part) == 40 for part in entry["address"].split("/")), name
            assert len(entry.get("sha256", "")) == 64 or len(entry.get("blob", "")) == 40, name
        else:
            assert "holds" in entry or name == "macparland_labels", name


@pytest.mark.slow
def test_the_true_file_from_download_to_cells(server, shared, tmp_path, monkeypatch):
    """zheng_sorted through the whole chain, equal to an independent reading of the same file."""
    import anndata
    import numpy as np

    from lib.datasets import catalogue

    server.content = (shared / "downloads" / "pbmc_facs.RData").read_bytes()
    monkeypatch.setenv("SCBERT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SCBERT_MIRROR", server.address)
    monkeypatch.delenv("SCBERT_OFFLINE", raising=False)
    monkeypatch.setenv("SCBERT_TIMEOUT", "5")
    server.faults = ["truncate", "flip"]
    adata = catalogue.load("zheng_sorted")
    expected = anndata.read_h5ad(shared / "zheng_sorted.h5ad")
    assert (adata.X != expected.X).nnz == 0 and adata.X.dtype == np.float32 and adata.X.format == "csr"
    assert adata.var_names.equals(expected.var_names) and adata.obs_names.equals(expected.obs_names)
    assert (adata.obs["cell_type"].astype(str) == expected.obs["cell_type"].astype(str)).all()
    assert adata.uns["dataset"]["values"] == "counts" and len(server.paths) == 3
