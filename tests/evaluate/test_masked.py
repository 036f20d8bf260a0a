"""The masked task's rules and the representations' numbers: against slow computations, exact properties, scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score, recall_score

from lib.evaluate import calibration, masked, representations
from lib.experiments import tasks
from lib.prepare.tokens import sparse_tokens
from lib.scbert.model import ScBert, ScBertConfig
from lib.scbert.pretrain import evaluate_masked


@pytest.fixture(scope="module")
def task(cells):
    """Real tokens of 300 cells, and a small model's masked task on 60 of them as a run."""
    tokens = sparse_tokens(cells.X[:300])
    order = np.random.default_rng(0).permutation(300)
    train, test = order[:240], order[240:]
    torch.manual_seed(0)
    model = ScBert(ScBertConfig(genes=tokens.shape[1] - 1, dim=8, depth=1, heads=2, dim_head=4, features=8))
    p = evaluate_masked(model, tokens[test], seed=0) | {"test": test}
    return tokens, train, SimpleNamespace(spec={"arm": "full"}, predictions=p)


def test_rules_are_what_counting_gives(task):
    """The cell's rule counts its visible expressed genes alone, the gene's the training cells that express it."""
    tokens, train, run = task
    p, found = run.predictions, masked.rules(tokens, train, run)
    everything = tokens[:, :-1].toarray()
    for i in np.random.default_rng(1).permutation(len(p["cell"]))[:200]:
        cell, gene = everything[p["test"][p["cell"][i]]], p["gene"][i]
        visible = np.setdiff1d(np.flatnonzero(cell), p["gene"][p["cell"] == p["cell"][i]])
        expected = np.bincount(cell[visible], minlength=6)[1:] / len(visible)
        assert np.allclose(found["cell_rule"][i, 1:6], expected, atol=1e-4)
        among = everything[train, gene]
        among = among[among > 0]
        if len(among):
            assert np.allclose(found["gene_rule"][i, 1:6], np.bincount(among, minlength=6)[1:] / len(among), atol=1e-4)
    for probabilities in found.values():
        assert probabilities.shape == (len(p["cell"]), 7) and np.allclose(probabilities.sum(1), 1)
        assert (probabilities[:, [0, 6]] == 0).all()


def test_the_additive_rule_learns_from_training_cells_and_beats_its_parts(task):
    """Other bins in the test cells' hidden genes, the same answers; on real cells better than cell or gene alone."""
    tokens, train, run = task
    found = masked.rules(tokens, train, run)
    scores = masked.scores(found, run).pivot(index="answer", columns="metric", values="value")
    assert scores.loc["additive", "accuracy"] > scores.loc[["cell_rule", "gene_rule"], "accuracy"].max()
    p, dense = dict(run.predictions), tokens.toarray()
    p["target"] = 1 + p["target"] % 5
    dense[p["test"][p["cell"]], p["gene"]] = p["target"]
    again = masked.rules(sp.csr_matrix(dense), train, SimpleNamespace(predictions=p))
    for name in found:
        assert np.allclose(found[name], again[name])


def test_scores_are_scikit_learns(task):
    tokens, train, run = task
    p, found = run.predictions, masked.rules(tokens, train, run)
    scores = masked.scores(found, run).set_index(["answer", "metric"])
    for name, probabilities in found.items():
        predicted = probabilities.argmax(1)
        recalls = recall_score(p["target"], predicted, average=None, labels=np.unique(p["target"]), zero_division=0)
        assert scores.loc[(name, "macro"), "value"] == pytest.approx(recalls.mean())
        by_cell = [np.mean(predicted[p["cell"] == c] == p["target"][p["cell"] == c]) for c in np.unique(p["cell"])]
        assert scores.loc[(name, "accuracy"), "value"] == pytest.approx(np.mean(by_cell))
        error = calibration.calibration_error(probabilities.max(1), predicted == p["target"])
        assert scores.loc[(name, "calibration_error"), "value"] == pytest.approx(error)
    intervals = scores.dropna()
    assert ((intervals["low"] <= intervals["value"]) & (intervals["value"] <= intervals["high"])).mean() > 0.95
    assert (scores.xs("over_additive", level="metric").loc["additive", ["value", "low", "high"]] == 0).all()


@pytest.mark.parametrize("embedded", [True, False])
def test_variance_is_taken_apart_as_a_dense_computation_does(task, embedded):
    """Gene, token, cell, rest: the shares of nested least-squares fits on the whole array, and their sum is one."""
    tokens, _, _ = task
    few = tokens[:40]
    genes = few.shape[1] - 1
    torch.manual_seed(0)
    embedding = np.random.default_rng(0).normal(size=(genes, 8)) if embedded else None
    model = ScBert(ScBertConfig(genes=genes, dim=8, depth=1, heads=2, dim_head=4, features=8), embedding).eval()
    shares = tasks._hidden_means(model, SimpleNamespace(tokens=few, genes=np.arange(genes)), batch_size=7)["variance"]
    with torch.no_grad():
        h = model.norm(model.hidden(torch.from_numpy(few.toarray())))[:, :-1].double().numpy()  # (cells, genes, d)
    shown, total = few[:, :-1].toarray(), np.square(h - h.mean((0, 1))).sum()
    fits = [np.broadcast_to(h.mean((0, 1)), h.shape), np.broadcast_to(h.mean(0), h.shape), np.empty_like(h)]
    for gene in range(genes):
        for token in np.unique(shown[:, gene]):
            at = shown[:, gene] == token
            fits[2][at, gene] = h[at, gene].mean(0)
    fits.append(fits[2] + (h - fits[2]).mean(1, keepdims=True))
    left = [np.square(h - fit).sum() / total for fit in fits] + [0]
    assert np.allclose(shares, -np.diff(left), atol=1e-5) and shares.sum() == pytest.approx(1)
    if not embedded:  # one state for all genes of a token: the gene explains nothing that its token does not
        assert shares[3] < 0.3


def test_cells_by_type_and_cells_at_random():
    """Types far apart: all four near 1; labels drawn at random: agreement near 0."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    order = rng.permutation(200)
    apart = np.eye(4)[labels] * 20 + rng.normal(size=(200, 4))
    found = {row["metric"]: row for row in representations.cells(apart, labels, order[:150], order[150:])}
    assert all(row["value"] > 0.8 and row["low"] <= row["value"] <= row["high"] for row in found.values())
    noise = {row["metric"]: row for row in representations.cells(apart, rng.permutation(labels), order[:150], order[150:])}
    assert abs(noise["ari"]["value"]) < 0.05 and noise["silhouette"]["value"] < 0 and noise["knn_accuracy"]["value"] < 0.5
    assert adjusted_rand_score(labels, labels) == 1


def test_agreement_of_a_bootstrap_is_that_of_the_repeated_cells():
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rng = np.random.default_rng(3)
    labels, clusters = rng.integers(0, 5, 200) * 2, rng.integers(0, 4, 200)
    clusters = np.where(rng.random(200) < 0.5, labels, clusters)
    drawn = [np.arange(200), *(rng.integers(0, 200, 200) for _ in range(20)), np.flatnonzero(labels == 2)]
    found = representations.agreement(labels, clusters, [np.bincount(cells, minlength=200) for cells in drawn])
    for cells, values in zip(drawn, found):
        expected = [score(labels[cells], clusters[cells]) for score in (adjusted_rand_score, normalized_mutual_info_score)]
        assert np.allclose(values, expected, atol=1e-12)
    assert np.allclose(representations.agreement(labels, labels, [np.ones(200, int)]), 1)
    assert np.allclose(representations.agreement(np.zeros(9, int), np.zeros(9, int), [np.ones(9, int)]), 1)


def test_nearest_genes_are_the_nearest():
    embedding = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0.2]])
    found = representations.nearest_genes(embedding, np.array(["A", "B", "C", "D"]), ["A", "LOST"], neighbours=2)
    assert found == {"A": "B, C"}
