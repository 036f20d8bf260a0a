"""Looking after the store: what is listed, what is found damaged, what is exported, imported, merged and removed."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from filelock import FileLock

from lib import files, settings
from lib.errors import DataError
from lib.experiments import archive, exchange, profiles, runs, specs, store
from lib.prepare import embeddings
from lib.programs import runs as program


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with four finished runs of the smoke profile, one of which no profile asks for. Not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCBERT_CACHE", str(cache))
        profile = profiles.load("smoke")
        wanted = specs.cell_types(profile, ["logistic_regression", "majority", "no_gene2vec"], [0.5], [0])
        runs.complete(wanted)
    return cache, profile, wanted


@pytest.fixture
def cache(whole, tmp_path, monkeypatch):
    """A copy of it, to be changed, with a folder of archives of its own."""
    shutil.copytree(whole[0], tmp_path / "cache")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archive, "folder", lambda: tmp_path / "archives")
    return tmp_path / "cache"


@pytest.fixture
def said(capsys):
    """Run the program: its exit status, and what it printed."""

    def call(*arguments):
        capsys.readouterr()
        status = program.main([str(word) for word in arguments])
        return status, capsys.readouterr().out

    return call


def folder(spec):
    return store.Run(spec).folder


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def unfinished(spec, epochs=5, stop_after=2):
    """Leave a run as it is when it is interrupted after some epochs."""

    class Interrupted(Exception):
        pass

    written, really = [], store.scbert.training.save

    def save(path, content):
        really(path, content)
        written.append(path)
        if len(written) == stop_after:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.scbert.training, "save", save)
        with pytest.raises(Interrupted):
            store.compute(spec | {"training": spec["training"] | {"epochs": epochs}})
    return folder(spec | {"training": spec["training"] | {"epochs": epochs}})


def test_the_list_says_what_each_run_is_and_how_it_stands(cache, whole, said):
    """Done, running, unfinished with how far it is, damaged, another's under its name."""
    _, profile, (regression, majority, scbert) = whole
    status, output = said("list")
    lines = output.splitlines()
    assert status == 0 and lines[0].split()[:4] == ["run", "profile", "what", "arm"] and len(lines) == 6
    line = next(line for line in lines if "no_gene2vec" in line and "cell types" in line)
    assert line.split()[1:8] == ["smoke", "cell", "types", "no_gene2vec", "0.5", "0", "done"]
    assert lines[-1].startswith(f"4 runs in {cache / 'runs'}: 4 done; ")
    flip(folder(regression) / "log.csv")
    shutil.rmtree(folder(scbert))
    shutil.copytree(folder(majority), folder(scbert))
    left = unfinished(specs.cell_types(profile, ["no_pretraining"], [0.5], [0])[0])
    with FileLock(folder(majority).with_suffix(".lock")):
        output = said("list")[1]
    states = {line.split()[0]: line for line in output.splitlines()[1:-1]}
    assert "damaged (is damaged (log.csv))" in states[folder(regression).name]
    assert f"there lies run {folder(majority).name}" in states[folder(scbert).name]
    assert "running" in states[folder(majority).name] and "unfinished (2 of 5 epochs, loss " in states[left.name]
    assert "2 damaged, 1 done, 1 running, 1 unfinished" in output
    assert len(said("list", "unfinished", "smoke")[1].splitlines()) == 3
    assert said("list", "laptop")[1].splitlines()[0].startswith("0 runs")


def test_a_run_is_shown_by_the_beginning_of_its_name(cache, whole, said):
    run = folder(whole[2][2])
    status, output = said("show", run.name[:6])
    spec = json.loads(output[output.index("\n{") :])
    assert status == 0 and spec == json.loads((run / "spec.json").read_text()) and "by this code" in output
    assert f"begins with {folder(whole[2][2]['pretraining']).name} (pretraining" in output and "2 rows; the last" in output
    flip(run / "spec.json")
    assert "damaged (spec.json)" in said("show", run.name)[1]
    for beginning, words in (("", "4 runs, .* begin with ''"), ("zz", "No run .*begin with 'zz'.*lib.runs list")):
        with pytest.raises(DataError, match=words):
            program.main(["show", beginning])


def test_verify_compares_every_file_with_its_hash(cache, whole, said, place_of_gene2vec):
    """One byte changed in any file of any kind is found, by its path; and nothing else is."""
    _, profile, wanted = whole
    embeddings.kept_gene2vec(["A", "B"])
    files.write_text(cache / "plans" / "a.json", '{"cells": 100}')
    files.seal(cache / "plans" / "a.json")
    archive.write("smoke", {profile["fingerprint"]})
    left = unfinished(specs.cell_types(profile, ["no_pretraining"], [0.5], [0])[0])
    status, output = said("verify")
    assert status == 0 and output.splitlines()[-1].endswith("All whole.") and len(output.splitlines()) == 1
    assert "1 archives, 1 checkpoints, 1 gene2vec, 1 plans, 2 prepared cells, 4 runs" in output
    stored = [path for run in (wanted[2], wanted[0]) for path in folder(run).iterdir()] + [left / "checkpoint.pt"]
    stored += [path for path in cache.rglob("*") if path.parent.name in ("cells", "gene2vec", "plans")]
    stored = [path for path in stored if path.suffix not in (".sha256", ".lock") and not path.name.endswith("smoke.json")]
    assert len(stored) >= 16
    for path in [*stored, archive.folder() / "smoke.zip"]:
        content = path.read_bytes()
        flip(path)
        status, output = said("verify")
        found = [line for line in output.splitlines() if line.startswith("DAMAGED")]
        assert status == 1 and len(found) == 1 and str(path.parent if path.parent.parent.name == "runs" else path) in found[0]
        assert path.name in found[0] or path.name == "DONE"
        path.write_bytes(content)
    (cache / "plans" / "a.json.sha256").unlink()
    assert said("verify")[0] == 1


@pytest.fixture
def place_of_gene2vec(cache, monkeypatch):
    """A text file of gene2vec's form where it is looked for."""
    path = cache / "mine.txt"
    path.write_text("A 1 2\nB 3 4\n")
    monkeypatch.setattr(embeddings, "gene2vec_path", lambda: path)


def test_an_archive_is_exported_and_imported_elsewhere(cache, whole, said, tmp_path, monkeypatch):
    """Verified before anything is taken; runs that are there already stay; then the runs serve."""
    wanted = whole[2]
    status, output = said("export", "smoke")
    assert status == 0 and "smoke.zip: 4 runs" in output
    exported = archive.folder() / "smoke.zip"
    monkeypatch.setattr(archive, "folder", lambda: tmp_path / "elsewhere")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "empty"))
    assert archive.published(wanted[0]) is None
    status, output = said("import", exported)
    assert status == 0 and f"4 runs taken into {tmp_path / 'elsewhere' / 'smoke.zip'}; 0 were here" in output
    found = archive.published(wanted[0])
    np.testing.assert_array_equal(found.predictions["test"], np.load(cache_run(whole, 0) / "predictions.npz")["test"])
    assert "0 runs taken" in said("import", exported)[1] and "4 were here" in said("import", exported)[1]
    before = (tmp_path / "elsewhere" / "smoke.zip").read_bytes()
    for place in np.linspace(0.01, 0.99, 25):
        flip(shutil.copy(exported, tmp_path / "other.zip") and tmp_path / "other.zip", place)
        (tmp_path / archive.SUMS).write_text((exported.parent / archive.SUMS).read_text().replace("smoke", "other"))
        with pytest.raises(DataError, match=r"other.zip is not the archive that .*SHA256SUMS names: nothing was taken"):
            program.main(["import", str(tmp_path / "other.zip")])
    assert (tmp_path / "elsewhere" / "smoke.zip").read_bytes() == before and not (tmp_path / "elsewhere" / "other.zip").exists()


def cache_run(whole, number):
    return whole[0] / "runs" / folder(whole[2][number]).name


def rewritten(path, change):
    """An archive whose zip is sound, after a change of its members (a dictionary)."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def swap(index):
    """Two runs under each other's names."""
    first, second, *_ = index
    index[first], index[second] = index[second], index[first]


def of_index(change):
    def changed(members):
        index = json.loads(members[archive.INDEX])
        change(index)
        members[archive.INDEX] = json.dumps(index).encode()

    return changed


@pytest.mark.parametrize(
    "change",
    [
        of_index(swap),
        of_index(lambda index: next(iter(index.values()))["spec"].update(seed=99)),
        of_index(lambda index: next(iter(index.values())).update(log="logs/none.csv")),
        of_index(lambda index: next(iter(index.values())).pop("environment")),
        lambda members: members.pop(next(name for name in members if name.startswith("arrays/"))),
        lambda members: members.update(
            {next(name for name in members if name.startswith("logs/")): b"C,train_accuracy\n1,1\n"}
        ),
        lambda members: members.update({archive.INDEX: b"[]"}),
        lambda members: members.pop(archive.INDEX),
    ],
    ids=["swapped", "other specification", "no log", "no environment", "no array", "other log", "no index", "nothing"],
)
def test_an_archive_that_is_not_what_it_says_is_refused(cache, whole, said, tmp_path, change):
    """By the hashes inside, where nobody gave one of the whole."""
    said("export", "smoke")
    mine = tmp_path / "mine.zip"
    shutil.copy(archive.folder() / "smoke.zip", mine)
    shutil.rmtree(archive.folder())
    rewritten(mine, change)
    with pytest.raises(DataError, match=r"mine.zip .*nothing was taken"):
        program.main(["import", str(mine)])
    assert not archive.folder().exists()


@pytest.mark.parametrize("what", ["no file", "a text", "a folder"])
def test_what_is_no_archive_or_store_is_refused(cache, tmp_path, what):
    place = tmp_path / "mine.zip"
    if what == "a text":
        place.write_text("no zip")
    elif what == "a folder":
        place.mkdir()
    with pytest.raises(DataError, match=r"mine.zip"):
        program.main(["import", str(place)])
    with pytest.raises(DataError, match=r"mine.zip is no store"):
        program.main(["merge", str(place)])
    with pytest.raises(DataError, match=r"is the store that it shall be merged into"):
        program.main(["merge", str(cache)])


def test_another_store_is_merged(cache, whole, said, tmp_path, monkeypatch, same):
    """Into an empty one all runs, and the cells; what is damaged there stays there; what is finished here stays."""
    regression, majority, scbert = whole[2]
    here = tmp_path / "here"
    monkeypatch.setenv("SCBERT_CACHE", str(here))
    flip(cache / "runs" / folder(majority).name / "predictions.npz")
    (here / "runs").mkdir(parents=True)
    (here / ".1@elsewhere.merge").mkdir()
    status, output = said("merge", cache)
    assert status == 1 and f"DAMAGED run {folder(majority).name} is damaged (predictions.npz): left out" in output
    assert "3 taken; 1 damaged there" in output and not folder(majority).exists()
    assert all(store.is_done(store.Run(spec)) for spec in (regression, scbert, scbert["pretraining"]))
    assert len(list((here / "cells").glob("*.npz"))) == 2 and not list(here.glob(".*@" + files.HERE + ".merge"))
    shutil.copytree(whole[0] / "runs" / folder(majority).name, cache / "runs" / folder(majority).name, dirs_exist_ok=True)
    flip(folder(regression) / "log.csv")  # damaged here
    before = (folder(scbert) / "DONE").stat().st_mtime_ns
    status, output = said("merge", cache)
    assert status == 0 and "2 taken, 2 here already" in output.replace("2 here already, 2 taken", "2 taken, 2 here already")
    assert (folder(scbert) / "DONE").stat().st_mtime_ns == before
    assert all(
        same(dict(store.Run(spec).predictions), dict(np.load(cache_run(whole, i) / "predictions.npz")))
        for i, spec in enumerate((regression, majority, scbert))
    )
    marks = [(folder(spec) / "DONE").stat().st_mtime_ns for spec in (regression, majority, scbert)]
    done = runs.complete([regression, majority, scbert])
    assert [(run.folder / "DONE").stat().st_mtime_ns for run in done] == marks, "nothing was left to compute"


def test_what_is_in_use_or_differs_is_left_by_merge(cache, whole, said, tmp_path, monkeypatch):
    """A run that a process is at here; and one with other numbers, as of another processor, is counted."""
    regression, majority, _ = whole[2]
    here = tmp_path / "here"
    shutil.copytree(cache, here)
    other = cache / "runs" / folder(regression).name
    with np.load(other / "predictions.npz") as file:
        arrays = dict(file)
    arrays["probabilities"] = arrays["probabilities"][:, ::-1]
    np.savez_compressed(other / "predictions.npz", **arrays)
    mark = json.loads((other / "DONE").read_text())
    mark["sha256"]["predictions.npz"] = files.digest(other / "predictions.npz")
    (other / "DONE").write_text(json.dumps(mark))
    monkeypatch.setenv("SCBERT_CACHE", str(here))
    before = (folder(regression) / "predictions.npz").read_bytes()
    shutil.rmtree(folder(majority))
    with FileLock(folder(majority).with_suffix(".lock")):
        outcomes = dict(exchange.merge(cache))
    assert outcomes[folder(majority).name] == exchange.IN_USE and not folder(majority).exists()
    assert outcomes[folder(regression).name] == exchange.OTHER
    assert (folder(regression) / "predictions.npz").read_bytes() == before


def test_only_what_no_profile_asks_for_is_removed(cache, whole, said, monkeypatch):
    """Listed first; then removed with --yes: runs of other code, damaged ones, and those that no notebook asks for."""
    regression, majority, scbert = whole[2]
    flip(folder(majority) / "log.csv")
    status, output = said("remove")
    assert status == 0 and folder(scbert).name in output and "no profile asks for it" in output
    assert "damaged: is damaged (log.csv)" in output and "2 runs" in output and "nothing was removed. With --yes" in output
    assert folder(regression).name not in output and folder(scbert["pretraining"]).name not in output
    assert folder(scbert).exists() and folder(majority).exists()
    with FileLock(folder(majority).with_suffix(".lock")):  # a process is at it: it may be mending it
        output = said("remove", "--yes")[1]
    assert "1 runs removed" in output and not folder(scbert).exists() and folder(majority).exists()
    assert "1 runs removed" in said("remove", "--yes")[1] and "0 runs" in said("remove", "--yes")[1]
    assert {path.name for path in (cache / "runs").iterdir() if path.is_dir()} == {
        folder(regression).name,
        folder(scbert["pretraining"]).name,
    }


def test_what_cannot_be_judged_is_kept_and_said(cache, whole, said):
    """Cells of which nobody noted the profile, as of a file of the reader's own; runs of other code can be judged."""
    for path in (cache / "cells").glob("*.json"):
        path.unlink()
    output = said("remove")[1]
    assert "Kept: runs over pbmc68k_reduced: which profile these cells are of is not known here." in output
    assert "0 runs" in output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.experiments.inventory.code_hash", lambda: "fedcba9876543210")
        assert "here it is fedcba98" in said("remove")[1] and "4 runs" in said("remove")[1]


def test_runs_are_removed_by_name_unless_running(cache, whole, said):
    regression, majority, _ = whole[2]
    words = f"A process is at run {folder(regression).name}: nothing was removed"
    with FileLock(folder(regression).with_suffix(".lock")), pytest.raises(DataError, match=words):
        program.main(["remove", folder(regression).name, folder(majority).name, "--yes"])
    assert folder(majority).exists()
    assert "nothing was removed" in said("remove", folder(regression).name)[1] and folder(regression).exists()
    assert "1 runs removed" in said("remove", folder(regression).name, "--yes")[1] and not folder(regression).exists()


def test_runs_with_given_parameters_stay(cache, whole, said):
    """What a profile asks for with them is asked for."""
    [other] = specs.cell_types(whole[1] | {"seeds": [9]}, ["majority"], [1.0])
    runs.complete([other])
    assert folder(other).name in said("remove")[1]
    assert folder(other).name not in said("remove", "-p", "seeds", "[0, 9]")[1]


@pytest.mark.parametrize("arguments", [[], ["delete"], ["show"], ["merge"], ["export"]])
def test_a_wrong_command_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as refusal:
        program.main(arguments)
    assert refusal.value.code == 2 and "python -m lib.runs" in capsys.readouterr().err


def test_an_empty_store(tmp_path, monkeypatch, said):
    """Nothing is made where nothing is."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(archive, "folder", lambda: tmp_path / "archives")
    assert said("list")[1].startswith("0 runs in ") and said("verify")[0] == 0 and "0 runs" in said("remove", "--yes")[1]
    assert not (tmp_path / "none").exists()
    assert settings.cache() == tmp_path / "none"
