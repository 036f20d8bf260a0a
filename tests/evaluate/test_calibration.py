"""Calibration, unknown types, and cells from elsewhere: by hand, against scikit-learn, and the runs themselves."""

import anndata
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from lib.datasets import catalogue
from lib.errors import DataError
from lib.evaluate import calibration, intervals
from lib.experiments import profiles, runs, specs
from lib.prepare import cells
from tests.evaluate.made import run


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
    assert np.allclose(calibration.calibration_error([1.0, 1.0], np.array([True, False]), weights=twice), [0.5, 0])


def test_calibration_error_by_hand():
    """Bins are weighted by their answers, signs within a bin cancel, between bins they do not; 1.0 is in the last bin."""
    sure, right = np.array([0.95, 1.0, 0.15, 0.55]), np.array([True, False, False, True])
    assert calibration.calibration_error(sure, right) == pytest.approx((abs(1.95 - 1) + 0.15 + 0.45) / 4)
    assert calibration.calibration_error(sure, right, bins=1) == pytest.approx((2.65 - 2) / 4)
    # Two cells of two answers each: with the first counted twice and the second not at all, only its answers are left.
    cell = np.array([0, 0, 1, 1])
    found = calibration.calibration_error(sure, right, cell, np.array([[1, 1], [2, 0], [0, 2]]))
    assert found == pytest.approx([(0.95 + 0.15 + 0.45) / 4, 0.95 / 2, (0.15 + 0.45) / 2])


def test_the_error_that_chance_shows_is_taken_out():
    """Two answers given with 0.8: 0.2, 0.3 or 0.8 off, by the binomial; of calibrated answers nothing is left on average."""
    expected = 0.64 * 0.2 + 0.32 * 0.3 + 0.04 * 0.8
    assert calibration.error_by_chance([0.8, 0.8], simulations=40_000) == pytest.approx(expected, abs=0.004)
    assert calibration.error_by_chance([1.0] * 9) == 0 and calibration.error_by_chance([0.7]) == calibration.error_by_chance(
        [0.7]
    )
    rng, left, raw = np.random.default_rng(4), [], []
    for _ in range(60):
        sure, labels = rng.uniform(0.5, 1, 140), np.zeros(140, int)
        one = run("a", labels, np.where(rng.random(140) < sure, 0, 1), sure=sure, classes=["x", "y"])
        table = calibration.calibration([one], resamples=50).set_index("metric")
        raw.append(table.loc["calibration_error", "value"])
        left.append(table.loc["calibration_error_centred"])
    value, low, high = (np.array([row[name] for row in left]) for name in ("value", "low", "high"))
    assert np.mean(raw) > 0.05 and abs(value.mean()) < 0.01
    assert np.mean((low <= 0) & (high >= 0)) > 0.8 and (low < value).all() and (value < high).all()


def test_reliability_by_hand():
    table = calibration.reliability([0.95, 1.0, 0.15, 0.1], [True, False, False, True])
    assert table["confidence"].tolist() == pytest.approx([0.125, 0.975])
    assert table["accuracy"].tolist() == [0.5, 0.5] and table["answers"].tolist() == [2, 2]
    assert calibration.reliability([0.2, 0.7], [True, False], bins=2).to_numpy().tolist() == [[0.2, 1, 1], [0.7, 0, 1]]


def test_calibration_is_the_mean_over_an_arms_runs():
    """Two runs sure by 0.8 and 0.6, one of two cells right: by hand; all cells alike: an interval without width."""
    runs = [
        run("a", [0, 0], [0, 1], 0, sure=0.8),
        run("a", [0, 0], [0, 1], 1, sure=0.6),
        run("b", [0, 0], [0, 0], sure=0.9, classes=["x", "y"]),
    ]
    table = calibration.calibration(runs).set_index(["arm", "metric"])
    assert table.loc["a", "value"].to_dict() == pytest.approx(
        {
            "brier": ((0.08 + 1.28) / 2 + (0.32 + 0.72) / 2) / 2,
            "confidence": 0.7,
            "accuracy": 0.5,
            "calibration_error": (0.3 + 0.1) / 2,
            "calibration_error_centred": 0.2 - np.mean([calibration.error_by_chance([sure] * 2) for sure in (0.8, 0.6)]),
        }
    )
    assert table.loc["a", "runs"].tolist() == [2] * 5 and table.loc["b", "runs"].tolist() == [1] * 5
    assert table.loc[("b", "brier"), ["value", "low", "high"]].tolist() == pytest.approx([0.02] * 3)
    assert table.loc[("b", "calibration_error"), "value"] == pytest.approx(0.1)
    assert table.loc[("a", "accuracy"), ["low", "high"]].tolist() == [0, 1]


def test_brier_is_scikit_learns_and_every_interval_holds_its_value():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(3), 80)
    labels = rng.integers(0, 3, 80)
    one = run("full", labels, labels, classes=["a", "b", "c"])
    one.predictions["probabilities"] = probabilities
    table = calibration.calibration([one]).set_index("metric")
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
    assert np.isnan(calibration.auc([1.0], [0.0, 0.5])[1:]).all() and np.isnan(calibration.auc([1.0, 2.0], [0.5])[1:]).all()


def test_auc_by_hand():
    """Four pairs: three won and one lost; DeLong's variance from the two cells of each side; never beyond 0 and 1."""
    area, low, high = calibration.auc([1.0, 3.0], [0.0, 2.0])  # of the positives ½ and 1, of the negatives 1 and ½
    assert area == 0.75 and low == pytest.approx(0.75 - 1.959964 * np.sqrt(0.125 / 2 + 0.125 / 2)) and high == 1
    area, low, high = calibration.auc([1.0, 1.0], [1.0, 3.0])
    assert area == 0.25 and low == 0 and high == pytest.approx(0.25 + 1.959964 * np.sqrt(0 / 2 + 0.125 / 2))
    assert calibration.auc(np.arange(5.0), np.arange(5.0) - 9) == (1, 1, 1)


def test_a_type_left_out_by_hand():
    """Cells of the unknown type are positives, doubt is the score; which type most of them are taken for."""
    classes = ["A", "B", "new"]
    one = run(
        "full", [2, 2, 2, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0, 0], classes=classes, sure=[0.4, 0.5, 0.9, 0.95, 0.85, 0.8, 0.45]
    )
    one.spec["left_out"] = "new"
    table = calibration.unknown([one])
    row = table.iloc[0].to_dict()
    # Doubt 0.6 beats all four known cells, 0.5 beats three of them, 0.1 beats the one of 0.05.
    assert {key: row[key] for key in ("arm", "left_out", "cells", "auc", "taken_for", "accuracy", "run")} == {
        "arm": "full",
        "left_out": "new",
        "cells": 3,
        "auc": pytest.approx(8 / 12),
        "taken_for": "B",
        "accuracy": 0.75,
        "run": one.id,
    }
    assert (row["auc"], row["low"], row["high"]) == calibration.auc([0.6, 0.5, 0.1], [0.05, 0.15, 0.2, 0.55])


def test_cells_from_elsewhere_by_hand():
    """Types are matched by name, whatever their order; accuracy and recall where the type is known, doubt where it is not."""
    one = run("full", [0, 0, 1, 2, 2], [1, 0, 0, 1, 0], 4, classes=["B", "A"], sure=[0.9, 0.8, 0.7, 0.6, 0.75])
    one.predictions["label_names"] = np.array(["A", "B", "Z"])
    row = calibration.elsewhere([one]).iloc[0].to_dict()
    share, low, high = intervals.wilson(2, 3)
    assert row == {
        "arm": "full",
        "seed": 4,
        "cells": 3,
        "accuracy": share,
        "low": low,
        "high": high,
        "unknown_cells": 2,
        "auc": pytest.approx(5 / 6),
        "recall[A]": 0.5,
        "recall[B]": 1,
        "run": one.id,
    }
    one.predictions["labels"] = np.array([0, 0, 1, 1, 1])
    assert np.isnan(calibration.elsewhere([one])["auc"][0]) and calibration.elsewhere([one, one])["unknown_cells"].tolist() == [
        0,
        0,
    ]
    one.predictions |= {"labels": np.array([0, 1, 1, 1, 1]), "label_names": np.array(["A", "Z"])}
    assert calibration.elsewhere([one])["auc"].tolist() == [1]  # a single known cell, doubted less than all others


def asked(arm, seed, predicted, before=None):
    """What a classifier of two types says of four cells; ``before``: the seed of its pre-training."""
    one = run(arm, [0, 0, 1, 1], predicted, seed, classes=["A", "B"], sure=[0.9] * 4)
    one.predictions["label_names"] = np.array(["A", "B"])
    one.spec["trained"] = {} if before is None else {"pretraining": {"seed": before}}
    return one


def test_elsewhere_every_pre_training_counts():
    """A run that knows nothing of pre-trainings stands beside each of them; a flagged run takes its seed's runs with it."""
    linear = [asked("logistic_regression", seed, [0, 0, 1, 1]) for seed in range(4)]
    names = {(before, seed): [0, 0, 1, 0] if before else [0, 0, 1, 1] for before in (0, 1) for seed in range(4)}
    names[1, 3] = [1, 1, 0, 0]
    scbert = [asked("full", seed, predicted, before) for (before, seed), predicted in names.items()]
    found = calibration.elsewhere_difference(linear, scbert, {(1, 3)})
    assert found["difference"] == pytest.approx((3 * 0.25 + 1) / 8) and found["crossed"]
    assert (found["n_seeds"], found["n_pretrainings"], found["n_flagged"]) == (4, 2, 1)
    assert found["difference_ended"] == pytest.approx(0.25 / 2)
    turned = calibration.elsewhere_difference(scbert, linear)
    assert turned["difference"] == pytest.approx(-found["difference"]) and turned["n_pretrainings"] == 2
    both = calibration.elsewhere_difference(scbert, scbert)
    assert both["difference"] == 0 and (both["n_seeds"], both["n_pretrainings"]) == (4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "clean"])
def test_a_type_left_out_is_nowhere_learnt_from_and_wholly_tested(smoke, protocol):
    """Not among the training cells nor those that choose the epoch; all its cells are predicted, with all other test cells."""
    wanted = specs.unknown(smoke | {"protocol": protocol}, ["logistic_regression", "no_gene2vec"])
    names = smoke["adata"].obs["cell_type"].cat.categories
    assert {spec["left_out"] for spec in wanted} == set(names) and len(wanted) == 2 * len(names)
    wanted = [spec for spec in wanted if spec["left_out"] == names[3]]
    kept = cells.read(smoke["fingerprint"])
    ordinary = runs.complete(specs.cell_types(smoke, ["majority"], seeds=[0]))[0].predictions["test"]
    for one in runs.complete(wanted):
        p = one.predictions
        assert not (kept.labels[p["train"]] == 3).any() and not (kept.labels[p.get("select", p["train"])] == 3).any()
        assert set(p["test"]) == set(ordinary) | set(np.flatnonzero(kept.labels == 3))
        assert np.array_equal(p["labels"], kept.labels[p["test"]])
        row = calibration.unknown([one]).iloc[0]
        doubt = 1 - p["probabilities"].max(1)
        assert row["auc"] == pytest.approx(roc_auc_score(p["labels"] == 3, doubt)) and row["cells"] == (kept.labels == 3).sum()
    with pytest.raises(DataError, match="left_out is 'Neuron'"):
        runs.complete([wanted[0] | {"left_out": "Neuron"}])


@pytest.mark.slow
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
    [one] = runs.complete(specs.external(there, specs.cell_types(smoke, ["logistic_regression"], seeds=[0])))
    row = calibration.elsewhere([one]).iloc[0]
    assert row["unknown_cells"] == (names == "Dendritic cells").sum() and row["cells"] + row["unknown_cells"] == 700
    assert 0.5 < row["accuracy"] <= 1 and 0 < row["auc"] < 1 and "recall[Dendritic cells]" not in row
    assert profiles.external(smoke) is None  # smoke names none


@pytest.mark.slow
def test_true_zheng68k_cells_are_named_by_models_of_other_cells(smoke, shared):
    """The probe of 165 Zheng68K cells: aligned by symbols; far more are named right than by chance."""
    there = profiles.external(smoke, shared / "zheng68k_probe.h5ad")
    assert there["adata"].uns["alignment"]["matched"] > 500
    [one] = runs.complete(specs.external(there, specs.cell_types(smoke, ["logistic_regression"], seeds=[0])))
    row = calibration.elsewhere([one]).iloc[0]
    assert row["cells"] + row["unknown_cells"] == 165 and row["low"] > 0.2
    first, second = (
        runs.complete(specs.external(there, specs.cell_types(smoke, [arm], seeds=[0, 1])))
        for arm in ("logistic_regression", "no_gene2vec")
    )
    found = calibration.elsewhere_difference(first, second)
    means = [calibration.elsewhere(each)["accuracy"].mean() for each in (first, second)]
    assert found["difference"] == pytest.approx(means[0] - means[1]) and found["low"] < found["difference"] < found["high"]
    assert found["n_cells"] == row["cells"] and found["n_seeds"] == 2 and found["n_pretrainings"] == 1
    assert calibration.elsewhere_difference(first, first)["difference"] == 0 == found["n_flagged"]
    flagged = calibration.elsewhere_difference(first, second, {(second[0].spec["trained"]["pretraining"]["seed"], 0)})
    assert flagged["n_flagged"] == 1 and "difference_ended" not in flagged, "of a single seed nothing is said"
