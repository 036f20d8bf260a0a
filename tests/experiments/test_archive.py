"""Published runs: served where the specification is the same, verified, without weights; computed where they are not there."""

import json
import shutil
import zipfile

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib import settings
from lib.datasets import downloads
from lib.errors import DataError
from lib.evaluate import measures
from lib.experiments import archive, names, profiles, runs, specs, store
from lib.programs import committed
from lib.programs import runs as program


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
                np.testing.assert_allclose(found, array, atol=1.5 / archive.UNIT)
                np.testing.assert_array_equal(found.argmax(1), array.argmax(1))
            else:
                np.testing.assert_array_equal(found, array)
    scores = [measures.table(done[:3]).drop(columns="run") for done in (published, served)]
    pd.testing.assert_frame_equal(*scores)


def test_they_serve_other_code_too_and_the_store_comes_first(published, wanted, empty, monkeypatch, capsys):
    monkeypatch.setattr(runs, "code_hash", lambda: "of another version")
    assert all(isinstance(run, archive.PublishedRun) for run in runs.complete(wanted))
    assert "by this code (" in capsys.readouterr().out
    monkeypatch.setattr(archive, "LOADED", "fedcba9876543210")
    runs.complete(wanted)
    assert f"by code {names.LOADED[:8]}, here it is fedcba98 (" in capsys.readouterr().out
    monkeypatch.undo()
    here = runs.complete(wanted)  # in the store that computed them
    assert not any(isinstance(run, archive.PublishedRun) for run in here)
    assert "published" not in capsys.readouterr().out.splitlines()[-1]


def test_another_specification_is_computed_and_what_it_needs_too(published, profile, empty, capsys):
    """A run that is not published needs the weights of a pre-training that is: these are computed."""
    [spec] = specs.cell_types(profile, ["no_gene2vec"], [1.0], [1])
    [run] = runs.complete([spec])
    said = capsys.readouterr().out
    assert "published" not in said and run.folder.is_dir() and store.Run(spec["pretraining"]).weights.exists()


def test_weights_are_where_a_run_was_computed(published, wanted, empty, capsys):
    """A published run has none. Asked for together with a run that needs its weights, it is computed, and served from there."""
    before = wanted[1]["pretraining"]
    [alone] = runs.complete([before])
    assert isinstance(alone, archive.PublishedRun) and alone.weights is None and store.Run(before).weights is None
    capsys.readouterr()
    other = wanted[1] | {"seed": 5}
    done = runs.complete([before, other, wanted[0]])
    assert "1 of 3 runs are published ones" in capsys.readouterr().out
    assert [isinstance(run, archive.PublishedRun) for run in done] == [False, False, True]
    assert done[0].weights.exists() and done[1].weights.exists()


def test_a_corpus_known_by_its_content_alone_is_served_or_refused(place, profile, empty, tmp_path, monkeypatch):
    """Readers without its files have the published runs, under --force too; where there are none they hear what is missing."""
    genes = list(profile["adata"].var_names)
    counts = np.random.default_rng(0).poisson(1.0, (40, len(genes))).astype(np.float32)
    path = tmp_path / "corpus.h5ad"
    anndata.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=genes)).write_h5ad(path)
    content = profiles.read("smoke")
    content["pretraining"] |= {"corpus": str(path)}
    [spec] = specs.cell_types(profiles.load(content), ["no_gene2vec"], [0.5], [0])
    [here] = runs.complete([spec])
    archive.write("smoke", {profile["fingerprint"]})
    given = {"sha256": spec["pretraining"]["corpus"]["file"]["sha256"]}
    [[asked]] = specs.corpora(profile | {"corpora": {"other cells": given}, "seeds": [0]}).values()
    asked |= {"fraction": 0.5}
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "another"))
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "cells").symlink_to(empty / "cells")
    for again in (None, "anew"):
        [there] = runs.complete([asked], again=again)
        assert isinstance(there, archive.PublishedRun)
        np.testing.assert_allclose(there.predictions["probabilities"], here.predictions["probabilities"], atol=1.5e-5)
    assert str(path) not in (place / "smoke.zip").read_bytes().decode("latin1")
    assert runs.to_be_had([asked]) == [asked]
    (place / "smoke.zip").unlink()
    assert runs.to_be_had([asked, spec]) == [spec], "what says where its files lie can be computed"
    with pytest.raises(DataError, match="not published here. To compute them, give where it lies"):
        runs.complete([asked])


def test_force_computes_published_runs(published, wanted, empty, capsys):
    done = runs.complete(wanted[:1], again="anew")
    assert "published" not in capsys.readouterr().out and done[0].folder.is_dir()
    np.testing.assert_array_equal(done[0].predictions["test"], published[0].predictions["test"])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_log(path):
    """One log changed, all else as it was: the zip is sound."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    changed = next(name for name in members if name.startswith("logs/"))
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content + b"0,0\n" if name == changed else content)


def sums_anew(place):
    (place / archive.SUMS).write_text("".join(f"{archive.sum_of(path)}\n" for path in place.glob("*.zip")))


def no_sums(path):
    (path.parent / archive.SUMS).unlink()


@pytest.mark.parametrize("harm", [cut, other_log, no_sums])
def test_what_is_damaged_or_changed_is_refused(published, profile, wanted, place, empty, harm):
    """By who reads it and by who would add to it; and it does not stand in the way of who computes anew."""
    harm(place / "smoke.zip")
    words = "smoke.zip is not the archive of runs that SHA256SUMS.*git checkout -- data/runs.*--force"
    with pytest.raises(DataError, match=words):
        runs.complete(wanted)
    runs.complete(wanted[:1], again="anew")
    with pytest.raises(DataError, match=words):
        archive.write("smoke", {profile["fingerprint"]})


def test_each_member_is_known_by_its_own_hash(published, wanted, place, empty):
    """Also where the archive's was written anew after the change."""
    other_log(place / "smoke.zip")
    sums_anew(place)
    with pytest.raises(DataError, match=r"logs/\w+.csv in .*smoke.zip is missing or damaged \(its content is another\)"):
        [run.log for run in runs.complete([*wanted, wanted[1]["pretraining"]])]
    cut(place / "smoke.zip")
    sums_anew(place)
    with pytest.raises(DataError, match=r"smoke.zip is no archive of runs .*git checkout"):
        runs.complete(wanted)


def test_publishing_one_archive_vouches_for_no_other(published, profile, place):
    """The line of an archive that was damaged since stays as it was; what is being written is not looked at."""
    shutil.copy(place / "smoke.zip", place / "liver.zip")
    sums_anew(place)
    cut(place / "liver.zip")
    (place / ".1.laptop.zip").write_bytes(b"half of it")
    archive.write("smoke", {profile["fingerprint"]})
    lines = (place / archive.SUMS).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["liver.zip", "smoke.zip"]
    assert archive.sum_of(place / "liver.zip") not in lines and archive.sum_of(place / "smoke.zip") in lines
    (place / "liver.zip").unlink()
    assert archive.published(published[0].spec)


def test_nothing_to_publish_is_refused(place, empty, profile):
    with pytest.raises(DataError, match="no finished run of the present code over the cells of smoke"):
        archive.write("smoke", {profile["fingerprint"]})
    assert not place.exists()


def test_cells_from_a_file_are_not_published(place, profile, cells, tmp_path, published):
    """A specification that names a place on this machine serves nobody else."""
    cells.write_h5ad(tmp_path / "mine.h5ad")
    there = profiles.external(profile, tmp_path / "mine.h5ad")
    [run] = runs.complete(specs.external(there, [wanted_run.spec for wanted_run in published[:1]]))
    assert run.predictions["probabilities"].shape[0] == there["adata"].n_obs
    archive.write("smoke", {profile["fingerprint"], there["fingerprint"]})
    assert archive.published(published[0].spec) and archive.published(run.spec) is None


def test_cells_named_by_their_content_are_asked_about_without_their_file(
    place, profile, cells, tmp_path, published, monkeypatch
):
    """What models say of a profile's probe is published with them, and served where the cells are not."""
    cells.write_h5ad(tmp_path / "mine.h5ad")
    fingerprint = profiles.external(profile, tmp_path / "mine.h5ad")["fingerprint"]
    asked = specs.probe(profile | {"probe": {"name": "my cells", "fingerprint": fingerprint}}, [published[0].spec])
    [here] = runs.complete(asked)
    archive.write("smoke", {profile["fingerprint"]}, frozenset({fingerprint}))
    assert str(tmp_path) not in str(archive.published(asked[0]).spec)
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "another"))
    for again in (None, "anew"):
        [there] = runs.complete(runs.to_be_had(asked), again=again)
        assert isinstance(there, archive.PublishedRun)
        np.testing.assert_allclose(there.predictions["probabilities"], here.predictions["probabilities"], atol=1.5e-5)
    (place / "smoke.zip").unlink()
    assert runs.to_be_had(asked) == [] and specs.probe(profile, [published[0].spec]) == []


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


def kept(name, array):
    """An array as it comes out of an archive."""
    return archive._as_it_was(name, archive._compact(name, array), array.dtype)


def test_rounding_never_changes_an_answer():
    """Not where two classes are a millionth apart, either way round; a true tie stays one."""
    close = np.float32([[0.3000001, 0.3000002, 0.3999997], [0.4999999, 0.5000001, 0], [0.5000001, 0.4999999, 0], [0.5, 0.5, 0]])
    found = kept("probabilities", close)
    np.testing.assert_array_equal(found.argmax(1), [2, 1, 0, 0])
    np.testing.assert_allclose(found, close, atol=1.5 / archive.UNIT)
    assert found.dtype == np.float32 and found[3, 0] == found[3, 1]
    drawn = np.random.default_rng(0).dirichlet(np.full(10, 0.2), 5000).astype(np.float32)
    np.testing.assert_array_equal(kept("probabilities", drawn).argmax(1), drawn.argmax(1))


@pytest.mark.parametrize("given", [[-1, 200], [0, 2**40], 7, np.zeros(0, int), ["a", "bc"]], ids=str)
def test_whole_numbers_and_words_come_back_as_they_were(given):
    array = np.array(given)
    assert kept("test", array).dtype == array.dtype and np.array_equal(kept("test", array), array)


def test_representations_keep_three_digits():
    """What two bytes cannot hold stays as it is."""
    x = np.random.default_rng(0).normal(0, 3, (500, 8)).astype(np.float32)
    np.testing.assert_allclose(kept("cells", x), x, rtol=2**-11, atol=1e-7)
    assert np.array_equal(kept("cells", x * 1e5), x * 1e5) and np.array_equal(kept("variance", x), x)


def test_the_program_publishes_a_profile(place, profile, wanted, capsys):
    runs.complete(wanted)
    assert program.main(["export", "smoke"]) == 0
    assert "smoke.zip: " in capsys.readouterr().out and (place / archive.SUMS).read_text().endswith("  smoke.zip\n")


SUMS = (committed.content(f"data/runs/{archive.SUMS}") or b"").decode().splitlines()  # git's: without what a reader imported
COMMITTED = [settings.ROOT / "data" / "runs" / line.split("  ")[1] for line in SUMS]


@pytest.mark.slow
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
    *other, name = path.stem.rsplit("-", 1)
    profile = profiles.read(name)
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("SCBERT_DATA_DIR", "")
    shutil.copytree(shared / "downloads", tmp_path / "downloads")
    needed = [*(other or [profile["data"]["dataset"]]), *(["vocabulary"] if profile["data"]["vocabulary"] else [])]
    needed += ["gene2vec"] if profile["gene_embedding"] == "gene2vec" else []
    if missing := [source for source in needed if not downloads.have(source)]:
        pytest.skip(f"the files of {', '.join(missing)} are not at hand")
    profile = profiles.load(name, dataset=other[0] if other else None)
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
