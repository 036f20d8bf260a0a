"""The model: the paper's sizes, checkpoints of the original scBERT, refusals, and the redraw of random features."""

import copy
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from performer_pytorch import PerformerLM

from lib.errors import DataError
from lib.scbert import blocks
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.model import ScBert, ScBertConfig

GENES, DIM, CLASSES = 24, 20, 3
CONFIG = ScBertConfig(genes=GENES, dim=DIM, depth=2, heads=2, dim_head=8, features=20, classes=CLASSES)
SYMBOLS = [f"GENE{i}" for i in range(GENES)]


def performer_lm(interval=1000):
    """performer-pytorch's own model in scBERT's configuration, in eval mode, with a frozen gene embedding."""
    model = PerformerLM(
        num_tokens=7,
        max_seq_len=GENES + 1,
        dim=DIM,
        depth=2,
        heads=2,
        dim_head=8,
        nb_features=20,
        feature_redraw_interval=interval,
        rotary_position_emb=False,
        attn_out_bias=True,
        qkv_bias=False,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        model.pos_emb.emb.weight[-1] = 0
        model.performer.proj_updater.calls_since_last_redraw.fill_(7)
    return model.eval()


def original_state(model, prefix="", second_copy=False):
    """Its weights under the names of scBERT's checkpoints."""
    state = {}
    for name, value in model.state_dict().items():
        if second_copy or "proj_updater.instance" not in name:
            state[prefix + name.replace("proj_updater.calls_since", "calls_since")] = value
    return state


def classifier_head(tokens=GENES + 1, classes=CLASSES, dim=DIM):
    """Tensors of scBERT's classification head."""
    shapes = {"conv1": (1, 1, 1, dim), "fc1": (512, tokens), "fc2": (128, 512), "fc3": (classes, 128)}
    head = {f"to_out.{name}.weight": 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    return head | {f"to_out.{name}.bias": 0.1 * torch.randn(shape[0]) for name, shape in shapes.items()}


def trunk(state):
    return {name: value for name, value in state.items() if "to_out" not in name or "performer" in name}


def save(path, state, **more):
    torch.save({"epoch": 5, "model_state_dict": state, **more}, path)
    return path


def tokens_of(cells=3):
    tokens = torch.randint(0, 6, (cells, GENES + 1))
    tokens[:, -1] = 0
    return tokens


def test_config_is_the_papers():
    """ScBertConfig() has the sizes of the paper, and a model made from it the shapes they imply."""
    c = ScBertConfig()
    assert (c.genes, c.tokens, c.dim, c.depth, c.heads, c.dim_head) == (16_906, 7, 200, 6, 10, 64)
    assert (c.features, c.ff_mult, c.redraw_interval, c.stabiliser) == (266, 4, 1000, "cell")
    shapes = {name: tuple(value.shape) for name, value in ScBert().state_dict().items()}
    assert shapes["token_emb.weight"] == shapes["to_out.weight"] == (7, 200)
    block = "performer.net.layers.5"
    assert shapes[f"{block}.0.fn.to_q.weight"] == (640, 200) and shapes[f"{block}.0.fn.to_out.weight"] == (200, 640)
    assert shapes[f"{block}.0.fn.fast_attention.projection_matrix"] == (266, 64)
    assert shapes[f"{block}.1.fn.fn.w1.weight"] == (800, 200)
    assert f"{block}.0.fn.to_q.bias" not in shapes and f"{block}.0.fn.to_out.bias" in shapes
    assert not any("layers.6" in name for name in shapes)


def test_classifier_has_the_papers_head():
    """The classification head: convolution 1 × dim, then genes + 1 → 512 → 128 → classes."""
    shapes = {name: tuple(v.shape) for name, v in CellTypeClassifier(CONFIG).state_dict().items() if "to_out.f" in name}
    assert shapes["to_out.fc1.weight"] == (512, GENES + 1)
    assert shapes["to_out.fc2.weight"] == (128, 512) and shapes["to_out.fc3.weight"] == (CLASSES, 128)
    assert CellTypeClassifier(CONFIG).to_out.conv1.weight.shape == (1, 1, 1, DIM)


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "module."])
@pytest.mark.parametrize("second_copy", [False, True], ids=["one net", "net twice"])
@pytest.mark.slow
def test_original_checkpoint_gives_the_same_logits(tmp_path, prefix, second_copy):
    """A checkpoint under scBERT's names, with or without prefix and second copy, gives performer-pytorch's logits."""
    theirs, tokens = performer_lm(), tokens_of()
    path = save(tmp_path / "scbert.pth", original_state(theirs, prefix, second_copy))
    ours = ScBert.from_checkpoint(path, stabiliser="head")
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)
    assert replace(ours.config, stabiliser="cell", classes=CLASSES) == CONFIG  # sizes read off the tensors
    assert not ours.training
    assert int(ours.state_dict()["performer.proj_updater.calls_since_last_redraw"]) == 7


def test_gene_embedding_may_be_given_beside_the_checkpoint(tmp_path):
    """Gene embedding from the file, given again, or given for a file without one: the same model."""
    state, tokens = original_state(performer_lm()), tokens_of()
    embedding = state["pos_emb.emb.weight"][:-1].numpy()
    whole, bare = save(tmp_path / "whole.pth", state), dict(state)
    del bare["pos_emb.emb.weight"]
    bare = save(tmp_path / "bare.pth", bare)
    expected = ScBert.from_checkpoint(whole)(tokens)
    assert torch.equal(ScBert.from_checkpoint(whole, embedding)(tokens), expected)
    assert torch.equal(ScBert.from_checkpoint(bare, embedding)(tokens), expected)
    without = ScBert.from_checkpoint(bare, genes=SYMBOLS)
    assert without.gene_embedding is None and without.config.genes == GENES
    assert not torch.allclose(without(tokens), expected, atol=1e-3)


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "module."])
@pytest.mark.slow
def test_classification_checkpoint(tmp_path, prefix):
    """A fine-tuned scBERT checkpoint loads with its sizes, and gives the logits its head's formula gives."""
    theirs, tokens = performer_lm(), tokens_of()
    head = classifier_head(classes=4)
    state = {prefix + name: value for name, value in (trunk(original_state(theirs)) | head).items()}
    ours = CellTypeClassifier.from_checkpoint(save(tmp_path / "tuned.pth", state), stabiliser="head")
    assert (ours.config.classes, ours.config.genes, ours.config.dim) == (4, GENES, DIM)
    with torch.no_grad():
        x = theirs(tokens, return_encodings=True) @ head["to_out.conv1.weight"].flatten() + head["to_out.conv1.bias"]
        for name in ("fc1", "fc2", "fc3"):
            x = x.relu() @ head[f"to_out.{name}.weight"].T + head[f"to_out.{name}.bias"]
        torch.testing.assert_close(ours(tokens), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [ScBert, CellTypeClassifier])
@pytest.mark.parametrize("embedded", [True, False], ids=["gene embedding", "none"])
def test_own_weights_come_back(tmp_path, kind, embedded):
    """A model of this project saved and read again gives the same bits; the net is saved once."""
    model = kind(CONFIG, np.random.randn(GENES, DIM) if embedded else None).eval()
    names = list(model.state_dict())
    assert not any("instance" in name for name in names)
    assert sum("to_q.weight" in name for name in names) == CONFIG.depth
    again = kind.from_checkpoint(save(tmp_path / "own.pth", model.state_dict()), genes=SYMBOLS)
    tokens = tokens_of()
    assert torch.equal(again(tokens), model(tokens))


def test_from_pretrained_keeps_the_trunk():
    """A classifier on a pre-trained model has its hidden states, a new head, and shares no weight with it."""
    model, tokens = ScBert(CONFIG, np.random.randn(GENES, DIM)).eval(), tokens_of()
    classifier = CellTypeClassifier.from_pretrained(model, classes=5).eval()
    before = model.hidden(tokens)
    assert torch.equal(classifier.hidden(tokens), before) and classifier(tokens).shape == (3, 5)
    with torch.no_grad():
        for weight in classifier.parameters():
            weight.zero_()
    assert torch.equal(model.hidden(tokens), before)


def changed(state, **replaced):
    """A copy of the weights with tensors replaced, added, or (None) taken away."""
    state = state | {name.replace("__", "."): value for name, value in replaced.items()}
    return {name: value for name, value in state.items() if value is not None}


def swapped(state):
    embedding = state["pos_emb.emb.weight"][:-1].numpy().copy()
    embedding[[3, 8]] = embedding[[8, 3]]
    return embedding


TO_Q = "performer.net.layers.1.0.fn.to_q.weight"
BAD_WEIGHTS = {  # what is wrong: (change of the weights, words of the message)
    "missing key": (lambda s: changed(s, **{TO_Q: None}), ["missing", TO_Q]),
    "missing first layer": (lambda s: changed(s, token_emb__weight=None), ["scBERT", "token_emb.weight"]),
    "extra key": (lambda s: changed(s, surplus__weight=torch.zeros(2)), ["unknown", "surplus.weight"]),
    "other size": (lambda s: changed(s, **{TO_Q: torch.zeros(9, DIM)}), ["sizes", TO_Q]),
    "other head": (lambda s: trunk(s) | classifier_head(), ["masked-token head", "CellTypeClassifier"]),
}
BAD_GENES = {  # what is wrong: (argument beside the path, words of the message)
    "embedding of other genes": (lambda s: {"gene_embedding": np.zeros((GENES - 1, DIM))}, [f"{GENES} genes", f"{GENES - 1}"]),
    "embedding in another order": (lambda s: {"gene_embedding": swapped(s)}, ["gene embedding", "first at gene 3", "order"]),
    "other number of genes": (lambda s: {"genes": SYMBOLS[:-1]}, [f"{GENES} genes", f"{GENES - 1}"]),
    "genes in another order": (
        lambda s: {"genes": [*SYMBOLS[:4], "GENE5", "GENE4", *SYMBOLS[6:]]},
        ["Gene 4", "GENE4", "GENE5", "order"],
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(tmp_path, case):
    """Tensors missing, unknown, of another size or for another head: DataError naming file and tensor."""
    change, words = BAD_WEIGHTS[case]
    path = save(tmp_path / "scbert.pth", change(original_state(performer_lm())))
    with pytest.raises(DataError) as refusal:
        ScBert.from_checkpoint(path)
    assert [word for word in ["scbert.pth", *words] if word not in str(refusal.value)] == []


@pytest.mark.parametrize("case", BAD_GENES)
def test_genes_that_do_not_fit_are_refused(tmp_path, case):
    """Other genes, or the same in another order: DataError naming the file and the first difference."""
    arguments, words = BAD_GENES[case]
    state = original_state(performer_lm())
    path = save(tmp_path / "scbert.pth", state, genes=SYMBOLS)
    ScBert.from_checkpoint(path, genes=SYMBOLS)
    with pytest.raises(DataError) as refusal:
        ScBert.from_checkpoint(path, **arguments(state))
    assert [word for word in ["scbert.pth", *words] if word not in str(refusal.value)] == []


def test_classifier_refuses_the_masked_head(tmp_path):
    """A pre-trained checkpoint read as a classifier: the message says with what to read it."""
    path = save(tmp_path / "scbert.pth", original_state(performer_lm()))
    with pytest.raises(DataError, match="no classification head.*ScBert"):
        CellTypeClassifier.from_checkpoint(path)


def test_classifier_refuses_a_head_for_other_genes(tmp_path):
    """A head made for another number of genes than the gene embedding is refused."""
    state = trunk(original_state(performer_lm())) | classifier_head(tokens=GENES)
    with pytest.raises(DataError, match=f"{GENES - 1} genes.*{GENES}"):
        CellTypeClassifier.from_checkpoint(save(tmp_path / "tuned.pth", state))


def test_gene_embedding_of_another_width_is_refused():
    """A gene embedding that is not genes × dim is refused with both shapes."""
    with pytest.raises(DataError, match=rf"\({GENES}, {DIM + 1}\).*{DIM}"):
        ScBert(CONFIG, np.zeros((GENES, DIM + 1)))


@pytest.mark.parametrize("kind", [ScBert, CellTypeClassifier])
def test_cells_with_other_genes_are_refused(kind):
    """Cells with another number of genes than the gene embedding are refused with both numbers."""
    with pytest.raises(DataError, match=f"{GENES - 1} genes.*{GENES} genes"):
        kind(CONFIG, np.zeros((GENES, DIM)))(tokens_of()[:, 1:])


class Payload:
    """Unpickling this runs a shell command."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.system, (f"touch '{self.proof}'",)


@pytest.mark.parametrize("container", ["torch", "torch, old format", "pickle"])
def test_code_in_a_checkpoint_is_not_executed(tmp_path, container):
    """A pickle that carries a command is refused, and the command does not run."""
    proof, path = tmp_path / "executed", tmp_path / "evil.pth"
    content = {"model_state_dict": original_state(performer_lm()), "surprise": Payload(proof)}
    if container == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "torch")
    assert not proof.exists()
    with pytest.raises(DataError, match="evil.pth cannot be read as a checkpoint .*never executed.*Download it again"):
        ScBert.from_checkpoint(path)
    assert not proof.exists()
    torch.load(path, weights_only=False) if container != "pickle" else pickle.loads(path.read_bytes())
    assert proof.exists()  # the payload was live


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    """Truncated, text, empty, folder, missing, no weights inside: DataError that names the file."""
    whole = save(tmp_path / "scbert.pth", original_state(performer_lm())).read_bytes()
    for name, content in {"half.pth": whole[: len(whole) // 2], "text.pth": b"gene\t0.1\n", "empty.pth": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} cannot be read.*(damaged|again)"):
            ScBert.from_checkpoint(tmp_path / name)
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(DataError, match=f"no checkpoint at {path}"):
            ScBert.from_checkpoint(path)
    for content in ({"weights": {}}, [1, 2], {"model_state_dict": {"a": 1}}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(DataError, match="other.pth holds no model_state_dict"):
            ScBert.from_checkpoint(tmp_path / "other.pth")


def projections(model):
    return {name: value.clone() for name, value in model.state_dict().items() if name.endswith("projection_matrix")}


def redraws(model, forwards, tokens):
    """At which forwards (from 1) the random features changed; every layer must change, or none."""
    at, before = [], projections(model)
    for forward in range(1, forwards + 1):
        with torch.no_grad():
            model(tokens)
        after = projections(model)
        moved = {not torch.equal(before[name], after[name]) for name in before}
        assert len(moved) == 1
        at += [forward] if moved.pop() else []
        before = after
    return at


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ScBert, CellTypeClassifier])
def test_random_features_are_redrawn_as_performer_pytorch_does(kind):
    """Same training forwards as in performer-pytorch, in frozen layers too; the counter goes on from a checkpoint."""
    theirs, tokens = performer_lm(interval=3).train(), tokens_of(1)
    theirs.performer.proj_updater.calls_since_last_redraw.zero_()
    ours = kind(replace(CONFIG, redraw_interval=3), np.zeros((GENES, DIM))).train().requires_grad_(False)
    expected = redraws(theirs, 13, tokens)
    assert redraws(ours, 13, tokens) == expected == [4, 8, 12]


def test_random_features_stay_in_eval():
    """Never redrawn nor counted in eval mode."""
    model, tokens = ScBert(replace(CONFIG, redraw_interval=1)).eval(), tokens_of(1)
    assert redraws(model, 5, tokens) == []
    assert int(model.performer.proj_updater.calls_since_last_redraw) == 0


def test_redraw_of_a_copy_leaves_the_original():
    """A deep copy redraws its own random features, not those of the model it was copied from."""
    model = ScBert(replace(CONFIG, redraw_interval=1)).train()
    before, twin = projections(model), copy.deepcopy(model)
    assert redraws(twin, 2, tokens_of(1)) == [2]
    assert all(torch.equal(before[name], value) for name, value in projections(model).items())


def test_cells_of_other_genes_than_the_heads_are_refused():
    """The classification head has a weight for each gene: another number of genes is named."""
    model = CellTypeClassifier(ScBertConfig(genes=9, dim=4, depth=1, heads=1, dim_head=4, features=4))
    with pytest.raises(DataError, match="11 genes, the head was made for 9"):
        model(torch.zeros(1, 12, dtype=torch.long))


@pytest.mark.parametrize("embedded", [True, False])
def test_what_a_small_block_keeps_changes_no_bit(monkeypatch, embedded):
    """Gradients of a pre-training step, in which targets alone ask, and of a classifier's: kept or computed anew, the same."""
    embedding = np.random.default_rng(0).normal(size=(60, 16)) if embedded else None
    config = ScBertConfig(genes=60, dim=16, depth=2, heads=2, dim_head=8, features=20, classes=3)
    tokens = torch.randint(0, 6, (5, 61), generator=torch.Generator().manual_seed(0))

    def gradients(kind, limit):
        monkeypatch.setattr(blocks, "KEPT", limit)
        torch.manual_seed(0)
        model = kind(config, embedding)
        cell, gene = torch.nonzero(tokens == 3, as_tuple=True)
        out = model.states_at(tokens, cell, gene) if kind is ScBert else model(tokens)
        out.square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    for kind in (ScBert, CellTypeClassifier):
        kept, anew = gradients(kind, 2**28), gradients(kind, 0)
        assert len(kept) > 20 and kept.keys() == anew.keys()
        assert all(torch.equal(kept[name], anew[name]) for name in kept)
