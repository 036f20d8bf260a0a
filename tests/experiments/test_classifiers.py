"""The controls against scikit-learn and closed forms; what a run learns from; class weights."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression as Binary
from sklearn.neighbors import KNeighborsClassifier

from lib.arms import CONTROLS, FACTORIAL, factors
from lib.errors import DataError
from lib.experiments import classifiers, profiles, runs, specs, store
from lib.prepare import splits, tokenize
from lib.prepare.cells import read


@pytest.fixture(scope="module")
def split(cells):
    """Values, tokens, labels and the two sides of a split of real cells."""
    labels = cells.obs["cell_type"].cat.codes.to_numpy(np.int64)
    return cells.X, tokenize(cells), labels, *splits.holdout(labels)


@pytest.mark.parametrize("name", classifiers.MODELS)
def test_every_model_keeps_the_protocol(split, name):
    """fit(x, labels, seed) gives the model; probabilities have a column for each class it met, and sum to 1."""
    x, _, labels, train, test = split
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


def test_nearest_neighbours_are_those_in_principal_components(split):
    """The same answers as a dense PCA and neighbours by hand, up to ties; few cells shrink both numbers."""
    x, _, labels, train, test = split
    dense = x.toarray()
    pca = PCA(20, svd_solver="full").fit(dense[train])
    by_hand = KNeighborsClassifier(10).fit(pca.transform(dense[train]), labels[train]).predict(pca.transform(dense[test]))
    model = classifiers.NearestNeighbours(components=20).fit(x[train], labels[train])
    assert np.mean(model.classes_[model.predict_proba(x[test]).argmax(1)] == by_hand) > 0.97
    assert classifiers.NearestNeighbours().fit(x[:6], labels[:6]).predict_proba(x[:2]).shape[0] == 2
    with pytest.raises(DataError, match="no principal component"):
        classifiers.NearestNeighbours().fit(x[:1], labels[:1])


def test_random_is_drawn_by_share(split):
    """Each type about as often as among the training cells; another seed draws others; genes play no part."""
    _, _, labels, train, _ = split
    nothing = sp.csr_matrix((20_000, 3), dtype=np.float32)
    drawn = [classifiers.StratifiedRandom().fit(None, labels[train], seed).predict_proba(nothing) for seed in (0, 1)]
    share = np.bincount(labels[train]) / len(train)
    assert np.allclose(drawn[0].mean(0), share, atol=0.015) and not np.array_equal(*drawn)


@pytest.fixture
def smoke_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    return profiles.load("smoke")


@pytest.mark.slow
def test_runs_store_the_cells_they_learnt_from(smoke_profile):
    """Under ``clean`` a baseline learns from all labelled cells and says so; scBERT's epoch is chosen by the rest."""
    clean = smoke_profile | {"protocol": "clean"}
    regression, scbert = runs.complete(specs.cell_types(clean, ["logistic_regression", "head_only"], [0.5], [3]))
    cells = read(clean["fingerprint"])
    train, test = splits.holdout(cells.labels, **clean["split"])
    labelled = set(splits.few_shot(train, 0.5, 3))
    assert set(regression.predictions["train"]) == labelled
    own, chooses = (set(scbert.predictions[name]) for name in ("train", "select"))
    assert own | chooses == labelled and not own & chooses and len(own) == round(0.8 * len(labelled))
    assert not labelled & set(test) and np.array_equal(scbert.predictions["test"], test)
    paper = runs.complete(specs.cell_types(smoke_profile, ["logistic_regression", "head_only"], [0.5], [3]))
    assert all(set(run.predictions["train"]) == labelled for run in paper)
    assert np.array_equal(paper[1].predictions["select"], test)


def test_tokens_are_what_the_control_learns_from(smoke_profile):
    """The token control gives what logistic regression on scBERT's own tokens gives."""
    spec = specs.controls(smoke_profile, ["logistic_regression_tokens"])[0]
    run = runs.complete([spec])[0]
    cells = read(smoke_profile["fingerprint"])
    p, x = run.predictions, cells.tokens[:, :-1].toarray().astype(float)
    model = classifiers.LogisticRegression(**spec["training"]).fit(x[p["train"]], cells.labels[p["train"]], spec["seed"])
    assert np.allclose(p["probabilities"][:, model.classes_], model.predict_proba(x[p["test"]]), atol=1e-3)


def test_head_alone_has_no_transformer(smoke_profile):
    """No block, no pre-training; what is left to train is the norm and the head."""
    from lib.scbert.finetune import freeze
    from lib.scbert.model import CellTypeClassifier, ScBertConfig

    spec = specs.controls(smoke_profile, ["head_only"])[0]
    assert spec["size"]["depth"] == 0 and "pretraining" not in spec
    model = CellTypeClassifier(ScBertConfig(genes=9, dim=8, depth=0, heads=2, dim_head=4, features=8, classes=3))
    freeze(model)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"norm", "to_out"} and len(model.performer.net.layers) == 0


def test_labels_of_test_cells_reach_no_weight(split):
    """Class weights, and all else in training, come from the training cells: other test labels, the same answers."""
    import torch

    from lib.scbert.finetune import finetune
    from lib.scbert.model import CellTypeClassifier, ScBertConfig

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


def test_repeated_splits_differ_and_pair(smoke_profile):
    """Every split has its own test cells, the same for all its arms; the profile says how many."""
    wanted = specs.repeated(smoke_profile)
    seeds = [spec["split"]["seed"] for spec in wanted if spec["arm"] == "logistic_regression"]
    assert seeds == [0, 1, 2]
    scbert = [spec["split"]["seed"] for spec in wanted if spec["model"] == "scBERT"]
    assert scbert == [0, 1] and all(spec["seed"] == spec["split"]["seed"] for spec in wanted)
    whole = {key: value for key, value in smoke_profile.items() if key not in ("repeated", "controls", "clean_seeds")}
    arms = [spec["arm"] for spec in specs.repeated(whole)]
    assert arms.count("full") == 5 and arms.count("logistic_regression") == 20
    assert {spec["seed"] for spec in specs.controls(smoke_profile | {"seeds": [7, 1]})} == {1}
    assert {spec["seed"] for spec in specs.clean(smoke_profile | {"seeds": [7]})} == {7}
    assert len(specs.clean(whole)) == len(whole["seeds"])
    assert len(specs.controls(whole)) == len(CONTROLS) * len(whole["seeds"])


def test_the_factorial_varies_one_factor_at_a_time(smoke_profile):
    """Twelve arms, each another specification; what differs between two is what their factors say."""
    wanted = {spec["arm"]: spec for spec in specs.factorial(smoke_profile) if spec["seed"] == 0}
    assert list(wanted) and set(wanted) == set(FACTORIAL) and len({store.run_id(spec) for spec in wanted.values()}) == 12
    for arm in FACTORIAL:
        spec = wanted[arm]
        pretrained, trained, embedding = factors(arm)
        assert ("pretraining" in spec) == pretrained and spec["training"]["trained"] == trained
        kind = spec["gene_embedding"]
        assert kind == {"own": smoke_profile["gene_embedding"], "random": "random", None: None}[embedding]
        if pretrained:  # shared by the arms that differ in fine-tuning alone, made with the same embedding
            assert spec["pretraining"]["gene_embedding"] == kind
    assert len({store.run_id(spec["pretraining"]) for spec in wanted.values() if "pretraining" in spec}) == 3


def test_an_unknown_gene_embedding_is_refused(smoke_profile):
    spec = specs.cell_types(smoke_profile, ["no_pretraining"], seeds=[0])[0] | {"gene_embedding": "word2vec"}
    with pytest.raises(DataError, match="gene_embedding is 'word2vec'"):
        runs.complete([spec])


def test_training_all_blocks_moves_all_but_the_gene_embedding(split):
    """``trained="all"``: every parameter moves; the paper's choice: only the last block, the norm and the head."""
    import torch

    from lib.scbert.finetune import finetune
    from lib.scbert.model import CellTypeClassifier, ScBertConfig

    _, tokens, labels, train, test = split
    genes = tokens.shape[1] - 1
    config = ScBertConfig(genes=genes, dim=8, depth=2, heads=2, dim_head=4, features=8, classes=10)
    for trained in ("last_block", "all"):
        torch.manual_seed(0)
        model = CellTypeClassifier(config, np.random.default_rng(0).normal(size=(genes, 8)))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        finetune(model, tokens, labels, train[:40], test[:20], epochs=2, trained=trained, schedule={"max_lr": 1e-2, "warmup": 1})
        moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        names = {name for name, _ in model.named_parameters()}
        last = {name for name in names if name.startswith(("performer.net.layers.1.", "norm.", "to_out."))}
        assert moved == (names if trained == "all" else last)
        assert torch.equal(model.gene_embedding, before["gene_embedding"])
    with pytest.raises(DataError, match="trained is 'head'"):
        finetune(model, tokens, labels, train[:40], test[:20], trained="head")
