"""What representations hold: against dense computations, exact properties, scikit-learn, and by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from lib.evaluate import intervals, representations
from lib.experiments import tasks
from lib.prepare.tokens import sparse_tokens
from lib.scbert.model import ScBert, ScBertConfig


@pytest.mark.parametrize("embedded", [True, False])
def test_means_of_hidden_states_are_those_of_the_whole_array(cells, embedded):
    """Over each cell's genes and each gene's cells, whatever the batches; the closing token's beside them."""
    few = sparse_tokens(cells.X[:40])
    genes = few.shape[1] - 1
    torch.manual_seed(0)
    embedding = np.random.default_rng(0).normal(size=(genes, 8)) if embedded else None
    model = ScBert(ScBertConfig(genes=genes, dim=8, depth=1, heads=2, dim_head=4, features=8), embedding).eval()
    found = tasks._hidden_means(model, SimpleNamespace(tokens=few, genes=np.arange(genes)), batch_size=7)
    with torch.no_grad():
        h = model.norm(model.hidden(torch.from_numpy(few.toarray()))).double().numpy()  # (cells, genes + 1, d)
    assert np.allclose(found["cells"], h[:, :-1].mean(1), atol=1e-5) and np.allclose(
        found["cells_closing"], h[:, -1], atol=1e-5
    )
    assert np.allclose(found["genes_out"], h[:, :-1].mean(0), atol=1e-5) and ("genes_in" in found) == embedded


@pytest.fixture(scope="module")
def grouped():
    """Two hundred cells of four types far apart, their types, and an order."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    return np.eye(4)[labels] * 20 + rng.normal(size=(200, 4)), labels, rng.permutation(200)


def scaled(x, train):
    """Every column by the mean and deviation of its training cells."""
    return (x - x[train].mean(0)) / x[train].std(0)


def test_the_unit_of_a_column_does_not_matter(grouped):
    """All four are taken on one scaling: a column in other units, and shifted, changes nothing."""
    apart, labels, order = grouped
    noisy = apart + np.random.default_rng(3).normal(size=apart.shape) * 8
    other = noisy * [1, 1000, 0.01, 7] + [0, 5, -3, 100]
    first, second = (
        representations.cells(x, labels, order[:150], order[150:], resamples=50, clusterings=2) for x in (noisy, other)
    )
    for a, b in zip(first, second):
        assert a["metric"] == b["metric"] and a["value"] == pytest.approx(b["value"])


def test_arms_are_compared_cell_by_cell(grouped):
    """Nearest neighbours and silhouettes against another representation of the same cells, over several runs."""
    apart, labels, order = grouped
    common = {"labels": labels, "train": order[:150], "test": order[150:]}

    def made(arm, x, seed=None):
        spec = {"arm": arm, "seed": 0} | ({} if seed is None else {"pretraining": {"seed": seed}})
        return SimpleNamespace(spec=spec, predictions=common | {"cells": x})

    rng = np.random.default_rng(0)
    noisy = [made("full", apart + rng.normal(size=apart.shape) * 30, seed) for seed in range(3)]
    knn, silhouette, ari, nmi = representations.against(noisy, made("pca", apart), resamples=200, clusterings=2)
    right = [representations.knn_accuracy(run.predictions["cells"], labels, order[:150], order[150:]) for run in noisy]
    assert knn["difference"] == pytest.approx(np.mean(right) - 1) and (knn["n_cells"], knn["n_runs"]) == (50, 3)
    assert knn["high"] < 0 and silhouette["high"] < 0 and silhouette["n_cells"] == 200 and knn["reference"] == "pca"
    for metric, row in (("silhouette", silhouette), ("ari", ari), ("nmi", nmi)):
        alone = [
            {one["metric"]: one["value"] for one in representations.cells(*values, resamples=2, clusterings=2)}[metric]
            for values in ((run.predictions["cells"], labels, order[:150], order[150:]) for run in (*noisy, made("pca", apart)))
        ]
        assert row["metric"] == metric and row["difference"] == pytest.approx(np.mean(alone[:-1]) - alone[-1])
        assert row["high"] < 0
    copies = [made("full", apart, seed) for seed in range(3)]
    same = representations.against(copies, made("pca", apart), resamples=50, clusterings=2)
    assert [(row["difference"], row["p"]) for row in same] == [(0, 1)] * 4
    few = representations.against(copies, made("pca", apart), resamples=50, clusterings=2, most=60)
    assert [row["n_cells"] for row in few] == [50, 60, 60, 60]


def test_cells_by_type_and_cells_at_random(grouped):
    """Types far apart: all four near 1; labels drawn at random: agreement near 0."""
    apart, labels, order = grouped
    found = {row["metric"]: row for row in representations.cells(apart, labels, order[:150], order[150:])}
    assert all(row["value"] > 0.8 and row["low"] <= row["value"] <= row["high"] for row in found.values())
    assert list(found) == ["knn_accuracy", "silhouette", "ari", "nmi"]
    assert found["silhouette"]["value"] == pytest.approx(silhouette_score(scaled(apart, order[:150]), labels))
    assert (found["knn_accuracy"]["low"], found["knn_accuracy"]["high"]) == intervals.wilson(50, 50)[1:]
    labels = np.random.default_rng(1).permutation(labels)
    noise = {row["metric"]: row for row in representations.cells(apart, labels, order[:150], order[150:])}
    assert abs(noise["ari"]["value"]) < 0.05 and noise["silhouette"]["value"] < 0 and noise["knn_accuracy"]["value"] < 0.5


def test_agreement_is_that_of_k_means_and_its_interval_is_centred(grouped):
    """Mean over the clusterings; cells drawn twice would raise the draws, so that their mean is set to the value."""
    apart, labels, order = grouped
    rng = np.random.default_rng(2)
    labels = np.where(rng.random(200) < 0.4, rng.integers(0, 4, 200), labels)  # clusters are the old types
    found = {row["metric"]: row for row in representations.cells(apart, labels, order[:150], order[150:], clusterings=2)}
    truth = np.repeat(np.arange(4), 50)
    for name, score in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        row = found[name]
        assert row["value"] == pytest.approx(score(truth, labels))
        assert row["high"] - row["value"] == pytest.approx(row["value"] - row["low"], rel=0.35)
        assert 0.03 < row["high"] - row["low"] < 0.25
    width = found["silhouette"]["high"] - found["silhouette"]["low"]
    assert 0.02 < width < 0.3 and found["silhouette"]["low"] < found["silhouette"]["value"] < found["silhouette"]["high"]


def test_many_cells_are_thinned_for_what_needs_all_distances(grouped):
    """With at most 40 cells the nearest neighbours stay those of all cells; the others are of 40, and less certain."""
    apart, labels, order = grouped
    noisy = apart + np.random.default_rng(3).normal(size=apart.shape) * 8
    whole = {r["metric"]: r for r in representations.cells(noisy, labels, order[:150], order[150:], clusterings=2)}
    thin = {r["metric"]: r for r in representations.cells(noisy, labels, order[:150], order[150:], clusterings=2, most=40)}
    again = representations.cells(noisy, labels, order[:150], order[150:], clusterings=2, most=40)
    assert again == list(thin.values())
    some = np.sort(np.random.default_rng(0).permutation(200)[:40])
    assert thin["knn_accuracy"] == whole["knn_accuracy"]
    assert thin["silhouette"]["value"] == pytest.approx(silhouette_score(scaled(noisy, order[:150])[some], labels[some]))
    assert thin["ari"]["high"] - thin["ari"]["low"] > 1.5 * (whole["ari"]["high"] - whole["ari"]["low"])


def test_agreement_of_a_bootstrap_is_that_of_the_repeated_cells():
    """What scikit-learn says of the cells drawn, one by one; with a single group in both they agree."""
    rng = np.random.default_rng(3)
    labels, clusters = rng.integers(0, 5, 200) * 2, rng.integers(0, 4, 200)
    clusters = np.where(rng.random(200) < 0.5, labels, clusters)
    drawn = [np.arange(200), *(rng.integers(0, 200, 200) for _ in range(20)), np.flatnonzero(labels == 2)]
    found = representations.agreement(labels, clusters, [np.bincount(cells, minlength=200) for cells in drawn])
    for cells, values in zip(drawn, found):
        expected = [score(labels[cells], clusters[cells]) for score in (adjusted_rand_score, normalized_mutual_info_score)]
        assert np.allclose(values, expected, atol=1e-12)
    assert np.allclose(representations.agreement(labels, labels, [np.ones(200, int)]), 1)
    crossed = representations.agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), [np.ones(4, int)])
    assert np.allclose(crossed, [[-0.5, 0]])  # of one size, and without anything in common
    assert np.allclose(representations.agreement(np.zeros(9, int), np.zeros(9, int), [np.ones(9, int)]), 1)


def test_nearest_genes_are_the_nearest():
    """By angle, not by length; the gene itself is not among them, and genes that are not there are left out."""
    embedding = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0.2]])
    genes = np.array(["A", "B", "C", "D"])
    found = representations.nearest_genes(embedding, genes, ["A", "LOST"], neighbours=2)
    assert found == {"A": "B, C"}
    longer = embedding * [[1], [0.01], [50], [3]]
    assert representations.nearest_genes(longer, genes, ["D", "C"]) == {"D": "C, B, A", "C": "D, B, A"}
    many = np.stack([np.cos(np.arange(8) / 9), np.sin(np.arange(8) / 9)], 1)
    assert representations.nearest_genes(many, list("ABCDEFGH"), ["A"]) == {"A": "B, C, D, E, F"}
    assert representations.nearest_genes(np.zeros((2, 3)), ["A", "B"], ["B"]) == {"B": "A"}


def test_neighbours_and_knn():
    """An embedding shares all neighbours with itself and about chance with noise; separated types are named."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    assert representations.neighbour_overlap(x, 3 * x) == 1
    assert representations.neighbour_overlap(x, rng.normal(size=(200, 8))) < 0.12
    labels = np.repeat([0, 1], 100)
    order = rng.permutation(200)
    assert representations.knn_accuracy(x + 9 * labels[:, None], labels, order[:150], order[150:]) == 1
    assert representations.knn_accuracy(x, labels, order[:150], order[150:]) < 0.8


def test_knn_by_hand():
    """Three training cells, all of them asked where more are wanted; columns count alike, whatever their unit."""
    x = np.array([[0.0, 0], [0.1, 1e4], [1.0, 0], [0.05, 0]])
    labels = np.array([0, 0, 1, 0])
    assert representations.knn_accuracy(x, labels, np.array([0, 1, 2]), np.array([3])) == 1
    assert representations.knn_accuracy(x, labels, np.array([0, 1, 2]), np.array([2])) == 0  # outvoted
    assert representations.knn_accuracy(x, labels, np.array([0, 1, 2]), np.array([2, 3]), neighbours=1) == 1
    # Next to the second cell by the first column, to the first by the second, whose numbers are larger but no more telling.
    x = np.array([[0, 0], [1, 1e4], [0.9, 4e3]])
    assert representations.knn_accuracy(x, np.array([0, 1, 1]), np.array([0, 1]), np.array([2]), neighbours=1) == 1


def test_overlap_by_hand():
    """Five genes on a circle, two neighbours each, in two orders; where all are alike, no more than all are in common."""
    angle = np.arange(5) * 0.3
    line = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert representations.neighbour_overlap(line, line[::-1], 2) == 1  # the mirrored line has the same neighbours
    other = line[[1, 0, 2, 3, 4]]
    near = [{1, 2}, {0, 2}, {1, 3}, {2, 4}, {3, 2}]
    swapped = [{1, 2}, {0, 2}, {0, 3}, {2, 4}, {3, 2}]
    expected = np.mean([len(a & b) / 2 for a, b in zip(near, swapped)])
    assert representations.neighbour_overlap(line, other, 2) == pytest.approx(expected)
    assert representations.neighbour_overlap(np.ones((30, 2)), np.ones((30, 2)), 3) == 1
