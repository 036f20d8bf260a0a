"""Calibration, unknown types, and cells from elsewhere: against closed forms, scikit-learn, and the runs themselves."""

from types import SimpleNamespace

import anndata
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from lib.datasets import catalogue
from lib.errors import DataError
from lib.evaluate import calibration
from lib.experiments import profiles, runs, specs
from lib.prepare import cells


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke profile, with a run store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield profiles.load("smoke")


def test_reliability_is_scikit_learns():
    rng = np.random.default_rng(0)
    sure, right = rng.random(500), rng.random(500) < 0.5
    accuracy, mean = calibration_curve(right, sure, n_bins=10)
    table = calibration.reliability(sure, right)
    assert np.allclose(table["accuracy"], accuracy) and np.allclose(table["confidence"], mean)
    assert table["answers"].sum() == 500


def test_calibration_error_is_zero_where_confidence_is_right_and_the_gap_where_it_is_not():
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.3, 1, 200_000)
    assert calibration.calibration_error(sure, rng.random(len(sure)) < sure) < 0.006
    assert abs(calibration.calibration_error(sure, rng.random(len(sure)) < sure - 0.2) - 0.2) < 0.006
    assert calibration.calibration_error([1.0, 1.0], np.array([True, False])) == pytest.approx(0.5)
    twice = np.array([[1, 1], [2, 0]])
    assert np.allclose(calibration.calibration_error([1.0, 1.0], np.array([True, False]), twice), [0.5, 0])


def test_brier_is_scikit_learns_and_every_interval_holds_its_value():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(3), 80)
    labels = rng.integers(0, 3, 80)
    run = SimpleNamespace(spec={"arm": "full"}, predictions={"probabilities": probabilities, "labels": labels})
    table = calibration.calibration([run]).set_index("metric")
    expected = brier_score_loss(labels, probabilities, scale_by_half=False, labels=[0, 1, 2])
    assert table.loc["brier", "value"] == pytest.approx(expected)
    assert table.loc["accuracy", "value"] == np.mean(probabilities.argmax(1) == labels)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()


def test_auc_is_scikit_learns_and_its_interval_covers():
    """Equal to scikit-learn's with ties; 95 % intervals hold the true area of two normals about as often as they say."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 9, 60), rng.integers(2, 7, 45)
    truth = np.repeat([1, 0], [60, 45])
    assert calibration.auc(a, b)[0] == pytest.approx(roc_auc_score(truth, np.concatenate([a, b])))
    true, held = norm.cdf(1 / np.sqrt(2)), 0  # of N(1, 1) against N(0, 1)
    for _ in range(1000):
        _, low, high = calibration.auc(rng.normal(1, 1, 40), rng.normal(0, 1, 60))
        held += low <= true <= high
    assert 0.92 < held / 1000 < 0.98
    assert np.isnan(calibration.auc([1.0], [0.0, 0.5])[1:]).all()


@pytest.mark.parametrize("protocol", ["paper", "clean"])
def test_a_type_left_out_is_nowhere_learnt_from_and_wholly_tested(smoke, protocol):
    """Not among the training cells nor those that choose the epoch; all its cells are predicted, with all other test cells."""
    wanted = specs.unknown(smoke | {"protocol": protocol}, ["logistic_regression", "no_gene2vec"])
    names = smoke["adata"].obs["cell_type"].cat.categories
    assert {spec["left_out"] for spec in wanted} == set(names) and len(wanted) == 2 * len(names)
    wanted = [spec for spec in wanted if spec["left_out"] == names[3]]
    kept = cells.read(smoke["fingerprint"])
    ordinary = runs.complete(specs.cell_types(smoke, ["majority"], seeds=[0]))[0].predictions["test"]
    for run in runs.complete(wanted):
        p = run.predictions
        assert not (kept.labels[p["train"]] == 3).any() and not (kept.labels[p.get("select", p["train"])] == 3).any()
        assert set(p["test"]) == set(ordinary) | set(np.flatnonzero(kept.labels == 3))
        assert np.array_equal(p["labels"], kept.labels[p["test"]])
        row = calibration.unknown([run]).iloc[0]
        doubt = 1 - p["probabilities"].max(1)
        assert row["auc"] == pytest.approx(roc_auc_score(p["labels"] == 3, doubt)) and row["cells"] == (kept.labels == 3).sum()
    with pytest.raises(DataError, match="left_out is 'Neuron'"):
        runs.complete([wanted[0] | {"left_out": "Neuron"}])


def test_cells_from_elsewhere_are_aligned_and_matched_by_name(smoke, tmp_path):
    """The same cells with genes in another order, some lost, and one type renamed: aligned; what is renamed is unknown."""
    whole = catalogue.load("pbmc68k_reduced")
    rng = np.random.default_rng(0)
    genes = rng.permutation(whole.n_vars)[:700]
    names = whole.obs["cell_type"].astype(str).replace({"Dendritic": "Dendritic cells"})
    shuffled = anndata.AnnData(whole.X[:, genes], obs=names.to_frame("cell_type"), var=whole.var.iloc[genes])
    shuffled.write_h5ad(tmp_path / "elsewhere.h5ad")
    there = profiles.external(smoke, tmp_path / "elsewhere.h5ad")
    adata, missing = there["adata"], whole.var_names[np.setdiff1d(np.arange(whole.n_vars), genes)]
    assert list(adata.var_names) == list(smoke["adata"].var_names)
    assert adata.uns["alignment"]["matched"] == 700 and set(adata.uns["alignment"]["missing"]) == set(missing)
    counts = shuffled.X.toarray()
    expected = np.log2(1 + counts / counts.sum(1, keepdims=True) * 1e4)
    assert np.allclose(adata[:, shuffled.var_names].X.toarray(), expected, atol=1e-4)
    [run] = runs.complete(specs.external(there, specs.cell_types(smoke, ["logistic_regression"], seeds=[0])))
    row = calibration.elsewhere([run]).iloc[0]
    assert row["unknown_cells"] == (names == "Dendritic cells").sum() and row["cells"] + row["unknown_cells"] == 700
    assert 0.5 < row["accuracy"] <= 1 and 0 < row["auc"] < 1 and "recall[Dendritic cells]" not in row
    assert profiles.external(smoke) is None  # smoke names none


def test_true_zheng68k_cells_are_named_by_models_of_other_cells(smoke, shared):
    """The probe of 165 Zheng68K cells: aligned by symbols; far more are named right than by chance."""
    there = profiles.external(smoke, shared / "zheng68k_probe.h5ad")
    assert there["adata"].uns["alignment"]["matched"] > 500
    [run] = runs.complete(specs.external(there, specs.cell_types(smoke, ["logistic_regression"], seeds=[0])))
    row = calibration.elsewhere([run]).iloc[0]
    assert row["cells"] + row["unknown_cells"] == 165 and row["low"] > 0.2
