"""Every notebook executed in the smoke profile by run_all.sh's own program, and what it says when something fails."""

import os
import re
import subprocess
import sys

import jupytext
import nbformat
import pytest

from lib.programs import run_notebooks
from lib.settings import ROOT

BOOKS = run_notebooks.notebooks()


def program(*arguments, folder, **extra):
    environment = os.environ | {
        "SCBERT_CACHE": str(folder / "cache"),
        "SCBERT_FIGURES": str(folder / "figures"),
        **extra,
    }
    return subprocess.run([sys.executable, "-m", "lib.run_notebooks", *arguments], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=1200)  # fmt: skip


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """All notebooks executed once in the smoke profile: the folder, and the finished process."""
    folder = tmp_path_factory.mktemp("smoke")
    return folder, program("--profile", "smoke", folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_writes_its_figures(smoke, book):
    """Executed without error; its figures come as png, svg and csv, it comes as ipynb and html."""
    folder, process = smoke
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    target = folder / "figures" / "smoke"
    executed = nbformat.read(target / "notebooks" / book.name, as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source)
    text = (target / "notebooks" / book.name).read_text()
    assert str(ROOT) not in text and str(folder) not in text, "the executed notebook names a path of this machine"
    assert (target / "notebooks" / book.name).with_suffix(".html").stat().st_size > 10_000
    figures = re.findall(r'plots\.save\(\s*fig,\s*"(\w+)"', book.with_suffix(".py").read_text())
    assert figures
    for name in figures:
        assert (target / f"{name}.png").stat().st_size > 5_000
        assert (target / f"{name}.svg").exists() and len((target / f"{name}.csv").read_text().splitlines()) > 1


@pytest.mark.slow
def test_second_run_computes_nothing_and_changes_no_figure(smoke):
    """Run again: every run is found in the store, and every CSV and figure is the same to the byte."""
    folder, _ = smoke
    target = folder / "figures" / "smoke"
    before = {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}
    process = program("--profile", "smoke", folder=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    assert not re.search(r"^\[\d+/\d+\] (cell types|pretraining|masked|representations)", process.stdout, re.M)
    assert {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_empty_caches_give_the_same_tables(smoke, tmp_path):
    """Computed again from nothing on the same machine, every CSV of notebook 01 is the same to the byte."""
    process = program("--profile", "smoke", "--only", "01", folder=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    assert re.search(r"^\[\d+/\d+\] pretraining", process.stdout, re.M), "nothing was computed: the cache was not empty"
    first, again = (folder / "figures" / "smoke" for folder in (smoke[0], tmp_path))
    tables = sorted(path.name for path in again.glob("*.csv"))
    assert "01_baseline_comparison.csv" in tables and len(tables) >= 6
    assert [name for name in tables if (first / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.slow
def test_a_failing_cell_is_named_and_the_exit_status_says_so(smoke):
    """A value that a notebook cannot use: exit 1, with the notebook, the cell and the error in the last lines."""
    process = program("--profile", "smoke", "--only", "02", "-p", "fractions", "[0.0]", folder=smoke[0])
    assert process.returncode == 1
    assert re.search(r"FAILED 02_few_shot, cell \d+", process.stderr)
    assert "fraction is 0.0" in process.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_dead_kernel_is_a_failure(tmp_path):
    """A kernel that dies is reported, not swallowed."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; os._exit(3)")])
    nbformat.write(book, tmp_path / "dying.ipynb")
    error = run_notebooks.execute(tmp_path / "dying.ipynb", tmp_path / "out" / "dying.ipynb", {})
    assert error and "died" in error.lower()


@pytest.mark.parametrize("arguments, words", [
    (["-p", "sedes", "3"], "no parameter 'sedes'"),
    (["--profile", "huge"], "no profile 'huge'"),
    (["--only", "99"], "No notebook begins with '99'"),
    (["--colour"], "unrecognized arguments"),
])  # fmt: skip
def test_unknown_names_are_refused(tmp_path, arguments, words):
    """Before anything is run: exit 2, and the names that there are."""
    process = program(*arguments, folder=tmp_path)
    assert process.returncode == 2 and words in process.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)
def test_notebook_and_script_are_in_step(book):
    """The .ipynb and its .py hold the same cells; the .ipynb holds no outputs."""
    notebook, script = jupytext.read(book), jupytext.read(book.with_suffix(".py"))
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert len(code) <= 15
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
