"""What a run computes: from a corpus, from a checkpoint, of other cells."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from lib.errors import DataError
from lib.experiments import profiles, runs, specs, tasks
from lib.prepare import corpus
from lib.scbert.model import ScBert, ScBertConfig
from tests.making import counts


@pytest.mark.slow
def test_pretraining_on_a_corpus_and_from_a_checkpoint(place, monkeypatch):
    """A profile's `corpus` and `checkpoint` reach the runs: what is fine-tuned starts from them."""
    profile = profiles.load("smoke")
    genes = list(profile["adata"].var_names)
    source = anndata.AnnData(counts(80, len(genes)), var=pd.DataFrame(index=genes[::-1]))
    source.write_h5ad(place[0] / "mine.h5ad")
    monkeypatch.setattr(corpus, "build", lambda path, names, inner=corpus.build: inner(path, names, min_genes=1))
    profile["pretraining"] |= {"corpus": str(place[0] / "mine.h5ad")}
    full, none = specs.cell_types(profile, ["full", "no_gene2vec"], seeds=[0])
    assert full["pretraining"]["corpus"] == none["pretraining"]["corpus"] and "corpus" not in full
    [run] = runs.complete([full["pretraining"]])
    assert len(run.log) == full["pretraining"]["training"]["epochs"]
    embedding = np.random.default_rng(0).normal(size=(len(genes), profile["size"]["dim"])).astype(np.float32)
    model = ScBert(ScBertConfig(genes=len(genes), **profile["size"]), embedding)
    torch.save({"model_state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, place[0] / "own.pth")
    profile["pretraining"] |= {"checkpoint": str(place[0] / "own.pth")}
    full, none = specs.cell_types(profile, ["full", "no_gene2vec"], seeds=[0])
    assert "checkpoint" not in none["pretraining"]
    with pytest.raises(DataError, match="same order"):  # the stand-in is not the checkpoint's gene embedding
        runs.complete([full["pretraining"]])
    monkeypatch.setattr(tasks, "gene_embedding", lambda *_: embedding)
    [run] = runs.complete([full["pretraining"]])
    stored = torch.load(run.folder / "model.pt", weights_only=True)
    assert torch.equal(stored["model_state_dict"]["token_emb.weight"], model.token_emb.weight)
    assert stored["genes"] == genes


def test_the_external_task_gives_the_trained_models_own_predictions(place):
    """On the very cells that a run was tested on, `external` says what the run said, for both models."""

    profile = profiles.load("smoke")
    trained = specs.cell_types(profile, ["no_gene2vec", "logistic_regression"], seeds=[0])
    wanted = [{"task": "external", "arm": spec["arm"], "seed": 0, "trained": spec, "data": spec["data"]} for spec in trained]
    for run, before in zip(runs.complete(wanted), runs.complete(trained)):
        test = before.predictions["test"]
        assert np.allclose(run.predictions["probabilities"][test], before.predictions["probabilities"], atol=1e-5)
        assert np.array_equal(run.predictions["labels"][test], before.predictions["labels"])


def test_a_checkpoint_of_other_sizes_is_refused(place):

    tasks.checkpoint.cache_clear()
    model = ScBert(ScBertConfig(genes=20, dim=8, depth=1, heads=2, dim_head=4, features=8), np.ones((20, 8), np.float32))
    torch.save({"model_state_dict": model.state_dict()}, place[0] / "panglao_pretrain.pth")
    with pytest.raises(DataError, match="not scBERT's checkpoint"):
        tasks.checkpoint()
    place[1]["checkpoint"]["holds"] = {"genes": 20, "dim": 8}
    assert corpus.checkpoint_path(tasks.checkpoint()).is_file()
    (place[0] / "page.pth").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        tasks.checkpoint(str(place[0] / "page.pth"))
