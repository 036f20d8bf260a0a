"""The protocol, the controls against scikit-learn and closed forms, scBERT behind it; class weights."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats as scipy_stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression as Binary
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neighbors import NearestCentroid as Centroid

from lib.errors import DataError
from lib.experiments import baselines, classifiers, profiles
from lib.prepare import splits, tokenize


@pytest.fixture(scope="module")
def split(cells):
    """Values, tokens, labels and the two sides of a split of real cells."""
    labels = cells.obs["cell_type"].cat.codes.to_numpy(np.int64)
    return cells.X, tokenize(cells), labels, *splits.holdout(labels)


@pytest.mark.parametrize("name", classifiers.MODELS)
def test_every_model_keeps_the_protocol(split, name):
    """fit(x, labels, seed) gives the model; probabilities have a column for each class it met, and sum to 1."""
    x, _, labels, train, test = split
    x = x[:, :2].toarray() if name == "depth" else x  # it is given two numbers a cell
    few = train[labels[train] != labels[test[0]]][:120]  # a class is absent
    model = classifiers.MODELS[name]()
    assert model.fit(x[few], labels[few], 0) is model
    probabilities = model.predict_proba(x[test])
    assert probabilities.shape == (len(test), len(model.classes_)) and np.allclose(probabilities.sum(1), 1)
    assert set(model.classes_) == set(labels[few])
    again = classifiers.MODELS[name]().fit(x[few], labels[few], 0).predict_proba(x[test])
    assert np.array_equal(probabilities, again)


def test_l2_is_scikit_learns_one_against_the_rest(split):
    """Each class's weights are those of scikit-learn's binary model; no weight is zero, unlike with L1."""
    x, _, labels, train, _ = split
    model = classifiers.LogisticRegression(C=0.1, penalty="l2").fit(x[train], labels[train], 0)
    for k in (0, 4):
        binary = Binary(C=0.1, l1_ratio=0, solver="liblinear", random_state=0).fit(x[train], labels[train] == k)
        assert np.allclose(model.coefficients[k], binary.coef_[0], atol=1e-6)
    sparse = classifiers.LogisticRegression(C=0.1).fit(x[train], labels[train], 0)
    seen = np.asarray((x[train] != 0).sum(0)).ravel() > 0
    assert np.mean(model.coefficients[:, seen] == 0) < 0.01 < 0.8 < np.mean(sparse.coefficients == 0)
    with pytest.raises(DataError, match="l1, l2"):
        classifiers.LogisticRegression(penalty="elastic")


def test_nearest_centroid_is_scikit_learns(split):
    x, _, labels, train, test = split
    model = baselines.NearestCentroid().fit(x[train], labels[train])
    theirs = Centroid().fit(x[train].toarray(), labels[train])
    answers = model.classes_[model.predict_proba(x[test]).argmax(1)]
    assert np.array_equal(answers, theirs.predict(x[test].toarray())) and np.mean(answers == labels[test]) > 0.5


def test_ranks_are_projected_by_least_squares(split):
    """Each cell's quantiles, by scipy, as the mean quantiles of the types put together; scaling a cell changes nothing."""
    x, _, labels, train, test = split
    model = baselines.RankMeans().fit(x[train], labels[train])

    def quantiles(cell):
        return scipy_stats.norm.ppf(scipy_stats.rankdata(cell) / (len(cell) + 1))

    means = np.stack([np.mean([quantiles(c) for c in x[train[labels[train] == k]].toarray()], 0) for k in model.classes_])
    some = x[test[:20]].toarray()
    share = np.stack([np.linalg.lstsq(means.T, quantiles(cell), rcond=None)[0] for cell in some])
    expected = np.exp(share) / np.exp(share).sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(x[test[:20]]), expected, rtol=1e-6)
    np.testing.assert_array_equal(model.predict_proba(x[test] * 3), model.predict_proba(x[test]))
    assert np.mean(model.classes_[model.predict_proba(x[test]).argmax(1)] == labels[test]) > 0.5


def test_depth_is_a_vote_of_the_cells_sequenced_most_alike():
    """By hand: distances in standard deviations of the training cells, the nearest 25 vote; one measure alone will do."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    depth = np.stack([rng.normal(labels, 1), 40 * rng.normal(labels, 2)], 1)  # units must not matter
    for x in (depth, depth[:, :1]):
        scaled = (x - x[:150].mean(0)) / x[:150].std(0)
        nearest = np.square(scaled[150:, None] - scaled[None, :150]).sum(2).argsort(1)[:, :25]
        share = np.stack([(labels[nearest] == k).mean(1) for k in range(3)], 1)
        np.testing.assert_allclose(baselines.Depth().fit(x[:150], labels[:150]).predict_proba(x[150:]), share)
    assert baselines.Depth().fit(depth[:4], labels[:4]).predict_proba(depth[:2]).shape[0] == 2  # fewer cells than votes


def test_balanced_weights_are_scikit_learns(split):
    x, _, labels, train, _ = split
    model = classifiers.LogisticRegression(C=0.1, class_weight="balanced").fit(x[train], labels[train], 0)
    how = {"C": 0.1, "l1_ratio": 1, "solver": "liblinear", "random_state": 0, "class_weight": "balanced"}
    np.testing.assert_allclose(model.coefficients[4], Binary(**how).fit(x[train], labels[train] == 4).coef_[0], atol=1e-6)


def test_nearest_neighbours_are_those_in_principal_components(split):
    """The same answers as a dense PCA and neighbours by hand, up to ties; few cells shrink both numbers."""
    x, _, labels, train, test = split
    dense = x.toarray()
    pca = PCA(20, svd_solver="full").fit(dense[train])
    by_hand = KNeighborsClassifier(10).fit(pca.transform(dense[train]), labels[train]).predict(pca.transform(dense[test]))
    model = baselines.NearestNeighbours(components=20).fit(x[train], labels[train])
    assert np.mean(model.classes_[model.predict_proba(x[test]).argmax(1)] == by_hand) > 0.97
    assert baselines.NearestNeighbours().fit(x[:6], labels[:6]).predict_proba(x[:2]).shape[0] == 2
    with pytest.raises(DataError, match="no principal component"):
        baselines.NearestNeighbours().fit(x[:1], labels[:1])


def test_random_is_drawn_by_share(split):
    """Each type about as often as among the training cells; another seed draws others; genes play no part."""
    _, _, labels, train, _ = split
    nothing = sp.csr_matrix((20_000, 3), dtype=np.float32)
    drawn = [baselines.StratifiedRandom().fit(None, labels[train], seed).predict_proba(nothing) for seed in (0, 1)]
    share = np.bincount(labels[train]) / len(train)
    assert np.allclose(drawn[0].mean(0), share, atol=0.015) and not np.array_equal(*drawn)


@pytest.mark.slow
def test_labels_of_test_cells_reach_no_weight(split):
    """Class weights, and all else in training, come from the training cells: other test labels, the same answers."""
    import torch

    from lib.scbert.classifier import CellTypeClassifier
    from lib.scbert.finetune import finetune
    from lib.scbert.model import ScBertConfig

    _, tokens, labels, train, test = split
    train, test, found = train[:60], test[:20], []
    for other in (False, True):
        changed = labels.copy()
        if other:
            changed[test] = 0
        torch.manual_seed(0)
        config = ScBertConfig(genes=tokens.shape[1] - 1, dim=8, depth=0, heads=2, dim_head=4, features=8, classes=10)
        done = finetune(CellTypeClassifier(config), tokens, changed, train, test, select=train[:10], epochs=2)
        found.append(done.probabilities)
    assert np.array_equal(*found)


def test_training_all_blocks_moves_all_but_the_gene_embedding(split):
    """``trained="all"``: every parameter moves; the paper's choice: only the last block, the norm and the head."""
    import torch

    from lib.scbert.classifier import CellTypeClassifier
    from lib.scbert.finetune import finetune
    from lib.scbert.model import ScBertConfig

    _, tokens, labels, train, test = split
    genes = tokens.shape[1] - 1
    config = ScBertConfig(genes=genes, dim=8, depth=2, heads=2, dim_head=4, features=8, classes=10)
    for trained in ("last_block", "all"):
        torch.manual_seed(0)
        model = CellTypeClassifier(config, np.random.default_rng(0).normal(size=(genes, 8)))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        finetune(
            model, tokens, labels, train[:40], test[:20], epochs=2, trained=trained, schedule={"max_lr": 1e-2, "warmup": 1}
        )
        moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        names = {name for name, _ in model.named_parameters()}
        last = {name for name in names if name.startswith(("performer.net.layers.1.", "norm.", "to_out."))}
        assert moved == (names if trained == "all" else last)
        assert torch.equal(model.gene_embedding, before["gene_embedding"])
    with pytest.raises(DataError, match="trained is 'head'"):
        finetune(model, tokens, labels, train[:40], test[:20], trained="head")


# scBERT behind the protocol.


def classifier_of(profile):
    return classifiers.ScBertClassifier(profile["size"], profile["pretraining"], profile["finetuning"])


@pytest.mark.parametrize(
    "make",
    [
        lambda profile: classifiers.LogisticRegression(0.1),
        lambda profile: baselines.Majority(),
        lambda profile: baselines.NearestNeighbours(5),
        lambda profile: baselines.StratifiedRandom(),
        classifier_of,
    ],
    ids=["logistic regression", "majority", "neighbours", "random", "scBERT"],
)
def test_every_classifier_keeps_the_protocol(make):
    """fit, predict_proba and classes_: probabilities of the types met, the same again with the same seed."""
    profile = profiles.read("smoke")
    rng = np.random.default_rng(0)
    labels = np.repeat([2, 5, 9], 20)
    x = (rng.random((60, 40)) < 0.3) * rng.random((60, 40)) * 6 + np.eye(3)[np.repeat(range(3), 20)] @ (np.eye(3, 40) * 5)
    x, found = sp.csr_matrix(x, dtype=np.float32), []
    for _ in range(2):
        model = make(profile)
        model.fit(x, labels, 1)
        found.append(np.asarray(model.predict_proba(x[::2])))
        assert model.classes_.tolist() == [2, 5, 9]
    assert found[0].shape == (30, 3) and np.allclose(found[0].sum(1), 1, atol=1e-5) and (found[0] >= 0).all()
    assert np.array_equal(*found)


def test_scbert_classifier_learns():
    """Types that differ in their genes are told apart, also on cells it has not seen."""
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 60)
    x = np.where(rng.random((120, 30)) < 0.4, 5 * rng.random((120, 30)), 0)
    x[:, :8] = np.where(labels[:, None] == 0, 4.5, 0)
    x = sp.csr_matrix(x.astype(np.float32))
    size = {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "features": 16}
    finetuning = {"epochs": 12, "batch_size": 8, "schedule": {"max_lr": 5e-3, "warmup": 1, "cycle": 14}}
    embedding = rng.standard_normal((30, 16)).astype(np.float32)
    model = classifiers.ScBertClassifier(size, None, finetuning, embedding)
    model.fit(x[:80], labels[:80], 0)
    assert (model.predict_proba(x[80:]).argmax(1) == labels[80:]).mean() > 0.9
    with pytest.raises(DataError, match="20 genes, the model learnt from 30"):
        model.predict_proba(x[:, :20])
    with pytest.raises(DataError, match="gene_embedding is 'word2vec'"):
        classifiers.ScBertClassifier(size, None, finetuning, "word2vec").fit(x, labels)


# Anyone's classifier.


class Says:
    """A classifier that has met some classes and gives fixed probabilities, and faults."""

    def __init__(self, probabilities, classes=None):
        self.probabilities = np.asarray(probabilities)
        if classes is not None:
            self.classes_ = np.asarray(classes)

    def fit(self, x, labels, seed):
        self.given = x, labels, seed

    def predict_proba(self, x):
        return self.probabilities[: x.shape[0]]


@pytest.mark.parametrize(
    "columns, classes, expected",
    [
        ([[0.7, 0.3], [0.1, 0.9]], [1, 3], [[0, 0.7, 0, 0.3], [0, 0.1, 0, 0.9]]),
        ([[0.7, 0.3], [0.1, 0.9]], [3, 1], [[0, 0.3, 0, 0.7], [0, 0.9, 0, 0.1]]),
        ([[0.7, 0.3], [0.1, 0.9]], None, [[0, 0.7, 0, 0.3], [0, 0.1, 0, 0.9]]),
        ([[1], [1]], [3], [[0, 0, 0, 1], [0, 0, 0, 1]]),
    ],
    ids=["as sorted", "in another order", "not said", "one alone"],
)
def test_columns_go_to_their_classes(columns, classes, expected):
    """Whatever the order of a classifier's classes; those it has not met get zero; it is given what was asked."""
    classifier, x = Says(columns, classes), np.ones((3, 5))
    says = classifiers.learn(classifier, x, np.array([1, 3, 3]), 7, 4, "theirs")
    assert classifier.given[0] is x and classifier.given[1].tolist() == [1, 3, 3] and classifier.given[2] == 7
    assert np.array_equal(says(np.zeros((2, 5))), expected)


@pytest.mark.parametrize(
    "classifier, words",
    [
        (object(), "theirs has no method fit"),
        (Says([[0.5, 0.5]], ["a", "b"]), "must hold labels that fit was given"),
        (Says([[0.5, 0.5]], [1, 2]), r"classes_ of theirs is \[1, 2\]; it must hold labels that fit was given, each once"),
        (Says([[0.5, 0.5]], [1, 1]), "each once"),
        (Says([[0.5, 0.5]], [1]), r"shape \(1, 2\).*must be \(1, 1\)"),
        (Says([[0.9, 0.9]], [1, 3]), "rows summing to 1.8"),
        (Says([[1.5, -0.5]], [1, 3]), "must be"),
        (Says([[np.nan, 1.0]], [1, 3]), "must be"),
    ],
)
def test_what_breaks_the_protocol_is_refused(classifier, words):
    """With its name, what it gave and what is expected."""
    with pytest.raises(DataError, match=words):
        classifiers.learn(classifier, np.ones((3, 5)), np.array([1, 3, 3]), 0, 4, "theirs")(np.ones((1, 5)))


def test_an_old_scikit_learn_is_refused(monkeypatch):
    """Below 1.8 what is called L1 here would be another model, without a word."""
    monkeypatch.setattr(classifiers.sklearn, "__version__", "1.7.2")
    with pytest.raises(DataError, match=r"scikit-learn is 1\.7\.2; below 1\.8 .*requirements\.txt"):
        classifiers.LogisticRegression()
