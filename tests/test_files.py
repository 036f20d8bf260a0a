"""Files that are whole or not there at all, and their hashes."""

import hashlib
import subprocess
import sys

import pytest

from lib import files
from lib.errors import DataError
from lib.settings import ROOT


def test_a_file_is_replaced_when_all_went_well(tmp_path):
    """The old content until then; nothing beside it afterwards, and folders made on the way."""
    path = tmp_path / "new" / "file.txt"
    files.write_text(path, "old")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.suffix == ".txt" and temporary.name.startswith(".")
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_what_fails_changes_nothing(tmp_path):
    """The old content stays, the half of the new one goes."""
    path = tmp_path / "file.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_no_half_file(tmp_path):
    """What it wrote lies under a name that nobody takes for the file."""
    code = (
        "import os, pathlib, sys; from lib import files\n"
        "with files.replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "file.txt"], cwd=ROOT).returncode != 0
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]


def test_a_folder_that_takes_no_file(tmp_path):
    """What is found when the file is begun, not only when the folder is made (here a name that no disk takes)."""
    with pytest.raises(DataError, match="cannot be written .*Point SCBERT_CACHE to a folder that can"):
        files.write_text(tmp_path / f"{'x' * 300}.npz", "")
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_hashlibs(tmp_path):
    """Of a file longer than a block, of any kind, with a prefix; a text's is the beginning of its SHA-256."""
    content = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(content)
    assert files.digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    assert files.digest(tmp_path / "file", "sha1", b"blob") == hashlib.sha1(b"blob" + content).hexdigest()
    assert files.fingerprint("é") == hashlib.sha256("é".encode()).hexdigest()[:16]
