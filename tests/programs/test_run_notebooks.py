"""What ./run_all.sh says before and after the notebooks: values that are none, folders, a script that is not what runs."""

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
