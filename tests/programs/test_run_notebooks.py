"""What ./run_all.sh says before and after the notebooks: values that are none, folders, a script that is not what runs."""

import shlex

import nbformat
import numpy as np
import pandas as pd
import pytest

from lib.errors import DataError
from lib.programs import command_line, run_notebooks


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folders of its own; what main sets in the environment is undone."""
    for name in ("SCBERT_PROGRESS", "SCBERT_FORCE", "SCBERT_SCHEDULER"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCBERT_FIGURES", str(tmp_path / "figures"))
    return tmp_path


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("minutes", "ten", "minutes is 'ten': no number. Give one, such as 5"),
        ("minutes", "[1, 2]", "minutes is .*no number. Give one"),
        ("min_genes", "yes", "min_genes is True: no whole number. Give one"),
        ("seeds", "[0, 1", "-p seeds .0, 1: the value is no YAML"),
    ],
)
def test_values_that_are_none(place, name, value, words):
    """A sentence, before anything is run."""
    with pytest.raises(DataError, match=words):
        run_notebooks.main(["--profile", "smoke", "-p", name, value])
    assert not (place / "figures").exists()


def test_names_are_taken_as_they_are_written():
    """A column may be called 1 or yes, a file 2024; numbers and lists are YAML."""
    given = [("label", "1"), ("group", "yes"), ("labels", "2024"), ("data", "null"), ("minutes", "2.5"), ("seeds", "[0, 1]")]
    expected = {"label": "1", "group": "yes", "labels": "2024", "data": "null", "minutes": 2.5, "seeds": [0, 1]}
    assert command_line.read_parameters(given) == expected


def test_notebooks_without_a_parameter_are_left_out_of_all_and_refused_by_name(place, monkeypatch, capsys):
    """``-p dataset liver`` is for all notebooks but the one on the reader's own cells; a name that none has is a mistake."""
    ran = []
    monkeypatch.setattr(run_notebooks, "execute", lambda path, *_: ran.append(path.stem[:2]) or "not run")
    assert run_notebooks.main(["--profile", "smoke", "-p", "dataset", "liver"]) == 1
    assert ran == [path.stem[:2] for path in run_notebooks.notebooks() if not path.stem.startswith("06")]
    assert "06_your_data is left out: it has no parameter dataset." in capsys.readouterr().out
    for words in (["--only", "06", "-p", "dataset", "liver"], ["-p", "datasets", "liver"]):
        with pytest.raises(DataError, match="has no parameter 'datasets?'"):
            run_notebooks.main(["--profile", "smoke", *words])


def test_a_figures_folder_that_cannot_be_written(place, monkeypatch):
    """Said before an hour of runs, with the setting that chooses another."""
    (place / "file").write_text("in the way")
    monkeypatch.setenv("SCBERT_FIGURES", str(place / "file" / "figures"))
    monkeypatch.setattr(run_notebooks, "execute", lambda *_: pytest.fail("a notebook was run"))
    with pytest.raises(DataError, match=r"file/figures/smoke cannot be written .*Point SCBERT_FIGURES to a folder that can"):
        run_notebooks.main(["--profile", "smoke", "--only", "01"])


@pytest.fixture
def mine(place, raw):
    """A reader's folder: cells whose labels stand in a column of another name, the same as tables of text."""
    adata = raw[:120, :300].copy()
    adata.uns.clear()
    adata.obs = pd.DataFrame(
        {"n_counts": np.arange(120) / 7, "donor_id": list("pqr") * 40, "CellType-fine": adata.obs["cell_type"].astype(str)},
        index=adata.obs_names,
    )
    adata.write_h5ad(place / "my_cells.h5ad")
    adata.obs[["CellType-fine", "donor_id"]].to_csv(place / "my_labels.csv")
    adata.obs.assign(age=40).to_csv(place / "with_age.csv")
    adata.to_df().to_csv(place / "expression.csv")
    return place


COULD = "Columns that could be: CellType-fine (9: Dendritic, …), donor_id (3: p, …)"


@pytest.mark.parametrize(
    "given, words",
    [
        ("data my_cells.h5ad", f"no label column 'cell_type'. Did you mean 'CellType-fine'? {COULD}"),
        ("data my_cells.h5ad label cell_types", "Name the one that holds the cell types: -p label CellType-fine"),
        ("data my_cells.h5ad label n_counts", f"a measurement, not a cell type. Is the label column right? {COULD}"),
        ("data my_cells.h5ad label CellType-fine group donor", "could be: donor_id (3: p, …). Name one: -p group donor_id"),
        ("data my_cells.h5ad labels my_labels.csv label kind", f"my_labels.csv has no label column 'kind'. {COULD}"),
        ("data my_labels.csv", "looks like a table of labels, not of expression.*-p data CELLS -p labels my_labels.csv"),
        ("data with_age.csv label CellType-fine", "with_age.csv looks like a table of labels.*-p labels with_age.csv"),
        ("data expression.csv", "has no label column.*-p labels TABLE"),
        ("data my_cell.h5ad", "no such file below .* Did you mean my_cells.h5ad? -p data my_cells.h5ad"),
        ("data {here}/my_cell.h5ad", "no such file in {here}. Did you mean my_cells.h5ad? -p data {here}/my_cells.h5ad"),
        ("data /nowhere/my_cells.h5ad", "no such file and no folder /nowhere, and no data set"),
        ("data my_cells.h5ad labels my_label.csv", "-p labels my_label.csv: there is no such file.*mean my_labels.csv?"),
        ("data=my_cells.h5ad label=kind", "an equals sign. Write -p data my_cells.h5ad -p label cell_type"),
    ],
)
def test_own_cells_are_refused_before_a_notebook_starts(mine, given, words):
    """With the column or file that was meant, and what to type instead; nothing is left behind."""
    pairs = given.format(here=mine).split()
    parameters = [word for k in range(0, len(pairs), 2) for word in ("-p", *pairs[k : k + 2])]
    before = sorted(mine.iterdir())
    parts = words.format(here=mine).split(".*")
    with pytest.raises(DataError) as refusal:
        run_notebooks.main(["--profile", "smoke", "--only", "6", "--from", str(mine), *parameters])
    message = str(refusal.value)
    assert all(part in message for part in parts), message
    assert sorted(mine.iterdir()) == before


@pytest.mark.parametrize(
    "given, words",
    [
        ("--data my_cells.h5ad", "unrecognized arguments: --data my_cells.h5ad"),
        ("-p data=my_cells.h5ad", "argument -p: expected 2 arguments"),
    ],
)
def test_options_that_there_are_not(place, capsys, given, words):
    """An example, and no list of all options."""
    with pytest.raises(SystemExit) as stop:
        run_notebooks.main(["--only", "06", *shlex.split(given)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and "-p data my_cells.h5ad -p label cell_type" in said
    assert len(said.splitlines()) == 1


def test_own_cells_that_serve_are_let_through(mine, monkeypatch):
    """With labels in a column or a table, and a group: the notebook is what comes next."""
    ran = []
    monkeypatch.setattr(run_notebooks, "execute", lambda path, output, given: ran.append(given) or ": not run")
    column = ["-p", "label", "CellType-fine"]
    for more in (["-p", "data", "my_cells.h5ad"], ["-p", "data", "expression.csv", "-p", "labels", "my_labels.csv"]):
        group = ["-p", "group", "donor_id"]
        assert run_notebooks.main(["--profile", "smoke", "--only", "06", "--from", str(mine), *more, *column, *group]) == 1
    assert [given["data"] for given in ran] == [str(mine / "my_cells.h5ad"), str(mine / "expression.csv")]


@pytest.mark.slow
def test_a_refusal_in_a_notebook_is_a_paragraph(place):
    """Another error comes with its cell."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    said = []
    for name in ("DataError", "ValueError"):
        book.cells[0].source = f"class DataError(ValueError): pass\n\nraise {name}('no such cells')"
        nbformat.write(book, place / "a.ipynb")
        said.append(run_notebooks.execute(place / "a.ipynb", place / "out" / "a.ipynb", {}))
    assert isinstance(said[0], DataError) and str(said[0]) == "no such cells"
    assert said[1].startswith("cell 0 (In [1]):\nclass DataError") and said[1].endswith("ValueError: no such cells")


@pytest.mark.parametrize("made", ["nothing", "a figure", "before"])
def test_what_a_failed_run_of_own_cells_leaves(mine, monkeypatch, capsys, made):
    """No folder that holds the failed notebook alone; what was there, or was made by then, stays."""
    folder = mine / "figures" / "my_cells-smoke"
    if made == "before":
        folder.mkdir(parents=True)

    def execute(path, output, given):
        output.parent.mkdir(parents=True)
        output.write_text("failed"), output.with_suffix(".html").write_text("failed")
        if made == "a figure":
            (folder / "06_few_shot.png").write_text("a figure")
        return DataError("Refused.", "Do otherwise.")

    monkeypatch.setattr(run_notebooks, "execute", execute)
    given = ["-p", "data", "my_cells.h5ad", "-p", "label", "CellType-fine"]
    assert run_notebooks.main(["--profile", "smoke", "--only", "06", "--from", str(mine), *given]) == 1
    assert folder.exists() == (made != "nothing")
    said = capsys.readouterr()
    assert said.err == "\nFAILED 06_your_data: Refused. Do otherwise.\n"
    assert "figures in" not in said.out and "Runs:" not in said.out
