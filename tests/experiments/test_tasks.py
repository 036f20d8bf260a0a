"""What a run computes: which cells it learns from, a corpus or a checkpoint before it, and other cells after it."""

import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from lib.errors import DataError
from lib.experiments import baselines, classifiers, profiles, runs, specs, tasks
from lib.prepare import cells, splits
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.finetune import freeze
from lib.scbert.model import ScBert, ScBertConfig


def test_every_model_learns_from_the_same_cells(profile):
    """Training and test cells of a fraction and seed are one artefact, shared by all arms."""
    done = runs.complete(specs.cell_types(profile, ["full", "logistic_regression", "majority"], [0.5], [0]))
    first = done[0].predictions
    for run in done[1:]:
        assert np.array_equal(run.predictions["train"], first["train"])
        assert np.array_equal(run.predictions["test"], first["test"])
    assert not set(first["train"]) & set(first["test"])


def test_runs_store_the_cells_they_learnt_from(profile):
    """Under ``clean`` a baseline learns from all labelled cells and says so; scBERT's epoch is chosen by the rest."""
    clean = profile | {"protocol": "clean"}
    regression, scbert = runs.complete(specs.cell_types(clean, ["logistic_regression", "head_only"], [0.5], [3]))
    stored = cells.read(clean["fingerprint"])
    train, test = splits.holdout(stored.labels, **clean["split"])
    labelled = set(splits.few_shot(train, 0.5, 3))
    assert set(regression.predictions["train"]) == labelled
    own, chooses = (set(scbert.predictions[name]) for name in ("train", "select"))
    assert own | chooses == labelled and not own & chooses and len(own) == round(0.8 * len(labelled))
    assert not labelled & set(test) and np.array_equal(scbert.predictions["test"], test)
    paper = runs.complete(specs.cell_types(profile, ["logistic_regression", "head_only"], [0.5], [3]))
    assert all(set(run.predictions["train"]) == labelled for run in paper)
    assert np.array_equal(paper[1].predictions["select"], test)


def test_tokens_are_what_the_control_learns_from(profile):
    """The token control gives what logistic regression on scBERT's own tokens gives."""
    spec = specs.controls(profile, ["logistic_regression_tokens"])[0]
    run = runs.complete([spec])[0]
    stored = cells.read(profile["fingerprint"])
    p, x = run.predictions, np.minimum(np.floor(stored.x.toarray()), 5)
    model = classifiers.LogisticRegression(**spec["training"]).fit(x[p["train"]], stored.labels[p["train"]], spec["seed"])
    assert np.allclose(p["probabilities"][:, model.classes_], model.predict_proba(x[p["test"]]), atol=1e-3)


def test_head_alone_has_no_transformer(profile):
    """No block, no pre-training; what is left to train is the norm and the head."""
    spec = specs.controls(profile, ["head_only"])[0]
    assert spec["size"]["depth"] == 0 and "pretraining" not in spec
    model = CellTypeClassifier(ScBertConfig(genes=9, dim=8, depth=0, heads=2, dim_head=4, features=8, classes=3))
    freeze(model)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"norm", "to_out"} and len(model.performer.net.layers) == 0


def test_names_that_a_specification_cannot_have_are_refused(profile):
    """A gene embedding and a type to leave out that do not exist."""
    [spec] = specs.cell_types(profile, ["no_pretraining"], seeds=[0])
    with pytest.raises(DataError, match="gene_embedding is 'word2vec'"):
        runs.complete([spec | {"gene_embedding": "word2vec"}])
    [spec] = specs.cell_types(profile, ["majority"], seeds=[0])
    with pytest.raises(DataError, match="left_out is 'Neurons'; the cell types are CD14"):
        runs.complete([spec | {"left_out": "Neurons"}])


def test_weights_for_other_genes_are_refused(profile):
    """Weights whose genes stand in another order are not used."""
    [spec] = specs.cell_types(profile, ["no_gene2vec"], [0.5], [0])
    path = runs.complete([spec["pretraining"]])[0].folder / "model.pt"
    genes = torch.load(path, weights_only=True)["genes"]
    assert ScBert.from_checkpoint(path, genes=genes).config.genes == len(genes)
    swapped = [genes[0], genes[2], genes[1], *genes[3:]]
    with pytest.raises(DataError, match=f"Gene 1 .* is {genes[1]}, gene 1 of the cells is {genes[2]}"):
        ScBert.from_checkpoint(path, genes=swapped)


# What other cells are called.

BASELINES = (
    "logistic_regression",
    "logistic_regression_l2",
    "logistic_regression_tokens",
    "logistic_regression_detected",
    "logistic_regression_balanced",
    "logistic_regression_four_fifths",
    "nearest_neighbours",
    "nearest_centroid",
    "rank_means",
    "majority",
    "stratified_random",
)


def test_controls_learn_from_what_they_say(profile):
    """Detected or not: the same answers whatever the values; labels as scBERT: its training cells and no other."""
    clean = profile | {"protocol": "clean"}
    arms = [
        "logistic_regression",
        "logistic_regression_four_fifths",
        "no_gene2vec_no_pretraining",
        "logistic_regression_detected",
    ]
    whole, part, scbert, detected = runs.complete(specs.cell_types(clean, arms, [0.5], [1]))
    assert set(part.predictions["train"]) == set(scbert.predictions["train"]) < set(whole.predictions["train"])
    assert set(whole.predictions["train"]) == set(scbert.predictions["train"]) | set(scbert.predictions["select"])
    stored = cells.read(profile["fingerprint"])
    train, test = detected.predictions["train"], detected.predictions["test"]
    model = classifiers.LogisticRegression(**detected.spec["training"])
    model.fit((stored.x[train] > 0).astype(np.float32), stored.labels[train], 1)
    found = model.predict_proba((stored.x[test] > 0).astype(np.float32))
    np.testing.assert_allclose(detected.predictions["probabilities"][:, model.classes_], found, atol=1e-6)


def test_depth_and_equal_depth_learn_from_what_they_say(profile):
    """Neighbours by the logarithms of depth alone, whatever genes the cells show; regression on the down-sampled counts."""
    arms = ["depth", "logistic_regression_equal_depth"]
    adata, done = profile["adata"], runs.complete(specs.controls(profile, arms)[::2])
    depth = np.log1p(adata.obs[["total_counts", "detected_genes"]].to_numpy(np.float64))
    for run, x in zip(done, (depth, adata.layers["equal_depth"]), strict=True):
        p, labels = run.predictions, adata.obs["cell_type"].cat.codes.to_numpy(np.int64)
        model = classifiers.MODELS[run.spec["model"]](**run.spec.get("training", {}))
        found = model.fit(x[p["train"]], labels[p["train"]], run.spec["seed"]).predict_proba(x[p["test"]])
        np.testing.assert_allclose(p["probabilities"][:, model.classes_], found, atol=1e-6)
    mixed = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    other = profile | {"adata": mixed, "fingerprint": cells.store(mixed), "depths": cells.store_depths(mixed)}
    assert other["fingerprint"] != profile["fingerprint"]
    [run] = runs.complete(specs.controls(other, ["depth"])[:1])
    np.testing.assert_array_equal(run.predictions["probabilities"], done[0].predictions["probabilities"])
    uncounted = adata.copy()
    del uncounted.obs["total_counts"]
    [run] = runs.complete(specs.controls(profile | {"depths": cells.store_depths(uncounted)}, ["depth"])[:1])
    p = run.predictions
    model = baselines.Depth().fit(depth[p["train"], 1:], labels[p["train"]])
    np.testing.assert_allclose(p["probabilities"][:, model.classes_], model.predict_proba(depth[p["test"], 1:]), atol=1e-6)


@pytest.mark.slow
def test_trials_never_see_a_reported_cell(profile):
    """What is learnt from, chosen by and scored on lies within the training cells, and no cell is two of these."""
    grids = {"full": {"weighted": [False]}, "logistic_regression": {"C": [0.3]}}
    for protocol in ("paper", "clean"):
        wanted = specs.tuning(profile | {"tuning": grids, "protocol": protocol, "seeds": [0]})
        reported = runs.complete(specs.cell_types(profile, ["majority"], seeds=[0]))[0].predictions
        scored = set()
        for run in runs.complete(wanted):
            p = run.predictions
            parts = [p["train"], p["test"], *([p["select"]] if protocol == "clean" and "select" in p else [])]
            used = np.concatenate(parts)
            assert len(used) == len(set(used)) and set(used) <= set(reported["train"]) and not set(used) & set(reported["test"])
            scored.add(tuple(p["test"]))
        assert len(scored) == 1, "both are scored on the same cells"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "clean"])
@pytest.mark.parametrize("left_out", [None, "Dendritic"])
def test_the_external_task_gives_the_trained_models_own_predictions(profile, protocol, left_out):
    """On the very cells that a run was tested on, `external` says what the run said, whatever it was trained on and how."""
    arms = [*BASELINES, "no_gene2vec", "head_only"]
    trained = specs.cell_types(profile | {"protocol": protocol}, arms, [0.5], [1])
    trained = [spec | ({"left_out": left_out} if left_out else {}) for spec in trained]
    before = [run.predictions for run in runs.complete(trained)]
    tested = profile["adata"][before[0]["test"]].copy()
    there = {"dataset": "the tested cells", "fingerprint": cells.store(tested)}
    for arm, own, run in zip(arms, before, runs.complete(specs.external(there, trained)), strict=True):
        found = run.predictions
        assert np.array_equal(found["probabilities"].argmax(1), own["probabilities"].argmax(1)), arm
        if arm in BASELINES:
            assert np.array_equal(found["probabilities"], own["probabilities"]), arm
        assert np.allclose(found["probabilities"], own["probabilities"], atol=1e-6), arm
        assert np.array_equal(found["label_names"][found["labels"]], own["classes"][own["labels"]])


def test_depth_is_not_asked_of_other_cells(profile):
    for arm in ("depth", "logistic_regression_equal_depth"):
        with pytest.raises(DataError, match=f"{arm} looks at how deeply.*Leave it out"):
            specs.external({"dataset": "other", "fingerprint": "0"}, specs.controls(profile, [arm]))


def test_other_genes_are_refused(profile):
    trained = specs.cell_types(profile, ["majority"], [0.5], [0])
    other = profile["adata"][:, ::-1].copy()
    with pytest.raises(DataError, match="Align them to its genes"):
        runs.complete(specs.external({"dataset": "other", "fingerprint": cells.store(other)}, trained))


def test_the_classifier_is_the_run(profile):
    """scBERT behind the protocol, on a run's labelled cells, says of its test cells what the run of protocol ``clean`` says."""
    clean = profile | {"protocol": "clean"}
    [run] = runs.complete(specs.cell_types(clean, ["no_pretraining"], seeds=[1]))
    stored = cells.read(clean["fingerprint"])
    train, test = splits.holdout(stored.labels, **clean["split"])
    embedding = tasks.gene_embedding(run.spec, stored, train)
    classifier = classifiers.ScBertClassifier(clean["size"], None, clean["finetuning"], embedding)
    labelled = splits.few_shot(train, 1.0, 1)
    says = classifiers.learn(classifier, stored.x[labelled], stored.labels[labelled], 1, len(stored.classes), "ours")
    assert np.allclose(says(stored.x[test]), run.predictions["probabilities"], atol=1e-5)


# What comes before fine-tuning.


def test_pretraining_on_a_corpus(place):
    """A profile's `corpus` reaches the runs of all arms; a file that has changed since is refused."""
    genes = list(profiles.load("smoke")["adata"].var_names)
    counts = np.random.default_rng(0).poisson(1.0, (80, len(genes))).astype(np.float32)
    path = place[0] / "mine.h5ad"
    anndata.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=genes[::-1])).write_h5ad(path)
    content = profiles.read("smoke")
    content["pretraining"] |= {"corpus": str(path)}
    profile = profiles.load(content)
    full, none = specs.cell_types(profile, ["full", "no_gene2vec"], seeds=[0])
    assert full["pretraining"]["corpus"] == none["pretraining"]["corpus"] and "corpus" not in full
    assert full["pretraining"]["corpus"]["min_genes"] == 1  # smoke asks for 0 genes a cell, and an empty cell is none
    [run] = runs.complete([none["pretraining"]])
    assert len(run.log) == none["pretraining"]["training"]["epochs"] and set(run.predictions) == {"ended", "best_epoch"}
    assert str(place[0]) not in (run.folder / "spec.json").read_text()
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match="mine.h5ad is not there any more, or another file"):
        runs.complete([full["pretraining"]])


def test_a_checkpoint_takes_the_place_of_pretraining(place, monkeypatch):
    """What is fine-tuned starts from it, in the arms with gene embedding; its sizes and its gene embedding must be ours."""
    content = profiles.read("smoke")
    genes, size = list(profiles.load("smoke")["adata"].var_names), content["size"]
    embedding = np.random.default_rng(0).normal(size=(len(genes), size["dim"])).astype(np.float32)
    model = ScBert(ScBertConfig(genes=len(genes), **size), embedding)

    def spec_of(checkpoint, **changes):
        chosen = content | {"pretraining": content["pretraining"] | {"checkpoint": checkpoint}} | changes
        full, none = specs.cell_types(profiles.load(chosen), ["full", "no_gene2vec"], seeds=[0])
        assert "checkpoint" not in none["pretraining"]
        return full["pretraining"]

    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model_state_dict": state}, place[0] / "own.pth")
    shutil.copy(place[0] / "own.pth", place[0] / "panglao_pretrain.pth")
    own = spec_of(str(place[0] / "own.pth"))
    with pytest.raises(DataError, match="same order"):  # the stand-in is not the checkpoint's gene embedding
        runs.complete([own])
    monkeypatch.setattr(tasks, "gene_embedding", lambda *_: embedding)
    [run] = runs.complete([own])
    stored = torch.load(run.folder / "model.pt", weights_only=True)
    assert torch.equal(stored["model_state_dict"]["token_emb.weight"], model.token_emb.weight)
    assert stored["genes"] == genes and run.log["checkpoint"][0] == own["checkpoint"]["sha256"]
    with pytest.raises(DataError, match="other sizes than the profile's, {'heads': 4}"):
        runs.complete([spec_of(str(place[0] / "own.pth"), size=size | {"heads": 4})])
    original = spec_of("original")
    assert original["checkpoint"] == "original"
    with pytest.raises(DataError, match="not scBERT's checkpoint"):
        runs.complete([original])
    place[1]["checkpoint"]["holds"] = {"genes": len(genes), "dim": 8}
    assert runs.complete([original])[0].log["checkpoint"][0] == own["checkpoint"]["sha256"]
    (place[0] / "page.pth").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        runs.complete([spec_of(str(place[0] / "page.pth"))])
