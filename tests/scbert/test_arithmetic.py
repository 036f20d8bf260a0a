"""fp32 or bf16, compiled or not: the same numbers, chosen once, resumed as begun, never for small models."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib.errors import DataError
from lib.scbert import arithmetic, fused, training
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.finetune import finetune
from lib.scbert.model import ScBert, ScBertConfig
from lib.scbert.pretrain import pretrain

WIDE = {"dim": 104, "depth": 2, "heads": 2, "dim_head": 16, "features": 44}  # the narrowest that counts as wide, nearly
GENES = 150
compiled = pytest.mark.skipif(not fused.can(torch.float32), reason="no compiler, or no AVX-512")
low = pytest.mark.skipif(not fused.can(torch.bfloat16), reason="no compiler, or no bf16 units")


def made(kind=ScBert, embedding=True, stabiliser="cell", genes=GENES, **sizes):
    torch.manual_seed(0)
    sizes = WIDE | sizes
    vectors = 0.3 * np.random.RandomState(0).randn(genes, sizes["dim"]).astype(np.float32)
    return kind(ScBertConfig(genes=genes, stabiliser=stabiliser, classes=3, **sizes), vectors if embedding else None)


def some_tokens(cells=3, genes=GENES, seed=1):
    rng = np.random.RandomState(seed)
    return torch.as_tensor(np.where(rng.rand(cells, genes + 1) < 0.2, rng.randint(1, 6, (cells, genes + 1)), 0))


def numbers(model, tokens, dtype, use):
    """Logits of all tokens, and the gradients of a loss on the expressed ones."""
    for attention, _ in model.performer.net.layers:
        attention.fn.fast_attention.compiled = use
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        with torch.no_grad():
            logits = model(tokens).double()
        cell, gene = torch.nonzero(tokens, as_tuple=True)
        found = model.to_out(model.norm(model.states_at(tokens, cell, gene)))
        loss = F.cross_entropy(found if found.dtype == torch.float64 else found.float(), tokens[cell, gene])
    parameters = [x for x in model.parameters() if x.requires_grad]
    return logits, torch.cat([x.double().flatten() for x in torch.autograd.grad(loss, parameters)])


def distance(a, b):
    return float((a - b).norm() / b.norm())


@compiled
@pytest.mark.parametrize("embedding", [True, False], ids=["genes", "no gene embedding"])
@pytest.mark.parametrize("stabiliser", ["cell", "head", "batch"])
def test_compiled_is_the_same_in_fp32(embedding, stabiliser):
    """Against PyTorch's arithmetic in float64: logits and gradients to round-off, whatever the stabiliser."""
    tokens = some_tokens()
    exact = numbers(made(embedding=embedding, stabiliser=stabiliser).double(), tokens, torch.float64, None)
    found = numbers(made(embedding=embedding, stabiliser=stabiliser), tokens, torch.float32, True)
    plain = numbers(made(embedding=embedding, stabiliser=stabiliser), tokens, torch.float32, False)
    assert not torch.equal(found[0], plain[0])  # the compiled functions were used
    assert distance(found[0], exact[0]) < 1e-5 and distance(found[1], exact[1]) < 1e-5


@compiled
@pytest.mark.parametrize("genes", [62, 63, 64, 127])
def test_tiles_of_64_tokens(genes):
    """A cell of any length, also where the last tile is nearly empty or full; cells of one batch do not touch each other."""
    tokens = some_tokens(4, genes)
    found = numbers(made(genes=genes), tokens, torch.float32, True)[0]
    assert distance(found, numbers(made(genes=genes).double(), tokens, torch.float64, None)[0]) < 1e-5
    assert distance(found[2:3], numbers(made(genes=genes), tokens[2:3], torch.float32, True)[0]) < 1e-6


@compiled
def test_large_keys_do_not_overflow():
    """Queries and keys a hundred times as long as usual, whose exponentials fp32 cannot hold as they are."""
    tokens, models = some_tokens(), [made(), made().double()]
    with torch.no_grad():
        for model in models:
            for attention, _ in model.performer.net.layers:
                attention.fn.to_q.weight *= 100
                attention.fn.to_k.weight *= 100
    found, exact = numbers(models[0], tokens, torch.float32, True), numbers(models[1], tokens, torch.float64, None)
    assert found[0].isfinite().all() and found[1].isfinite().all()
    assert distance(found[0], exact[0]) < 1e-3


@low
@pytest.mark.parametrize("use", [True, False], ids=["compiled", "PyTorch"])
@pytest.mark.slow
def test_bf16_is_near(use):
    """At scBERT's width, against float64: 1e-2 of the largest logit, and 99.5 % of the tokens named alike."""
    sizes = {"dim": 200, "heads": 10, "dim_head": 64, "features": 266}
    tokens = some_tokens(2, 400)
    exact = numbers(made(genes=400, **sizes).double(), tokens, torch.float64, None)
    found = numbers(made(genes=400, **sizes), tokens, torch.bfloat16, use)
    assert float((found[0] - exact[0]).abs().max() / exact[0].abs().max()) < 1e-2
    assert float((found[0].argmax(-1) == exact[0].argmax(-1)).double().mean()) >= 0.995
    assert distance(found[1], exact[1]) < 1e-2
    single = numbers(made(genes=400, **sizes), tokens, torch.float32, use)
    assert 1e-5 < distance(found[0], single[0]) < 1e-2


def test_small_models_are_computed_as_ever(monkeypatch, tmp_path):
    """Whatever is asked for, a small model is trained in fp32 by PyTorch, and nothing is measured or compiled for it."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("SCBERT_PRECISION", "bf16")
    model = made(dim=32)
    assert arithmetic.settle(model, None, "cpu") == "fp32" and not list(tmp_path.iterdir())
    tokens = some_tokens()
    assert all(map(torch.equal, numbers(model, tokens, torch.float32, True), numbers(model, tokens, torch.float32, False)))


@pytest.mark.slow
def test_the_choice_is_measured_once_and_kept(monkeypatch, tmp_path):
    """In the cache folder, with what it was made of; what is kept decides, a broken file is made anew, a variable overrules."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    before = torch.get_rng_state()
    first = arithmetic.choose(200, "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    (path,) = tmp_path.glob("compiled/*.json")
    kept = json.loads(path.read_text())
    assert first.split(",")[0] == kept["chosen"] and all(seconds > 0 for seconds in kept["seconds"].values())
    for other in ("fp32", "bf16"):
        path.write_text(json.dumps(kept | {"chosen": other}))
        assert arithmetic.choose(200, "cpu").split(",")[0] == other
    monkeypatch.setenv("SCBERT_PRECISION", "fp32")
    assert arithmetic.choose(200, "cpu").split(",")[0] == "fp32"
    monkeypatch.setenv("SCBERT_PRECISION", "half")
    with pytest.raises(DataError, match="SCBERT_PRECISION is 'half'"):
        arithmetic.choose(200, "cpu")
    monkeypatch.delenv("SCBERT_PRECISION")
    path.write_text("{")
    arithmetic.choose(200, "cpu")
    assert json.loads(path.read_text())["chosen"] in ("fp32", "bf16")


def test_without_a_compiler_pytorch_does_it(monkeypatch, tmp_path):
    """Nothing is refused, and the name of the arithmetic says so."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SCBERT_PRECISION", "fp32")
    fused.library.cache_clear()
    try:
        model = made()
        assert arithmetic.settle(model, None, "cpu") == "fp32"
        tokens = some_tokens()
        assert all(map(torch.equal, numbers(model, tokens, torch.float32, None), numbers(model, tokens, torch.float32, False)))
    finally:
        fused.library.cache_clear()


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def job(kind, checkpoint=None, interrupt=None):
    """A short training of a wide model: its log and weights."""
    tokens, labels = some_tokens(24).to(torch.uint8).numpy(), np.arange(24) % 3
    model = made(CellTypeClassifier if kind == "finetune" else ScBert, redraw_interval=3)
    torch.manual_seed(0)
    how = {"epochs": 3, "batch_size": 8, "checkpoint": checkpoint, "accelerator": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        if interrupt is not None:
            write = training.save

            def save(path, content):
                write(path, content)
                if len(content["log"]) == interrupt:
                    raise Interrupted

            patch.setattr(training, "save", save)
        if kind == "finetune":
            log = finetune(model, tokens, labels, np.arange(16), np.arange(16, 24), **how).log
        else:
            log = pretrain(model, tokens, validation=0.3, **how).log
    return log, model.state_dict(), model.arithmetic


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_it_began(monkeypatch, tmp_path, kind):
    """Though the variable says otherwise by then: same log and weights, bit for bit, and another training differs."""
    runs = {}
    for precision in ("bf16", "fp32"):
        monkeypatch.setenv("SCBERT_PRECISION", precision)
        runs[precision] = job(kind)
        assert runs[precision][2].startswith(precision)
    assert runs["bf16"][0] != runs["fp32"][0]
    for precision, other in (("bf16", "fp32"), ("fp32", "bf16")):
        checkpoint = tmp_path / precision / "checkpoint.pt"
        monkeypatch.setenv("SCBERT_PRECISION", precision)
        with pytest.raises(Interrupted):
            job(kind, checkpoint, interrupt=1)
        monkeypatch.setenv("SCBERT_PRECISION", other)
        log, state, words = job(kind, checkpoint)
        assert words == runs[precision][2] and log == runs[precision][0]
        assert all(torch.equal(state[name], value) for name, value in runs[precision][1].items())
