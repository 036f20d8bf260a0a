"""The run store: done once, found again, redone after damage; by the code that is on disk, in a kernel that lives too."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from lib.errors import DataError
from lib.experiments import names, profiles, runs, specs, store
from lib.settings import ROOT


@pytest.fixture(scope="module")
def done(profile):
    """One run of scBERT, of logistic regression and of the majority class, on half of the training cells."""
    return runs.complete(specs.cell_types(profile, ["full", "logistic_regression", "majority"], [0.5], [0]))


def test_a_run_holds_what_a_reader_needs(done, profile):
    """Specification, environment, log and per-cell probabilities are in the folder, the checkpoint is gone."""
    run = done[0]
    assert json.loads((run.folder / "spec.json").read_text()) == json.loads(json.dumps(run.spec))
    assert run.environment["packages"]["torch"] and run.environment["seconds"] > 0
    assert run.environment["code"] == names.code_hash()
    assert len(run.log) == profile["finetuning"]["epochs"]
    p = run.predictions
    assert p["probabilities"].shape == (len(p["test"]), len(p["classes"]))
    np.testing.assert_allclose(p["probabilities"].sum(1), 1, atol=1e-5)
    assert run.log["accuracy"].max() == np.mean(p["probabilities"].argmax(1) == p["labels"])
    assert not list(run.folder.glob("checkpoint*")) and (run.folder / "model.pt").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["predictions.npz", "log.csv", "spec.json", "DONE"])
@pytest.mark.parametrize("damage", [truncate, flip_a_byte, lambda path: path.unlink()], ids=["cut", "flip", "delete"])
def test_damage_is_found_and_mended(done, name, damage, capsys, same):
    """A file cut short, changed or deleted: the run is done again and gives the same numbers."""
    run = done[1]
    before = dict(run.predictions)
    damage(run.folder / name)
    mended = runs.complete([run.spec])[0]
    assert store.is_done(mended) and same(mended.predictions, before)
    assert "stored already" not in capsys.readouterr().out


def test_whatever_bit_of_a_mark_changes_nothing_fails(done):
    """A mark that is not readable any more, or names other files or hashes, is no mark; never an error."""
    run = done[1]
    mark = run.folder / "DONE"
    whole, taken = mark.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 3):
        mark.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ (1 << bit % 8)]) + whole[bit // 8 + 1 :])
        taken += store.is_done(run)
    assert taken < bit / 30, "only the time it was finished, the word and the layout may be others"
    mark.write_bytes(whole)
    assert store.is_done(run)


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.word.pt"])
def test_a_checkpoint_beside_a_mark_goes(done, name):
    """As it lies there where a process was killed between writing the mark and removing it: nobody would need it again."""
    (done[0].folder / name).write_bytes(b"of a run that is done")
    marked = (done[0].folder / "DONE").stat().st_mtime_ns
    runs.complete([done[0].spec])
    assert not list(done[0].folder.glob("checkpoint*")) and (done[0].folder / "DONE").stat().st_mtime_ns == marked


def test_another_runs_folder_is_not_taken(done, capsys, same):
    """Under a run's name lies another, whole: it is said, and the run is done again."""
    one, other = done[1], done[2]
    before = dict(one.predictions)
    shutil.rmtree(one.folder)
    shutil.copytree(other.folder, one.folder)
    assert not store.is_done(one) and f"lies run {other.id}" in capsys.readouterr().err
    assert same(runs.complete([one.spec])[0].predictions, before)


@pytest.mark.slow
def test_another_runs_unfinished_folder_is_not_gone_on_with(profile, done, same):
    """Nor is its checkpoint, alone or with the folder around it."""
    wanted = profile | {"finetuning": profile["finetuning"] | {"epochs": 3}}
    [one, other] = specs.cell_types(wanted, ["no_pretraining"], [0.5], [0, 1])
    whole = [dict(run.predictions) for run in runs.complete([one, other])]
    mine, theirs = store.Run(one), store.Run(other)
    epochs = iter(range(100))

    class Interrupted(Exception):
        pass

    def stop(*_):
        if next(epochs) == 1:
            raise Interrupted

    shutil.rmtree(theirs.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.scbert.ranks.random_state", lambda: stop() or {"cpu": torch.get_rng_state()})
        with pytest.raises(Interrupted):
            store.compute(other)
    for files in (["checkpoint.pt"], [path.name for path in theirs.folder.iterdir()]):
        shutil.rmtree(mine.folder)
        mine.folder.mkdir()
        for name in files:
            shutil.copy(theirs.folder / name, mine.folder)
        assert "checkpoint.pt" in files and same(runs.complete([one])[0].predictions, whole[0])
    assert same(runs.complete([other])[0].predictions, whole[1])


@pytest.mark.slow
def test_threads_of_one_process_give_the_same_runs(profile, tmp_path, monkeypatch, same):
    """As a Dask worker has them: the generators that a run draws from belong to the whole process."""
    wanted = specs.cell_types(profile, ["no_gene2vec", "no_pretraining", "logistic_regression"], [0.5], [0, 1])
    here = [dict(run.predictions) for run in runs.complete(wanted)]
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    profiles.load("smoke")  # puts the cells into the other cache
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store.compute, wanted))
    assert all(same(store.Run(spec).predictions, expected) for spec, expected in zip(wanted, here))


def test_who_waits_says_so(profile, done, monkeypatch, capsys):
    """Where another process is at a run, after some seconds."""
    monkeypatch.setattr(store, "PATIENCE", 0.05)
    with ThreadPoolExecutor(1) as thread, FileLock(done[2].folder.with_suffix(".lock")):
        waiting = thread.submit(store.compute, done[2].spec)
        while "waiting for it" not in (said := capsys.readouterr().out) and not waiting.done():
            time.sleep(0.01)
    assert f"Another process is at run {done[2].id}" in said and waiting.result() == 0


def test_a_cache_that_is_a_file_is_refused(profile, tmp_path, monkeypatch):
    """With the place and what to do."""
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=f"{tmp_path}.* cannot be written .*SCBERT_CACHE"):
        runs.complete(specs.cell_types(profile, ["majority"], [0.5], [0]))


def test_what_determines_a_run_is_in_its_name(profile):
    """Another seed, fraction, rate, split or cell gives another run; where a file lies does not."""
    base = specs.cell_types(profile, ["full"], [1.0], [0])[0]
    others = [
        specs.cell_types(profile, ["full"], [1.0], [1])[0],
        specs.cell_types(profile, ["full"], [0.5], [0])[0],
        specs.cell_types(profile, ["no_pretraining"], [1.0], [0])[0],
        specs.cell_types(profile | {"split": {"test_size": 0.3, "seed": 1}}, ["full"], [1.0], [0])[0],
        specs.cell_types(profile | {"fingerprint": "0"}, ["full"], [1.0], [0])[0],
        specs.cell_types(profile | {"pretraining": profile["pretraining"] | {"epochs": 9}}, ["full"], [1.0], [0])[0],
        base | {"pretraining": {"checkpoint": {"sha256": "1", "_path": "here"}}},
        base | {"pretraining": {"checkpoint": {"sha256": "2", "_path": "here"}}},
    ]
    assert len({names.run_id(spec) for spec in [base, *others]}) == len(others) + 1
    assert names.run_id(base) == names.run_id(json.loads(json.dumps(base)))
    moved = base | {"pretraining": {"checkpoint": {"sha256": "2", "_path": "there"}}}
    assert names.run_id(moved) == names.run_id(others[-1])


# The code that computes a run.


@pytest.fixture
def copy(tmp_path):
    """A copy of the library, to be edited."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "sources.yaml", tmp_path / "data")
    return tmp_path


def test_comments_and_layout_keep_runs_and_code_does_not(copy, monkeypatch):
    """The code's part of the name ignores comments, docstrings, blank lines, blanks and formatting, and nothing else."""
    monkeypatch.setattr(store.settings, "ROOT", copy)
    path, before = copy / "lib" / "scbert" / "finetune.py", names.code_hash()
    assert before == names.LOADED
    text = path.read_text()
    for other in (
        "# a remark\n" + text.replace("From 0.", "Counted from 0."),
        text.replace("\n\n\n", "\n\n\n\n\n") + "\n",
        text.replace("peak = max_lr\n", "peak = max_lr  # remarkable   \n"),
        text.replace('"""What :func:`finetune` returns."""', '"""Other words."""'),
        text.replace("peak = max_lr\n", "peak = (\n        max_lr\n    )\n"),
    ):
        path.write_text(other)
        assert other != text and names.code_hash() == before
    for other in (
        text.replace("warmup: int = 5", "warmup: int = 60"),
        text.replace("peak = max_lr\n", "peak = 2.0 * max_lr\n"),
        text.replace("is made for", "was made for").replace("the model was made", "the model is made"),
    ):
        path.write_text(other)
        assert other != text and names.code_hash() != before
    path.write_text(text)
    assert names.code_hash() == before
    (copy / "lib" / "prepare" / "more.py").write_text("MORE = 1\n")
    assert names.code_hash() != before


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_name_of_the_code_is_the_same_in_every_python(version):
    """Their syntax trees are not: 3.12 has an empty text in a format that is computed. Asked of those on this machine."""
    python = shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    told = ast.unparse(
        next(node for node in ast.parse(Path(names.__file__).read_text()).body if node.__dict__.get("name") == "_told")
    )
    code = f"import ast, sys\n{told}\nfor path in sys.argv[1:]: print(_told(ast.parse(open(path, encoding='utf-8').read())))"
    paths = sorted(map(str, (ROOT / "lib").rglob("*.py")))
    run = subprocess.run([python, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [names._told(ast.parse(Path(path).read_text(encoding="utf-8"))) for path in paths]


def test_all_code_that_a_task_reaches_is_in_the_hash():
    """Followed from import to import; left out are the readers of files, whose cells are hashed, and what computes nothing."""
    lib, found = ROOT / "lib", set()

    def file_of(name):
        place = ROOT.joinpath(*name.split("."))
        return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")

    def follow(path):
        if path in found or path == lib / "__init__.py":
            return
        found.add(path)
        if path.name == "__init__.py":  # a face: its modules are reached by it
            for module in path.parent.glob("*.py"):
                follow(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if file_of(name).exists() else node.module for name in names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.split(".")[0] == "lib":
                    follow(file_of(name))

    follow(lib / "experiments" / "tasks.py")
    files = {str(path.relative_to(lib)) for path in found}
    assert {"scbert/model.py", "prepare/tokens.py", "datasets/scale.py", "experiments/classifiers.py"} <= files
    outside = [name for name in files if not name.startswith(tuple(names.CODE))]
    assert {name for name in outside if not name.startswith("datasets/")} <= {"errors.py", "files.py", "settings.py"}


LIVE = """
import importlib, sys
from pathlib import Path
from lib.errors import DataError
from lib.experiments import baselines, classifiers, profiles, runs, specs, store

path = Path("lib/experiments/baselines.py")
text, share = path.read_text(), 'strategy = "prior"'
assert text.count(share) == 1
wanted = specs.cell_types(profiles.load("smoke"), ["majority"], seeds=[0, 1])

def complete(spec):
    run = runs.complete([spec])[0]
    return run.id, sorted(round(float(share), 4) for share in run.predictions["probabilities"][0])

def edit(new):
    path.write_text(text.replace(share, new))

first = complete(wanted[0])
edit('strategy = "most_frequent"')
edited = complete(wanted[0])
assert edited[0] != first[0] and edited[1] == [0] * 9 + [1], edited
edit('strategy = "uniform"')
[importlib.reload(module) for module in (baselines, classifiers, store, runs)]
reloaded = complete(wanted[0])
assert reloaded[0] not in (first[0], edited[0]) and reloaded[1] == [0.1] * 10, reloaded
edit(share)  # as at first, though this process still holds the reloaded module
assert complete(wanted[0]) == first
assert complete(wanted[1])[1] == first[1]
print("all as on disk")
"""

MEANWHILE = """
from pathlib import Path
from lib.errors import DataError
from lib.experiments import profiles, runs, specs, store

path = Path("lib/scbert/finetune.py")
[spec] = specs.cell_types(profiles.load("smoke"), ["majority"], seeds=[0])
task = store.TASKS["cell_types"]

def edited_meanwhile(*arguments):
    path.write_text(path.read_text().replace("warmup: int = 5", "warmup: int = 60"))
    return task(*arguments)

store.TASKS["cell_types"] = edited_meanwhile
try:
    runs.complete([spec])
except DataError as error:
    print(error)
print(*store.settings.cache().glob("runs/*/DONE"), sep="\\n")
"""


def live(copy, code):
    environment = os.environ | {"SCBERT_CACHE": str(copy / "cache"), "SCBERT_WORKERS": "1", "PYTHONPATH": str(copy)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_edit_in_a_living_process_computes_new_runs(copy):
    """Edited, reloaded, edited back: each call gives what the code on disk gives, whatever the process has loaded."""
    output = live(copy, LIVE)
    assert output.splitlines()[-1] == "all as on disk" and "by the code as it is now" in output


@pytest.mark.slow
def test_an_edit_while_a_run_is_computed_leaves_no_mark(copy):
    """Nobody knows which code computed it: the call ends with both hashes, and nothing counts as done."""
    message, marks = live(copy, MEANWHILE).splitlines()[-2:]
    assert "nothing is stored" in message and names.LOADED in message and not marks


def test_a_worker_with_other_code_refuses(profile):
    """It names its own code and the client's."""
    [spec] = specs.cell_types(profile, ["majority"], [0.5], [7])
    with pytest.raises(DataError, match=f"{names.LOADED}.* 0123"):
        store.compute(spec, code="0123")
    assert not Path(store.Run(spec).folder).exists()
