"""What a machine does to a store: its disk fills, cannot be written or holds rubbish, its clock is set back."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from lib.errors import DataError
from lib.experiments import inventory, profiles, runs, specs, store

root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture(scope="module")
def wanted(profile):
    """Runs of every kind: with and without pre-training, and of logistic regression."""
    return specs.cell_types(profile, ["full", "no_pretraining", "logistic_regression"], [1.0], [0])


@pytest.fixture(scope="module")
def expected(wanted):
    """Their predictions, where nothing happens."""
    return [dict(run.predictions) for run in runs.complete(wanted)]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk of 64 MB that holds the cache, and the smoke profile's cells in it: room for two runs' checkpoints."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    profiles.load("smoke")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def leave(disk, free):
    """Fill a disk with one file, but for so many bytes."""
    (disk / "other files").unlink(missing_ok=True)
    (disk / "other files").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))


def not_whole(disk):
    """Temporary files that lie there, and files that are not what they should be."""
    return [*disk.rglob(".*"), *(where for _, where, wrong in inventory.verify() if wrong)]


@pytest.mark.slow
@root
def test_a_disk_that_fills_is_said_and_costs_nothing_that_was_done(disk, wanted, expected, same, capsys):
    """Full at every kind of file in turn: what and where is said, nothing half stays, and with room the runs are the same."""
    [first] = runs.complete(wanted[2:])
    marked = (first.folder / "DONE").stat().st_mtime_ns
    for free, name in [(0, "spec.json"), (4096, "environment.json"), (100_000, "checkpoint.pt"), (200_000, "model.pt")]:
        leave(disk, free)
        with pytest.raises(DataError, match=f"The disk is full: {name} could not be written to {disk}/.*SCBERT_CACHE"):
            runs.complete(wanted)
        assert not_whole(disk) == []
    assert len(list(disk.glob("cache/runs/*/checkpoint.pt"))) == 1  # two epochs of pre-training, which are not lost
    (disk / "other files").unlink()
    assert all(same(run.predictions, there) for run, there in zip(runs.complete(wanted), expected, strict=True))
    assert not_whole(disk) == [] and (first.folder / "DONE").stat().st_mtime_ns == marked


@root
@pytest.mark.slow
def test_a_disk_that_fills_while_runs_go_side_by_side(disk, wanted, expected, same, monkeypatch):
    """The refusal comes from another process, and that is ended too."""
    monkeypatch.setenv("SCBERT_WORKERS", "2")
    leave(disk, 100_000)
    with pytest.raises(DataError, match=f"The disk is full: checkpoint.pt could not be written to {disk}/.*SCBERT_CACHE"):
        runs.complete(wanted)
    (disk / "other files").unlink()
    assert all(same(run.predictions, there) for run, there in zip(runs.complete(wanted), expected, strict=True))
    assert not_whole(disk) == []


@root
def test_a_full_disk_where_cells_are_prepared(disk):
    """Before any run."""
    shutil.rmtree(disk / "cache")
    leave(disk, 0)
    with pytest.raises(DataError, match=f"The disk is full: .* could not be written to {disk}/.*SCBERT_CACHE"):
        profiles.load("smoke")


@root
@pytest.mark.slow
def test_a_store_that_can_only_be_read_serves(disk, wanted, expected, same, capsys):
    """What is done there is read, by a profile loaded there; what is not is refused, with the folder and what to do."""
    runs.complete(wanted[:1])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert profiles.load("smoke")["fingerprint"] == wanted[0]["data"]["fingerprint"]
    capsys.readouterr()
    [read] = runs.complete(wanted[:1])
    assert same(read.predictions, expected[0]) and "1 of 1 runs are stored already" in capsys.readouterr().out
    with pytest.raises(DataError, match=f"{disk}/cache/runs/.* cannot be written .*Point SCBERT_CACHE to a folder that can"):
        runs.complete(wanted)
    with pytest.raises(DataError, match=f"{disk}/cache/runs/.* cannot be written"):
        runs.complete(wanted[:1], again="once more")
    assert same(runs.complete(wanted[:1])[0].predictions, expected[0])


@pytest.mark.slow
def test_a_clock_that_was_set_back_makes_no_run_old_or_new(profile, wanted, same):
    """All that is stored was written a year from now: it serves; by force it is done again, once for each word."""
    spec = wanted[0]
    done = runs.complete([spec["pretraining"], spec])
    before, later = [dict(run.predictions) for run in done], time.time() + 365 * 86400

    def marks():
        return [json.loads((run.folder / "DONE").read_text())["finished"] for run in done]

    def set_back():
        for run in done:
            mark = json.loads((run.folder / "DONE").read_text()) | {"finished": later}
            (run.folder / "DONE").write_text(json.dumps(mark))
            for path in [*run.folder.iterdir(), run.folder]:
                os.utime(path, (later, later))  # the same each time, of files as long as before

    set_back()
    runs.complete([spec])
    assert marks() == [later] * 2
    runs.complete([spec], again="word")
    assert max(marks()) < later - 86400
    set_back()
    runs.complete([spec], again="word")
    assert marks() == [later] * 2  # done under that word
    again = runs.complete([spec["pretraining"], spec], again="another")
    assert max(marks()) < later - 86400
    assert all(same(dict(store.Run(run.spec).predictions), there) for run, there in zip(again, before))


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 100, b"{", "[1]".encode("utf-16")], ids=["empty", "zeros", "cut", "UTF-16"])
@pytest.mark.slow
def test_rubbish_in_place_of_stored_files_is_written_again(profile, tmp_path, monkeypatch, rubbish):
    """Of prepared cells, their depths, names and a run: loaded and asked for again, everything is as it was."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    spec = specs.cell_types(profiles.load("smoke"), ["majority"], [1.0], [0])
    [run] = runs.complete(spec)
    before = dict(run.predictions)
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(stored) > 7
    for path in stored:
        path.write_bytes(rubbish)
    assert profiles.load("smoke")["fingerprint"] == profile["fingerprint"]
    [mended] = runs.complete(spec)
    assert np.array_equal(mended.predictions["probabilities"], before["probabilities"])
    assert [where for _, where, wrong in inventory.verify() if wrong] == []
