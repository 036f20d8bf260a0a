"""The frozen blocks' output in a file: the same numbers, gone on with after a kill, never another's, never damaged."""

import json
import shutil

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.finetune import finetune
from lib.scbert.frozen import FrozenBlocks
from lib.scbert.model import ScBertConfig

CELLS, GENES = 40, 60


@pytest.fixture
def made():
    """A small model of three blocks, and tokens of random cells."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    config = ScBertConfig(genes=GENES, dim=16, depth=3, heads=2, dim_head=8, features=12, classes=3, redraw_interval=1000)
    model = CellTypeClassifier(config, rng.normal(size=(GENES, 16)))
    tokens = np.zeros((CELLS, GENES + 1), np.uint8)
    tokens[:, :-1] = rng.integers(0, 6, (CELLS, GENES)) * (rng.random((CELLS, GENES)) < 0.4)
    return model.eval(), sp.csr_matrix(tokens), rng.integers(0, 3, CELLS)


def counted(frozen):
    """Let it count the batches that it computes."""
    frozen.computed, compute = [], frozen._compute

    def count(cells):
        frozen.computed.append(len(cells))
        return compute(cells)

    frozen._compute = count
    return frozen


def asked(frozen):
    return frozen(np.array([3, 30, 7])).numpy()


def test_the_file_holds_what_memory_would(made, tmp_path):
    """Bit for bit, and in any order of cells."""
    model, tokens, _ = made
    everyone = np.arange(CELLS)
    memory = FrozenBlocks(model, tokens, everyone, 8, 2**20)
    file = FrozenBlocks(model, tokens, everyone, 8, 0, tmp_path / "checkpoint.pt")
    assert memory.path is None and file.path.parent == tmp_path
    np.testing.assert_array_equal(asked(file), asked(memory))
    assert file.path.stat().st_size > 4 * CELLS * (GENES + 1) * 16
    file.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "broken, anew", [("nothing", []), ("last", [8]), ("bit", [8, 8]), ("sums", [8] * 5), ("file", [8] * 5)]
)
def test_what_an_interrupted_run_wrote_serves_if_it_is_right(made, tmp_path, broken, anew):
    """Batches that were written are not computed again; what is missing or damaged is, and nothing else."""
    model, tokens, _ = made
    first = FrozenBlocks(model, tokens, np.arange(CELLS), 8, 0, tmp_path / "checkpoint.pt")
    right = asked(first)
    sums, path = first.path.with_suffix(".json"), first.path
    said = json.loads(sums.read_text())
    assert len(said["sums"]) == 5
    if broken == "last":
        sums.write_text(json.dumps(said | {"sums": said["sums"][:-1]}))
    elif broken == "bit":  # in the fourth of five batches: what follows is not trusted either
        content = bytearray(path.read_bytes())
        content[-int(1.5 * 8 * (GENES + 1) * 16 * 4)] ^= 4
        path.write_bytes(content)
    elif broken == "sums":
        sums.write_text("{")
    elif broken == "file":
        path.write_bytes(path.read_bytes()[:1000])
    second = counted(FrozenBlocks(model, tokens, np.arange(CELLS), 8, 0, tmp_path / "checkpoint.pt"))
    np.testing.assert_array_equal(asked(second), right)
    assert second.computed == anew


def test_another_models_or_cells_file_is_not_taken(made, tmp_path):
    """Other frozen weights, features or tokens: computed anew. A last block or head that has learnt: not."""
    model, tokens, _ = made
    place = tmp_path / "checkpoint.pt"
    asked(FrozenBlocks(model, tokens, np.arange(CELLS), 8, 0, place))

    def computed(tokens=tokens):
        frozen = counted(FrozenBlocks(model, tokens, np.arange(CELLS), 8, 0, place))
        found = asked(frozen)
        np.testing.assert_array_equal(found, asked(FrozenBlocks(model, tokens, np.arange(CELLS), 8, 2**20)))
        return len(frozen.computed)

    layers = model.performer.net.layers
    with torch.no_grad():
        layers[2][0].fn.to_q.weight += 1
        model.to_out.fc1.weight += 1
        assert computed() == 0
        layers[1][0].fn.to_q.weight += 1
        assert computed() == 5
        layers[0][0].fn.fast_attention.projection_matrix += 1
        assert computed() == 5
    other = tokens.copy()
    other.data[0] = other.data[0] % 5 + 1
    assert computed(other) == 5


def test_fine_tuning_from_the_file_is_the_same_bit_by_bit(made, tmp_path):
    """Across redraws of the features, and the file is gone at the end."""
    _, tokens, labels = made

    def done(**where):
        torch.manual_seed(2)
        config = ScBertConfig(genes=GENES, dim=16, depth=3, heads=2, dim_head=8, features=12, classes=3, redraw_interval=5)
        model = CellTypeClassifier(config, np.random.default_rng(3).normal(size=(GENES, 16)))
        how = {"epochs": 3, "batch_size": 8, "schedule": {"max_lr": 3e-3, "warmup": 1}, "accelerator": "cpu"}
        return finetune(model, tokens, labels, np.arange(12, CELLS), np.arange(12), **how, **where)

    memory, file = done(), done(cache_bytes=0, checkpoint=tmp_path / "checkpoint.pt")
    assert memory.log == file.log and sum(row["redrawn"] for row in file.log) == 2
    np.testing.assert_array_equal(memory.probabilities, file.probabilities)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_disk_without_room_is_left_alone(made, tmp_path, monkeypatch):
    """No file is begun that could fill the disk; the states are computed when they are asked for."""
    model, tokens, _ = made
    full = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    frozen = counted(FrozenBlocks(model, tokens, np.arange(CELLS), 8, 0, tmp_path / "checkpoint.pt"))
    asked(frozen)
    asked(frozen)
    assert frozen.computed == [3, 3] and not list(tmp_path.iterdir())
