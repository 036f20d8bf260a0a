"""One training by several processes, or a batch in parts: the numbers of one process with the whole batch."""

import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import scipy.sparse as sp
import torch

from lib.errors import DataError
from lib.prepare import shards
from lib.scbert import ranks
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.finetune import finetune
from lib.scbert.model import ScBert, ScBertConfig
from lib.scbert.pretrain import pretrain
from lib.scbert.training import load_checkpoint
from lib.settings import ROOT

GENES, CLASSES, CELLS = 30, 3, 48
TINY = {"genes": GENES, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "features": 16, "classes": CLASSES}
# What the order of adding leaves: sums over 8 cells in fp32, made in another order, differ by some 1e-7 of themselves, and
# dozens of Adam's steps, which divide by the size of the gradient, carry that on.
CLOSE = {"rtol": 2e-6, "atol": 2e-6}


def made_up():
    """Tokens of three kinds of cells, each with its own ten genes high, of depths that differ; one cell expresses nothing."""
    rng = np.random.default_rng(0)
    labels = np.arange(CELLS) % CLASSES
    mean = np.where(np.arange(GENES) // 10 == labels[:, None], 2.5, 0.5) * rng.uniform(0.3, 1.5, (CELLS, 1))
    tokens = np.minimum(rng.poisson(mean), 5).astype(np.uint8)
    tokens[20] = 0
    return np.hstack([tokens, np.zeros((CELLS, 1), np.uint8)]), labels


def train(kind, devices=1, checkpoint=None, epochs=4, batch_size=7, tokens=None, max_lr=1e-3, seed=3):
    """A short training with many redraws of the features; its last batch of a pass has 2 cells. Log, weights, predictions."""
    own, labels = made_up()
    tokens = own if tokens is None else tokens
    how = {"batch_size": batch_size, "checkpoint": checkpoint, "accelerator": "cpu", "devices": devices}
    torch.manual_seed(seed)
    embedding = 0.3 * np.random.RandomState(1).randn(GENES, TINY["dim"])
    model = (CellTypeClassifier if kind == "finetune" else ScBert)(ScBertConfig(**TINY, redraw_interval=3), embedding)
    if kind == "finetune":
        how |= {"epochs": epochs, "schedule": {"max_lr": max_lr, "warmup": 2}}
        done = finetune(model, tokens, labels, np.arange(18, 48), np.arange(18), **how)
        return done.log, model, done.probabilities
    rule = {"ends": {"every": 3, "patience": epochs, "most": 3 * epochs}} if kind == "plateau" else {"epochs": epochs}
    return pretrain(model, tokens, validation=0.375, max_lr=max_lr, **how, **rule).log, model, np.zeros(0)


def assert_close(a, b):
    assert len(a[0]) == len(b[0]) and not b[1].training
    for ours, theirs in zip(a[0], b[0], strict=True):
        assert ours.keys() == theirs.keys() and ours["redrawn"] == theirs["redrawn"] and ours["steps"] == theirs["steps"]
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), **CLOSE)
    states = a[1].state_dict(), b[1].state_dict()
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_allclose(states[0][name].numpy(), states[1][name].numpy(), err_msg=name, **CLOSE)
    np.testing.assert_allclose(a[2], b[2], **CLOSE)


@pytest.mark.parametrize("kind", ["pretrain", "plateau", "finetune"])
@pytest.mark.parametrize("at_once", ["1", "3"])
@pytest.mark.slow
def test_a_batch_in_parts_is_the_batch(kind, at_once, monkeypatch):
    """Gradients accumulated over parts are those of the whole: cells with more targets, or of rarer types, count for more."""
    whole = train(kind)
    monkeypatch.setenv("SCBERT_AT_ONCE", at_once)
    assert_close(whole, train(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind, devices", [("pretrain", 3), ("plateau", 2), ("finetune", 2)])
def test_several_processes_are_as_one(kind, devices, tmp_path):
    """Real processes: losses, weights, predictions, draws of features and random state afterwards are those of one process.

    Three have batches in which one of them has no cell; the cells that two pre-train on are a corpus on the disk.
    """
    tokens = made_up()[0]
    if kind == "plateau":
        shards.write(tmp_path / "0", [sp.csr_matrix(tokens)], GENES)
        tokens = shards.Shards([tmp_path / "0"], GENES + 1)
    one = train(kind, tokens=tokens)
    after = torch.rand(3)
    others = set(psutil.Process().children())  # of other tests
    several = train(kind, devices, tokens=tokens)
    assert_close(one, several)
    assert one[1].redraws == several[1].redraws > 1
    assert torch.equal(torch.rand(3), after) and set(psutil.Process().children()) <= others


@pytest.mark.slow
def test_evaluation_counts_each_cell_once():
    """Where nothing is learnt (a rate of 0), validation by two processes gives the very bits that one gives."""
    one, two = train("pretrain", max_lr=0.0, epochs=1)[0], train("pretrain", 2, max_lr=0.0, epochs=1)[0]
    for name in ("validation_loss", "validation_accuracy"):
        assert one[0][name] == two[0][name]


@pytest.fixture
def elsewhere(tmp_path):
    """Start a long training by two processes in a process of its own; it is killed in the end."""
    started = []

    def start(kind, checkpoint):
        code = (
            f"import sys; sys.path[:0] = {[str(ROOT / 'tests' / 'scbert'), str(ROOT)]}; import test_ranks, torch; "
            f"torch.set_num_threads(1); test_ranks.train({kind!r}, 2, {str(checkpoint)!r}, 400)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        started.append(process)
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert checkpoint.exists(), process.stderr.read().decode()
        # Those of the training, in the order they were started; not joblib's tracker of resources.
        children = [child for child in psutil.Process(process.pid).children() if "ranks.main" in " ".join(child.cmdline())]
        return process, children

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_another_number_goes_on(tmp_path, elsewhere):
    """One sentence, no process left; from the checkpoint one process goes on to the numbers of an uninterrupted run by one."""
    process, (_, second) = elsewhere("finetune", tmp_path / "last.pt")
    others = psutil.Process(process.pid).children(recursive=True)
    second.send_signal(signal.SIGKILL)
    error = process.communicate(timeout=60)[1].decode().strip().splitlines()[-1]
    assert (
        process.returncode == 1 and "DataError: Process 2 of 2 that trained together was ended from outside (signal 9)" in error
    )
    psutil.wait_procs(others, timeout=20)
    assert not any(other.is_running() for other in others)
    epochs = len(load_checkpoint(tmp_path / "last.pt")["log"]) + 5
    assert epochs < 400
    assert_close(train("finetune", epochs=epochs), train("finetune", 1, tmp_path / "last.pt", epochs, seed=17))


@pytest.mark.slow
def test_what_one_process_began_two_go_on_with(tmp_path):
    """From the middle of a pass over the cells, by a checkpoint that does not hold the order of the pass."""
    path = tmp_path / "last.pt"
    train("plateau", 1, path, epochs=3)  # ends after 9 steps, of 5 a pass
    one, two = train("plateau", epochs=6), train("plateau", 2, path, epochs=6, seed=17)
    assert_close(one, two)


@pytest.mark.slow
def test_they_end_with_who_started_them(tmp_path, elsewhere):
    """Also where that is killed and can tell them nothing."""
    process, children = elsewhere("pretrain", tmp_path / "last.pt")
    assert len(children) == 2
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=20)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


@pytest.mark.slow
def test_a_refusal_arrives_as_it_was_made():
    """What the processes refuse, the one that waits for them refuses, in the same words."""
    with pytest.raises(DataError, match="1 cells are too few to pre-train on"):
        train("pretrain", 2, tokens=made_up()[0][:1])


def test_small_models_and_a_cpu_have_one_process_unless_asked(monkeypatch):
    """SCBERT_DEVICES is for large models; ``devices`` for any."""

    class Started(Exception):
        pass

    def start(*_):
        raise Started

    monkeypatch.setattr(ranks, "_start", start)
    monkeypatch.setenv("SCBERT_DEVICES", "2")
    train("pretrain", None, epochs=1)
    with pytest.raises(Started):
        train("pretrain", 2)
    monkeypatch.setitem(TINY, "dim", 128)
    with pytest.raises(Started):
        train("pretrain", None)
    monkeypatch.delenv("SCBERT_DEVICES")
    train("pretrain", None, epochs=1)


def test_more_gpus_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DataError, match="2 devices are asked for, and 1 GPUs are visible. Give SCBERT_DEVICES=1 or less"):
        pretrain(ScBert(ScBertConfig(**TINY)), made_up()[0], epochs=1, devices=2)
