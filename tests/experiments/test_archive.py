"""Published runs: served where the specification is the same, verified, without weights; computed where they are not there."""

import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from lib import settings
from lib.errors import DataError
from lib.experiments import archive, profiles, runs, specs, store
from lib.programs import archive as program


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of archives of its own."""
    monkeypatch.setattr(archive, "folder", lambda: tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def wanted(profile):
    arms = ["logistic_regression", "no_gene2vec", "majority"]
    return specs.cell_types(profile, arms, [0.5], [0]) + specs.masked(profile, ["no_gene2vec"])


@pytest.fixture
def published(place, profile, wanted, capsys):
    """These runs, computed and published; the store as it was."""
    done = runs.complete(wanted)
    archive.write("smoke", {profile["fingerprint"]})
    capsys.readouterr()
    return done


@pytest.fixture
def empty(tmp_path, monkeypatch, profile):
    """A store without runs, as in a fresh clone; the prepared cells are there."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cells").symlink_to(settings.cache() / "cells")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_published_runs_are_served_whole_and_nothing_is_computed(published, wanted, empty, capsys):
    served = runs.complete(json.loads(json.dumps(wanted)))  # as a specification comes out of a file
    assert "4 of 4 runs are published ones, of data/runs/smoke.zip" in capsys.readouterr().out
    assert not (empty / "runs").exists(), "nor is the pre-training, whose weights nobody asks for"
    for here, there in zip(published, served):
        assert there.spec == here.spec and there.environment == here.environment and there.folder is None
        pd.testing.assert_frame_equal(there.log, here.log)
        assert there.predictions.keys() == here.predictions.keys()
        for name, array in here.predictions.items():
            found = there.predictions[name]
            assert found.dtype == array.dtype and found.shape == array.shape
            if name == "probabilities":
                np.testing.assert_allclose(found, array, atol=10**-archive.DECIMALS)
                np.testing.assert_array_equal(found.argmax(1), array.argmax(1))
            else:
                np.testing.assert_array_equal(found, array)


def test_they_serve_other_code_too_and_the_store_comes_first(published, wanted, empty, monkeypatch, capsys):
    monkeypatch.setattr(runs, "code_hash", lambda: "of another version")
    assert all(isinstance(run, archive.PublishedRun) for run in runs.complete(wanted))
    monkeypatch.undo()
    here = runs.complete(wanted)  # in the store that computed them
    assert not any(isinstance(run, archive.PublishedRun) for run in here)
    assert "published" not in capsys.readouterr().out.splitlines()[-1]


def test_another_specification_is_computed_and_what_it_needs_too(published, profile, empty, capsys):
    """A run that is not published needs the weights of a pre-training that is: these are computed."""
    [spec] = specs.cell_types(profile, ["no_gene2vec"], [1.0], [1])
    [run] = runs.complete([spec])
    said = capsys.readouterr().out
    assert "published" not in said and run.folder.is_dir() and (store.Run(spec["pretraining"]).folder / "model.pt").exists()


def test_force_computes_published_runs(published, wanted, empty, capsys):
    done = runs.complete(wanted[:1], again="anew")
    assert "published" not in capsys.readouterr().out and done[0].folder.is_dir()
    np.testing.assert_array_equal(done[0].predictions["test"], published[0].predictions["test"])


@pytest.mark.parametrize("harm", ["cut", "changed", "no sums"])
def test_what_is_damaged_or_changed_is_refused(published, wanted, place, empty, harm):
    path = place / "smoke.zip"
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "changed":
        path.unlink()
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(archive.INDEX, "{}")
    else:
        (place / archive.SUMS).unlink()
    with pytest.raises(DataError, match="smoke.zip is not the archive of runs that SHA256SUMS.*git checkout"):
        runs.complete(wanted)


def test_the_same_runs_make_the_same_file_and_weights_stay_out(published, profile, place):
    before = (place / "smoke.zip").read_bytes()
    archive.write("smoke", {profile["fingerprint"]})
    assert (place / "smoke.zip").read_bytes() == before
    with zipfile.ZipFile(place / "smoke.zip") as file:
        names = file.namelist()
        index = json.loads(file.read(archive.INDEX))
        largest = max(about.file_size for about in file.infolist())
    assert {name.split("/")[0] for name in names} == {"index.json", "logs", "arrays"} and largest < 100_000
    assert any(entry["spec"]["task"] == "pretraining" for entry in index.values()), "its log shows how it ended"
    tests = [entry["arrays"]["test"][0] for entry in index.values() if "test" in entry["arrays"]]
    assert len(tests) > 3 and len(set(tests)) == 1, "what runs share is kept once"


def test_what_an_archive_has_stays_in_it(published, profile, place, empty):
    """Published from a store that lacks the earlier runs: they are kept, the new one is added; others' cells are not."""
    before = len(json.loads(zipfile.ZipFile(place / "smoke.zip").read(archive.INDEX)))
    runs.complete(specs.cell_types(profile, ["majority"], [1.0], [7]))
    assert archive.write("smoke", {profile["fingerprint"]})[1] == before + 1
    assert archive.write("smoke", {"other cells"})[1] == before + 1


def test_rounding_never_changes_an_answer():
    close = np.float32([[0.3000001, 0.3000002, 0.3999997], [0.4999999, 0.5000001, 0.0]])
    kept = archive._compact("probabilities", close)
    np.testing.assert_array_equal(kept.argmax(1), close.argmax(1))
    assert kept[0, 0] == np.float32(0.3) and kept[1, 0] == close[1, 0]


def test_the_program_publishes_a_profile(place, profile, wanted, capsys):
    runs.complete(wanted)
    assert program.main(["smoke"]) == 0
    assert "smoke.zip: " in capsys.readouterr().out and (place / archive.SUMS).read_text().endswith("  smoke.zip\n")


COMMITTED = sorted((settings.ROOT / "data" / "runs").glob("*.zip"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_archives_are_whole(path):
    """Every run can be read: its log, and predictions whose probabilities are some; every training says how it ended."""
    index = archive._index(path, path.stat().st_size, path.stat().st_mtime_ns)
    assert len(index) > 20
    for name, entry in index.items():
        assert archive.name_of(entry["spec"]) == name
        run = archive.published(entry["spec"])
        p = run.predictions
        if "probabilities" in p:
            np.testing.assert_allclose(p["probabilities"].sum(1), 1, atol=2e-4)
        if entry["spec"].get("training", {}).get("ends"):
            assert str(p["ended"]) in ("plateau", "maximum") and {"steps", "loss"} <= set(run.log.columns)


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_published_runs_come_out_again(path, shared, tmp_path, monkeypatch):
    """Computed here, from the specification alone: logistic regression says the same of nearly every cell; scBERT, whose
    training multiplies the last digits in which processors differ, is as often right."""
    index = archive._index(path, path.stat().st_size, path.stat().st_mtime_ns)
    dataset = next(entry["spec"]["data"]["dataset"] for entry in index.values())
    shutil.copytree(shared / "downloads", tmp_path / "downloads")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.delenv("SCBERT_DATA_DIR", raising=False)
    name = path.stem.split("-")[-1]
    profile = profiles.load(name, dataset=None if dataset == profiles.read(name)["data"]["dataset"] else dataset)
    wanted = specs.cell_types(profile, ["logistic_regression", "majority"], [1.0], [0])
    wanted += specs.cell_types(profile, ["no_gene2vec_no_pretraining"], [0.1], [0])
    served = [archive.published(spec) for spec in wanted]
    assert all(served), "these cells are prepared into other numbers than those of the published runs"
    for there, here in zip(served, runs.complete(wanted, again="anew")):
        labels = here.predictions["labels"]
        answers = [run.predictions["probabilities"].argmax(1) for run in (there, here)]
        if here.spec["model"] != "scBERT":
            assert np.mean(answers[0] == answers[1]) >= 0.995
        assert abs(np.mean(answers[0] == labels) - np.mean(answers[1] == labels)) < 0.05
