"""Files that are whole or not there at all, and their hashes."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

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


def test_what_killed_processes_left_goes(tmp_path):
    """When the file is written again; what a living process or another machine is at stays."""
    path = tmp_path / "a[1].txt"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, living, elsewhere = (
        tmp_path / f".{number}@{host}.a[1].txt"
        for number, host in ((ended.pid, files.HERE), (os.getppid(), files.HERE), (ended.pid, "another"))
    )
    for file in (left, living, elsewhere):
        file.write_text("half")
    files.write_text(path, "whole")
    assert not left.exists() and living.exists() and elsewhere.exists() and path.read_text() == "whole"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    """By text, arrays and torch: the refusal says that the disk is full, the old file stays, nothing is left beside it."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    path, much = tmp_path / "file", np.random.default_rng(0).standard_normal(100_000)
    try:
        files.write_text(path, "old")
        for write in (
            lambda file: file.write_bytes(much.tobytes()),
            lambda file: np.savez(file.open("wb"), much),
            lambda file: torch.save(torch.from_numpy(much), file),
        ):
            said = "The disk is full: file could not be written to .*SCBERT_CACHE"
            with pytest.raises(DataError, match=said), files.replacing(path) as temporary:
                write(temporary)
            assert [other.name for other in tmp_path.iterdir()] == ["file"] and path.read_text() == "old"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_what_is_known_of_a_file_is_of_no_other(tmp_path):
    """Put in its place, or written over, as long and with the same time: as where a clock is coarse or was set back."""
    path, other = tmp_path / "file", tmp_path / "other"
    known = []
    for content in (b"one", b"two", b"six"):
        other.write_bytes(content)
        os.utime(other, (1e9, 1e9))
        other.replace(path)
        known.append(files.known(files.digest, path))
    path.write_bytes(b"ten")
    os.utime(path, (1e9, 1e9))
    assert len({*known, files.known(files.digest, path)}) == 4
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.known(files.digest, path)


def test_a_seal_tells_any_changed_byte(tmp_path):
    """Whichever byte is changed; also where file or seal is missing."""
    path = tmp_path / "array.npy"
    np.save(path, np.arange(5, dtype=np.uint8))
    assert not files.sealed(path)
    files.seal(path)
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        os.utime(path, ns=(0, i))
        assert not files.sealed(path), i
    path.write_bytes(whole)
    assert files.sealed(path)
    path.unlink()
    assert not files.sealed(path)
