"""Notebook 06's parts: a file sized to the machine, an answer in a sentence, and anyone's model beside ours."""

import numpy as np
import pytest
import scipy.sparse as sp

from lib import settings
from lib.errors import DataError
from lib.evaluate import differences, measures, words
from lib.experiments import classifiers, runs, yours
from lib.prepare import cells


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    cells.read.cache_clear()
    return tmp_path


@pytest.fixture
def file(cache):
    """A real file: 300 of scanpy's cells as counts, two of its types made rare."""
    from lib.datasets import catalogue

    adata = catalogue.load("pbmc68k_reduced")
    order = np.argsort(adata.obs["cell_type"].cat.codes.to_numpy(), kind="stable")
    adata = adata[np.sort(order[:: len(order) // 300])].copy()
    del adata.obs["n_counts"], adata.uns["dataset"]
    adata.obs = adata.obs[["cell_type"]].rename(columns={"cell_type": "1"})  # a name that YAML would read as a number
    path = cache / "mine.h5ad"
    adata.write_h5ad(path)
    return path, adata


def test_profile_for_a_file(file):
    """Rare types are set aside and counted, sizes fit and are remembered, genes come from the file."""
    path, adata = file
    chosen = yours.load("smoke", path, "1", minutes=5)
    counts = adata.obs["1"].value_counts()
    rare = {name: count for name, count in counts.items() if count < yours.MIN_CELLS}
    assert rare and chosen["adata"].uns["alignment"]["set_aside"] == rare
    assert chosen["adata"].n_obs == sum(count for count in counts if count >= yours.MIN_CELLS)
    assert set(chosen["adata"].var_names) <= set(adata.var_names)
    assert chosen["name"] == "mine-smoke" and chosen["reproduces"] is None
    assert "sizing" in chosen["adata"].uns and all(f * 0.7 * chosen["adata"].n_obs >= 50 or f == 1 for f in chosen["fractions"])
    again = yours.load("smoke", path, "1", minutes=5)
    assert again["fingerprint"] == chosen["fingerprint"]


def test_another_data_set_in_a_profile(file):
    """An override of ``dataset``: other cells, a folder of figures of its own, what the profile says for that data set."""
    from lib.experiments import profiles

    adata = file[1].copy()
    adata.obs["n_counts"], adata.obs["cell_type"] = np.asarray(adata.X.sum(1)).ravel(), adata.obs["1"]
    path = file[0].with_name("others.h5ad")
    adata.write_h5ad(path)
    chosen = profiles.load("smoke", dataset=str(path))
    assert chosen["name"] == "others-smoke" == profiles.figures("smoke", str(path)) and chosen["data"]["dataset"] == str(path)
    assert set(chosen["adata"].obs_names) <= set(adata.obs_names)
    assert profiles.load("smoke")["name"] == "smoke"
    paper = profiles.read("paper")
    assert all(paper["for_dataset"][name]["reproduces"] == name for name in ("macparland", "macparland_unmerged"))


def test_less_time_fewer_cells(file, monkeypatch):
    """Little time: fewer cells and genes, types kept in proportion, those now rare set aside; more time: all of them."""
    path, _ = file
    monkeypatch.setattr(yours, "_seconds_a_token", lambda profile: 1e-3)
    monkeypatch.setattr(yours, "SIZES", [(200, 700), (150, 400), (120, 300)])
    little, much = (yours.load("smoke", path, "1", minutes=m)["adata"] for m in (0.01, 1e6))
    types, all_types = (a.obs["cell_type"].value_counts() for a in (little, much))
    set_aside = {name: n for name, n in little.uns["alignment"]["set_aside"].items() if name in all_types}
    assert little.n_obs + sum(set_aside.values()) == 120 and little.n_vars == 300 and much.shape == (200, 700)
    assert set(types.index) == set(all_types.index) - set(set_aside) and max(set_aside.values(), default=0) < yours.MIN_CELLS
    assert (types / 120 - all_types[types.index] / 200).abs().max() < 0.02


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"minutes": 0}, "minutes is 0"),
        ({"label": "kind"}, "no label column 'kind'"),
        ({"data": "nowhere.h5ad"}, "no file at that path"),
    ],
)
def test_refusals(file, arguments, words):
    """What cannot be used is named."""
    with pytest.raises(DataError, match=words):
        yours.load(**({"profile": "smoke", "data": file[0], "label": "1", "minutes": 5} | arguments))


def test_one_common_type_is_refused(file):
    """A column with a value for nearly every cell is no cell type."""
    path, adata = file
    adata.obs["id"] = adata.obs_names
    adata.write_h5ad(path)
    with pytest.raises(DataError, match="Is the label column right"):
        yours.load("smoke", path, "id", minutes=5)


def test_empty_cells_and_the_matrix_are_reported(file):
    """A panel of genes with empty cells, counts in a layer: the cells are dropped by type, the table says what was taken."""
    import anndata

    from lib.experiments import profiles

    path, adata = file
    counts = adata.X.toarray()
    counts[[3, 8]] = 0
    scaled = anndata.AnnData(np.float32((counts - counts.mean(0)) / (counts.std(0) + 1)), obs=adata.obs, var=adata.var)
    scaled.layers["counts"] = sp.csr_matrix(counts)
    scaled.write_h5ad(path)
    chosen = yours.load("smoke", path, "1", minutes=5)
    report = chosen["adata"].uns["alignment"]
    assert (
        report["dropped_cells"] == 2
        and report["dropped"] == adata.obs["1"].iloc[[3, 8]].value_counts()[lambda n: n > 0].to_dict()
    )
    table = profiles.describe(chosen).data[""]
    assert table["matrix"].startswith("layers['counts']: raw counts (") and "are negative" in table["matrix"]
    assert "gene names" not in table and table["values found"] == "counts"


def test_a_model_that_learnt_nothing_is_said():
    """The answer gets a caveat unless scBERT is ahead of the majority class for certain."""
    assert words.caveat({"low": 0.1, "high": 0.3}) == ""
    for low in (-0.2, 0.0):
        assert "learnt nothing" in words.caveat({"low": low, "high": 0.3}) and "quick" in words.caveat(
            {"low": low, "high": 0.3}
        )


@pytest.mark.parametrize(
    "low, high, said",
    [
        (0.01, 0.05, "On your 99 cells logistic regression is ahead of scBERT**: +3.0 points of accuracy"),
        (-0.05, -0.01, "On your 99 cells logistic regression is behind scBERT**: -3.0 points"),
        (-0.01, 0.05, "it is undecided whether logistic regression or scBERT is ahead"),
    ],
)
def test_the_answer(low, high, said):
    """Who is ahead follows the interval, and the interval is in the sentence."""
    text = words.describe(
        {"difference": (low + high) / 2, "low": low, "high": high, "p": 0.04, "n_cells": 20, "n_seeds": 3},
        "logistic regression",
        "scBERT",
        "On your 99 cells",
    )
    assert said in text and f"{100 * low:+.1f} to {100 * high:+.1f}" in text


def test_evaluate_is_the_stored_run(cache):
    """Our logistic regression, brought as if it were a stranger's, gives the probabilities of the stored runs."""
    from lib.experiments import profiles, specs

    chosen = profiles.load("smoke")
    stored = runs.complete(specs.cell_types(chosen, ["logistic_regression", "majority"]))
    settings = chosen["logistic_regression"]
    mine = yours.evaluate(lambda: classifiers.LogisticRegression(**settings), chosen, "mine")
    ours = [run for run in stored if run.spec["arm"] == "logistic_regression"]
    for a, b in zip(mine, ours, strict=True):
        assert np.array_equal(a.predictions["test"], b.predictions["test"])
        assert np.allclose(a.predictions["probabilities"], b.predictions["probabilities"], atol=1e-6)
    assert differences.paired_difference(mine, ours)["difference"] == 0
    assert set(measures.table(mine)["arm"]) == {"mine"}


class Wrong:
    """A stranger's model with one fault."""

    def __init__(self, **faults):
        self.faults = faults

    def fit(self, x, labels, seed):
        self.classes_ = self.faults.get("classes", np.unique(labels))
        self.width = len(np.unique(labels))

    def predict_proba(self, x):
        value = self.faults.get("value", 1 / self.width)
        return np.full((x.shape[0], self.faults.get("width", self.width)), value)


@pytest.mark.parametrize(
    "make, words",
    [
        (object, "no method fit"),
        (lambda: Wrong(width=2), r"gave an array of shape .*must be"),
        (lambda: Wrong(value=0.9), "rows summing to"),
        (lambda: Wrong(classes=np.array(["a", "b"])), "must hold labels that fit was given"),
        (lambda: Wrong(classes=np.array([0, 0])), "each once"),
    ],
)
def test_a_model_that_breaks_the_protocol_is_refused(cache, make, words):
    """With its name, what it gave and what is expected."""
    from lib.experiments import profiles

    with pytest.raises(DataError, match=words):
        yours.evaluate(make, profiles.load("smoke"), "theirs")


@pytest.mark.slow
def test_one_command_for_a_file(file, tmp_path):
    """From another folder, a relative path and a label column called 1: figures in a folder of the file's own."""
    import os
    import subprocess

    path, _ = file
    process = subprocess.run(
        [settings.ROOT / "run_all.sh", "--profile", "smoke", "--only", "06", "-p", "data", path.name, "-p", "label", "1"],
        cwd=path.parent,
        env=os.environ | {"SCBERT_CACHE": str(tmp_path / "cache"), "SCBERT_FIGURES": str(tmp_path / "figures")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    target = tmp_path / "figures" / "mine-smoke"
    assert (target / "06_few_shot.png").exists() and not (tmp_path / "figures" / "smoke").exists()
    book = (target / "notebooks" / "06_your_data.ipynb").read_text()
    assert "On your" in book and "95 % interval" in book


@pytest.mark.slow
def test_a_bad_file_ends_with_its_message(cache):
    """Through run_all.sh: not status 0, and the last line says what is wrong, without a traceback in it."""
    import os
    import subprocess

    (cache / "notes.h5ad").write_text("not a matrix")
    process = subprocess.run(
        [settings.ROOT / "run_all.sh", "--profile", "smoke", "--only", "06", "-p", "data", "notes.h5ad"],
        cwd=cache,
        env=os.environ | {"SCBERT_FIGURES": str(cache / "figures")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 1
    assert "notes.h5ad is not an .h5ad file" in process.stderr.strip().splitlines()[-1]
