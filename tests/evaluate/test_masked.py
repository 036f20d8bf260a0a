"""The masked task's rules and scores: against slow computations, scikit-learn, and by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.evaluate import calibration, masked, words
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
    p, dense = dict(run.predictions), tokens.toarray().copy()
    p["target"] = 1 + p["target"] % 5
    dense[p["test"][p["cell"]], p["gene"]] = p["target"]
    again = masked.rules(sparse_tokens(dense), train, SimpleNamespace(predictions=p))
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
        assert scores.loc[(name, "accuracy"), "value"] == pytest.approx(np.mean(predicted == p["target"]))
        error = calibration.calibration_error(probabilities.max(1), predicted == p["target"])
        assert scores.loc[(name, "calibration_error"), "value"] == pytest.approx(error[0])
    assert list(dict.fromkeys(scores.index.get_level_values(0))) == ["cell_rule", "gene_rule", "additive"]
    intervals = scores.dropna()
    assert ((intervals["low"] <= intervals["value"]) & (intervals["value"] <= intervals["high"])).mean() > 0.95
    assert (scores.xs("over_additive", level="metric").loc["additive", ["value", "low", "high"]] == 0).all()


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # a bin that no target has
def test_scores_by_hand():
    """Two cells with three and one hidden genes: all scores are over the hidden genes, the interval over cells."""
    p = {"cell": np.array([0, 0, 0, 1]), "target": np.array([1, 1, 2, 5])}
    sure = np.array([0.9, 0.9, 0.9, 0.7])
    says = {"full": np.array([1, 2, 2, 1]), "additive": np.array([1, 1, 1, 5])}
    answers = {name: np.eye(7)[said] * sure[:, None] for name, said in says.items()}
    table = masked.scores(answers, SimpleNamespace(predictions=p), resamples=4000)
    value = table.pivot(index="metric", columns="answer", values="value")
    assert value.loc["accuracy"].to_dict() == pytest.approx({"full": 2 / 4, "additive": 3 / 4})
    assert value["full"][["recall[1]", "recall[2]", "recall[5]", "macro"]].tolist() == [0.5, 1, 0, 0.5]
    assert value["additive"][["recall[1]", "recall[2]", "recall[5]", "macro"]].tolist() == [1, 0, 1, pytest.approx(2 / 3)]
    assert value["full"][["recall[3]", "recall[4]"]].isna().all()
    assert value.loc["over_additive"].to_dict() == pytest.approx({"full": -0.25, "additive": 0})
    assert value.loc["calibration_error"].to_dict() == pytest.approx(
        {"full": (abs(2.7 - 2) + 0.7) / 4, "additive": (abs(2.7 - 2) + 0.3) / 4}
    )
    # A quarter of the resamples is the first cell twice, a quarter the second: they are the ends of the interval.
    ends = table.set_index(["answer", "metric"])[["low", "high"]]
    assert ends.loc[("full", "accuracy")].tolist() == pytest.approx([0, 2 / 3])
    assert ends.loc[("full", "over_additive")].tolist() == pytest.approx([-1, 0])
    assert ends.loc[("full", "recall[2]")].tolist() == [1, 1]  # nan where the first cell was not drawn does not count


def test_what_several_pre_trainings_add_to_a_rule():
    """Over all hidden genes; runs that agree leave the luck of the cells alone, one that does not widens the interval."""
    rng = np.random.default_rng(0)
    cell, target = np.repeat(np.arange(40), 25), rng.integers(1, 6, 1000)
    rule = np.where(rng.random(1000) < 0.5, target, 1)

    def runs(shares):
        made = []
        for seed, share in enumerate(shares):
            predicted = np.where(np.random.default_rng(1).random(1000) < share, target, rule)
            p = {"cell": cell, "target": target, "predicted": predicted}
            made.append(SimpleNamespace(spec={"pretraining": {"seed": seed}, "seed": 0}, predictions=p))
        return made

    answers = {"rule": np.eye(7)[rule]}
    same = masked.over(answers, "rule", runs([0.4] * 3))
    gain = (runs([0.4])[0].predictions["predicted"] == target).mean() - (rule == target).mean()
    assert same["difference"] == pytest.approx(gain) and same["low"] > 0 and words.verdict(same) == "ahead"
    assert (same["n_cells"], same["n_runs"], same["n_pretrainings"]) == (40, 3, 3)
    assert "(40 test cells, 3 pre-trainings; p = " in words.describe(same, "A", "B")
    apart = masked.over(answers, "rule", runs([0.0, 0.4, 0.8]))
    assert apart["high"] - apart["low"] > 3 * (same["high"] - same["low"])
    assert words.verdict(masked.over(answers, "rule", runs([0.4] * 2))) == "undecided"


def test_a_share_of_hidden_genes_is_pooled_and_varies_with_whole_cells():
    """Three cells of 1, 2 and 5 hidden genes, right in one: a share of all genes, whose variance is a ratio estimate's."""
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(60), rng.integers(1, 30, 60))
    right = rng.random(len(cell)) < rng.random(60)[cell]
    [one] = [SimpleNamespace(spec={"pretraining": {"seed": 0}, "seed": 0}, predictions={"cell": cell})]
    found = masked.pooled([right], [one], resamples=20_000)
    assert found["difference"] == pytest.approx(right.mean()) and found["n_runs"] == 1
    size = np.bincount(cell)
    left = np.bincount(cell, right) - right.mean() * size  # of each cell, around the ratio
    error = np.sqrt(np.sum(left**2)) / len(cell)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(2.001 * error, rel=0.03)


def test_rules_of_few_counts_by_hand():
    """A cell without visible genes is told the overall shares, which also decide between equals."""
    tokens = sparse_tokens(np.array([[1, 2, 2, 0, 0], [0, 3, 2, 1, 0], [2, 0, 0, 3, 0], [1, 1, 3, 0, 0]], np.uint8))
    run = SimpleNamespace(
        predictions={
            "cell": np.array([0, 0, 1]),
            "gene": np.array([0, 3, 0]),
            "target": np.array([2, 3, 1]),
            "test": np.array([2, 3]),
        }
    )
    found = masked.rules(tokens, np.array([0, 1]), run)
    overall = np.array([2, 3, 1, 0, 0]) / 6  # bins of the two training cells
    assert np.allclose(found["cell_rule"][0, 1:6], overall) and np.allclose(found["cell_rule"][1, 1:6], overall)
    assert np.allclose(found["cell_rule"][2, 1:6], [0.5, 0, 0.5, 0, 0], atol=1e-5) and found["cell_rule"][2].argmax() == 1
    assert np.allclose(found["gene_rule"][:, 1:6], [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]], atol=1e-5)
    thinned = masked.rules(tokens, np.array([0, 1]), run, entries=4, seed=3)
    assert not np.allclose(thinned["additive"], found["additive"]) and np.allclose(thinned["cell_rule"], found["cell_rule"])


def test_the_additive_rule_is_the_regression_it_says():
    """Fitted on every expressed value of the training cells, on its cell's and its gene's other values, one by one."""
    rng = np.random.default_rng(0)
    dense = np.concatenate([rng.choice(6, (30, 12), p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05]), np.zeros((30, 1), int)], 1).astype(
        np.uint8
    )
    train, test = np.arange(20), np.arange(20, 30)
    cell = np.repeat(np.arange(10), 2)
    gene = np.concatenate([np.flatnonzero(row)[:2] for row in dense[test]])
    run = SimpleNamespace(predictions={"cell": cell, "gene": gene, "target": dense[test][cell, gene].astype(int), "test": test})

    def features(visible, among):
        counts = [np.bincount(values, minlength=6)[1:] + 0.5 for values in (visible, among)]
        return np.concatenate([np.log(c / c.sum()) for c in counts])

    x, y = [], []
    for i, j in zip(*np.nonzero(dense[train])):
        others = [k for k in np.flatnonzero(dense[i]) if k != j], [k for k in train if dense[k, j] and k != i]
        x.append(features(dense[i, others[0]], dense[others[1], j]))
        y.append(dense[i, j])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    asked = []
    for i, j in zip(cell, gene):
        visible = np.setdiff1d(np.flatnonzero(dense[test[i]]), gene[cell == i])
        asked.append(features(dense[test[i], visible], dense[train, j][dense[train, j] > 0]))
    found = masked.rules(sp.csr_matrix(dense), train, run)["additive"]
    assert np.allclose(found[:, 1:6], model.predict_proba(asked), atol=1e-3) and (found[:, [0, 6]] == 0).all()


@pytest.fixture
def paired():
    """Cells in which gene 2k + 1 is as high as gene 2k, its nearest neighbour. Three genes a cell are hidden, none with it."""
    rng = np.random.default_rng(0)
    dense = np.repeat(rng.integers(1, 6, (300, 6)), 2, 1)
    dense = np.where(rng.random(dense.shape) < 0.1, rng.integers(1, 6, dense.shape), dense)
    tokens = sp.csr_matrix(np.concatenate([dense, np.zeros((300, 1), int)], 1).astype(np.uint8))
    train, test = np.arange(100), np.arange(100, 300)
    cell, gene = np.repeat(np.arange(200), 3), np.concatenate([rng.permutation(6)[:3] * 2 for _ in range(200)])
    return tokens, train, SimpleNamespace(predictions={"cell": cell, "gene": gene, "test": test}), dense


def test_neighbours_are_those_of_the_correlations(paired):
    """As NumPy's correlations have them, in one block or in several."""
    tokens, train, _, dense = paired
    known = dense[train].astype(float)
    correlation = np.corrcoef(known.T)
    np.fill_diagonal(correlation, -np.inf)
    wanted = np.argsort(-correlation, 1)[:, :3]
    for block in (5, 1000):
        assert np.array_equal(masked.neighbours_of(tokens, train, 3, block), wanted)
    assert np.array_equal(wanted[:, 0], np.arange(12) ^ 1)


def test_answers_are_taken_apart_by_what_they_are_made_of(paired):
    """A sum of a gene's and a cell's part has no other; what follows its partner has most from the neighbours; noise none."""
    tokens, train, run, dense = paired
    cell, gene = run.predictions["cell"], run.predictions["gene"]
    rng = np.random.default_rng(1)
    neighbours = masked.neighbours_of(tokens, train, 1)

    def shares(values):
        found = masked.taken_apart(values.astype(float), run, tokens, train, neighbours)
        assert sum(found.values()) == pytest.approx(1)
        return np.array(list(found.values()))

    by_gene, by_cell = rng.normal(size=12)[gene], rng.normal(size=200)[cell]
    assert shares(by_gene) == pytest.approx([1, 0, 0, 0], abs=1e-6)
    both = shares(by_gene + by_cell)
    assert both[2:] == pytest.approx([0, 0], abs=1e-6) and both[:2].min() > 0.1
    beside = masked.neighbour_level(run, tokens, train, neighbours)
    mean, deviation = dense[train].mean(0), dense[train].std(0)
    assert np.allclose(beside, ((dense[run.predictions["test"]] - mean) / deviation)[cell, gene + 1], atol=1e-5)
    follows = shares(beside + 0.5 * rng.normal(size=600))
    assert follows[2] > 0.4 and follows[2] == max(follows)
    noise = shares(rng.normal(size=600))
    assert np.abs(noise[:3]).max() < 0.15 and noise[3] > 0.8, "adjusted: two hundred shifts of cells explain nothing"


def test_a_hidden_neighbour_tells_nothing(paired):
    """Where the partner is hidden as well, its level is not looked at: zero."""
    tokens, train, run, _ = paired
    p = run.predictions
    both = SimpleNamespace(
        predictions=p | {"cell": np.append(p["cell"], p["cell"]), "gene": np.append(p["gene"], p["gene"] + 1)}
    )
    assert not masked.neighbour_level(both, tokens, train, masked.neighbours_of(tokens, train, 1)).any()
