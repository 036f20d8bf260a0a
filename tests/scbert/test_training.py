"""Training: the masked task, the schedule, what is trained, and runs that resume to the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

from lib.errors import DataError
from lib.prepare.tokens import tokenize
from lib.scbert import rules, training
from lib.scbert.classifier import CellTypeClassifier
from lib.scbert.finetune import class_weights, finetune, learning_rate, passing
from lib.scbert.model import ScBert, ScBertConfig
from lib.scbert.pretrain import evaluate_masked, mask_tokens, pretrain

HERE = Path(__file__).resolve()
GENES, CLASSES, CELLS = 30, 3, 48
TINY = {"genes": GENES, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "features": 16, "classes": CLASSES}


def made_up(cells=CELLS):
    """Tokens of three kinds of cells, each with its own ten genes high, and their kinds."""
    rng = np.random.default_rng(0)
    labels = np.arange(cells) % CLASSES
    mean = np.where(np.arange(GENES) // 10 == labels[:, None], 2.5, 0.5)
    tokens = np.minimum(rng.poisson(mean), 5).astype(np.uint8)
    return np.hstack([tokens, np.zeros((cells, 1), np.uint8)]), labels


def tiny(kind, interval=1000, seed=1):
    torch.manual_seed(seed)
    embedding = 0.3 * np.random.RandomState(seed).randn(GENES, TINY["dim"])
    return kind(ScBertConfig(**TINY, redraw_interval=interval), embedding)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The masked task


def test_mask_tokens_chooses_15_percent_of_the_expressed(cells):
    """In each real cell exactly 15 %, rounded up, of the non-zero tokens are targets; zeros and [CLS] never."""
    tokens = torch.from_numpy(tokenize(cells))
    _, targets = mask_tokens(tokens, torch.Generator().manual_seed(0))
    chosen, expressed = targets != -100, tokens > 0
    assert chosen.sum(1).tolist() == [-(-15 * n // 100) for n in expressed.sum(1).tolist()]
    assert not (chosen & ~expressed).any() and not chosen[:, -1].any()
    assert torch.equal(targets[chosen], tokens[chosen].long()) and targets.dtype == torch.int64


@pytest.mark.parametrize("expressed", [0, 1, 6, 7, 20, 40, 100])
def test_mask_tokens_rounds_up_exactly(expressed):
    """15 % of 20 is 3, not 4 by floating-point excess; of 7 it is 2; of none, none."""
    tokens = torch.zeros(2, 121, dtype=torch.uint8)
    tokens[:, 5 : 5 + expressed] = 3
    _, targets = mask_tokens(tokens)
    assert (targets != -100).sum(1).tolist() == [-(-15 * expressed // 100)] * 2


def test_mask_tokens_hides_90_percent_of_the_targets(cells):
    """Nine targets of ten are shown as 6, the others, and all that is no target, as they are."""
    tokens = torch.from_numpy(tokenize(cells))
    before = tokens.clone()
    masked, targets = mask_tokens(tokens, torch.Generator().manual_seed(0))
    chosen, changed = targets != -100, masked != tokens
    assert torch.equal(tokens, before) and masked.dtype == tokens.dtype
    assert not (changed & ~chosen).any() and (masked[changed] == 6).all()
    n = int(chosen.sum())
    assert float(changed[chosen].float().mean()) == pytest.approx(0.9, abs=5 * (0.09 / n) ** 0.5)
    everything, _ = mask_tokens(tokens, mask_prob=1, replace_prob=1)
    assert torch.equal(everything, tokens.masked_fill(tokens > 0, 6))


def test_mask_tokens_is_uniform_over_the_expressed():
    """Every expressed gene is a target equally often."""
    cell = torch.zeros(31, dtype=torch.long)
    cell[10:30] = torch.arange(20) % 5 + 1
    _, targets = mask_tokens(cell.repeat(4000, 1), torch.Generator().manual_seed(0))
    frequency = (targets != -100).double().mean(0)[10:30]
    assert (frequency - 0.15).abs().max() < 5 * (0.15 * 0.85 / 4000) ** 0.5


def test_mask_tokens_follows_its_generator():
    """The same generator state gives the same draw, another another; the global state is left alone."""
    tokens = torch.from_numpy(made_up()[0])
    before = torch.get_rng_state()
    first, again, other = (mask_tokens(tokens, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again)) and not torch.equal(first[1], other[1])


# Schedule and weights


def test_learning_rate_is_the_authors():
    """Warm-up from 1e-6 to 1e-4 in 5 epochs, cosine to epoch 15; then 25 epochs with peak 0.9e-4, 45 with 0.81e-4."""
    expected = {
        0: 1e-6,
        1: 1e-6 + 0.99e-4 / 5,
        5: 1e-4,
        10: (1e-4 + 1e-6) / 2,
        15: 1e-6,
        20: 0.9e-4,
        30: (0.9e-4 + 1e-6) / 2,
        40: 1e-6,
        45: 0.81e-4,
        65: (0.81e-4 + 1e-6) / 2,
        85: 1e-6,
        90: 0.729e-4,
    }
    assert {epoch: learning_rate(epoch) for epoch in expected} == pytest.approx(expected, rel=1e-9)
    rates = [learning_rate(epoch) for epoch in range(15)]
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True) and min(rates) >= 1e-6


def test_class_weights_are_one_over_count():
    """1 / count of each class, 0 for a class without cells."""
    np.testing.assert_allclose(class_weights(np.array([0, 2, 2, 0, 2, 0, 0]), 4), [1 / 4, 0, 1 / 3, 0])


# One loop over epochs


def run_fit(cells, epochs=3, batch_size=4, seed=0, scores=None, rule=None, **kwargs):
    """Fit a single weight; returns the batches of each round, the weight after each, the model and the result."""
    model, batches, weights = nn.Linear(1, 1, bias=False), [], []
    scores = scores or [0.0] * epochs
    rule = rule or rules.Epochs(epochs, lambda epoch: 0.1, lambda row: row["score"])
    tokens = np.arange(90 * 5, dtype=np.uint8).reshape(90, 5) % 6

    def loss_of(batch, shown, generator):
        assert shown.tolist() == tokens[batch].tolist()
        batches.append((len(weights), [int(i) for i in batch]))
        return (model.weight - 3).square().sum()

    def evaluate():
        weights.append(model.weight.item())
        score = scores[len(weights) - 1]
        return {"score": score, "validation_loss": score}, {"weight": np.array([weights[-1]])}, np.array([len(weights)])

    done = training.fit(
        model,
        sp.csr_matrix(tokens),
        cells,
        loss_of,
        evaluate,
        rule=rule,
        batch_size=batch_size,
        seed=seed,
        fabric=training.make_fabric("cpu"),
        **kwargs,
    )
    visits = [[i for e, batch in batches if e == epoch for i in batch] for epoch in range(len(weights))]
    return visits, [len(batch) for _, batch in batches], weights, model, done


def test_each_cell_once_an_epoch():
    """Every cell once an epoch, the last batch smaller, in an order that changes with epoch and seed only."""
    cells = np.array([3, 8, 5, 21, 34, 13, 2, 55, 89, 1])
    visits, sizes, *_ = run_fit(cells)
    assert [sorted(epoch) for epoch in visits] == [sorted(cells)] * 3
    assert sizes == [4, 4, 2] * 3
    assert len({tuple(epoch) for epoch in visits}) == 3
    torch.rand(5)
    assert run_fit(cells)[0] == visits != run_fit(cells, seed=1)[0]


def test_best_epoch_is_the_first_maximum():
    """Model and outputs end with the first of the best epochs; every epoch is in log and history."""
    _, _, weights, model, done = run_fit(np.arange(8), epochs=4, scores=[0.1, 0.5, 0.5, 0.2])
    assert done.best == 1 and model.weight.item() == weights[1] != weights[3] and done.ended == "epochs"
    assert done.best_outputs["weight"] == weights[1] and not model.training
    assert [row["score"] for row in done.log] == [0.1, 0.5, 0.5, 0.2] and len(done.history) == 4


PLATEAU = rules.Plateau(max_lr=0.1, every=3, patience=2, drops=1, factor=0.5, least=0.01, warmup=2, most=60)


def test_a_plateau_ends_training_and_says_so():
    """Low after low it goes on; after two looks without one the rate halves, after two more it has ended. A new low is one by
    more than 1 %. The weights kept are those of the lowest loss."""
    losses = [3, 2, 1, 0.995, 1.2, 0.7, 0.9, 0.8]  # 0.995 is no new low: the rate falls after look 5, the end is after look 8
    _, _, weights, model, done = run_fit(np.arange(8), scores=losses, rule=PLATEAU)
    assert done.ended == "plateau" and [row["validation_loss"] for row in done.log] == losses
    rates = [row["learning_rate"] for row in done.log]
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    assert [row["steps"] for row in done.log] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert done.best == 5 and model.weight.item() == weights[5]


def test_what_never_stops_getting_better_is_flagged():
    """At the most steps it is given up, and that is said."""
    _, _, weights, model, done = run_fit(np.arange(8), scores=[0.9**k for k in range(40)], rule=PLATEAU)
    assert done.ended == "maximum" and len(done.log) == 20 and done.log[-1]["steps"] == 60
    assert done.best == 19 and model.weight.item() == weights[-1]


def test_rounds_of_steps_visit_each_cell_once_a_pass():
    """A look at the model may fall into the middle of a pass: it goes on with the cells that are left."""
    cells = np.array(
        [3, 8, 5, 21, 34, 13, 2, 55, 89, 1]
    )  # a pass has batches of 4, 4, 2: three rounds of 3 steps are three passes
    rule = rules.Plateau(max_lr=0.1, every=2, patience=9, drops=0, most=12)
    visits, sizes, *_ = run_fit(cells, scores=[0.9**k for k in range(6)], rule=rule)
    everyone = sum(visits, [])
    assert sizes == [4, 4, 2] * 4
    assert [sorted(everyone[i : i + 10]) for i in range(0, 40, 10)] == [sorted(cells)] * 4


# Fine-tuning


def fine_tuned(model, seed=3, **kwargs):
    """Fine-tune on 30 cells, 18 held out. A high rate, so that any difference grows."""
    tokens, labels = made_up()
    torch.manual_seed(seed)
    options = {"epochs": 3, "batch_size": 8, "schedule": {"max_lr": 3e-3, "warmup": 1}, "accelerator": "cpu"} | kwargs
    return finetune(model, tokens, options.pop("labels", labels), np.arange(18, 48), np.arange(18), **options)


@pytest.mark.slow
def test_finetune_trains_the_last_block_norm_and_head():
    """What the paper freezes stays bit-identical, all the rest moves, and frozen layers' random features too."""
    model = tiny(CellTypeClassifier, interval=3)
    before = state_of(model)
    fine_tuned(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {n for n, _ in model.named_parameters() if n.startswith(("performer.net.layers.1.", "norm.", "to_out."))}
    features = {name for name in before if name.endswith("projection_matrix")}
    assert len(features) == 2
    assert moved - {"performer.proj_updater.calls_since_last_redraw"} == trained | features


@pytest.mark.slow
def test_finetune_keeps_the_features_of_fewer_forwards():
    """Fewer training forwards than the interval: no random feature moves."""
    model = tiny(CellTypeClassifier, interval=1000)
    before = state_of(model)
    fine_tuned(model)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items() if n.endswith("projection_matrix"))


@pytest.mark.slow
def test_hidden_state_cache_changes_nothing():
    """With and without the cache of hidden states, across redraws, the probabilities agree to 1e-4."""
    with_cache = fine_tuned(tiny(CellTypeClassifier, interval=3))
    without = fine_tuned(tiny(CellTypeClassifier, interval=3), cache_bytes=0)
    np.testing.assert_allclose(with_cache.probabilities, without.probabilities, atol=1e-4)
    assert with_cache.best_epoch == without.best_epoch
    never_redrawn = fine_tuned(tiny(CellTypeClassifier, interval=1000))
    assert np.abs(never_redrawn.probabilities - without.probabilities).max() > 1e-3  # the test can tell


def test_predictions_are_those_of_the_returned_model():
    """The model returned is that of the best epoch: it gives the probabilities that were stored."""
    model = tiny(CellTypeClassifier, interval=4)
    done = fine_tuned(model, epochs=4)
    with torch.no_grad():
        again = model(torch.from_numpy(made_up()[0][:18])).softmax(1).numpy()
    np.testing.assert_allclose(again, done.probabilities, atol=1e-5)
    np.testing.assert_array_equal(done.predicted_by_epoch[done.best_epoch], done.probabilities.argmax(1))
    assert done.predicted_by_epoch.shape == (4, 18) and len(done.log) == 4
    best = [row["accuracy"] for row in done.log]
    assert done.best_epoch == best.index(max(best))


@pytest.mark.slow
def test_test_labels_leak_nothing_when_the_epoch_is_selected_elsewhere():
    """With ``select``, other labels of the test cells change no bit of the predictions; without, they may choose."""
    labels = made_up()[1]
    spoiled = np.where(np.arange(CELLS) < 18, 0, labels)
    clean, other = (fine_tuned(tiny(CellTypeClassifier), labels=y, select=np.arange(40, 48)) for y in (labels, spoiled))
    assert clean.log == other.log and np.array_equal(clean.probabilities, other.probabilities)


@pytest.mark.slow
def test_a_tiny_model_overfits_20_real_cells(cells):
    """Ten cells each of two types are learnt by heart."""
    labels = cells.obs["cell_type"].to_numpy()
    chosen = np.concatenate([np.flatnonzero(labels == name)[:10] for name in ("CD19+ B", "CD4+/CD25 T Reg")])
    tokens = tokenize(cells[chosen])
    torch.manual_seed(0)
    model = CellTypeClassifier(ScBertConfig(**TINY | {"classes": 2}), 0.3 * np.random.randn(tokens.shape[1] - 1, 16))
    everyone, kinds = np.arange(20), np.repeat([0, 1], 10)
    done = finetune(
        model,
        tokens,
        kinds,
        everyone,
        everyone,
        epochs=15,
        batch_size=5,
        accelerator="cpu",
        schedule={"max_lr": 3e-3, "warmup": 2},
    )
    assert done.log[done.best_epoch]["accuracy"] == 1 and done.log[-1]["loss"] < 0.1


@pytest.mark.slow
def test_pretraining_learns():
    """On cells whose genes tell their bins, the loss falls and the accuracy rises."""
    tokens = np.tile(np.r_[np.arange(GENES) % 5 + 1, 0].astype(np.uint8), (40, 1))
    log = pretrain(tiny(ScBert), tokens, epochs=30, batch_size=8, max_lr=1e-2, validation=0.2, accelerator="cpu").log
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert max(row["validation_accuracy"] for row in log) > 0.9


# Resuming


def job(kind, checkpoint=None, epochs=4, seed=3):
    """A short run, 4 steps an epoch, with many redraws: its log, final weights and predictions."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    if kind == "finetune":
        model = tiny(CellTypeClassifier, interval=3)
        done = fine_tuned(model, seed, epochs=epochs, checkpoint=checkpoint, schedule={"max_lr": 1e-3, "warmup": 2})
        return done.log, state_of(model), done.probabilities, done.predicted_by_epoch
    model = tiny(ScBert, interval=3)
    torch.manual_seed(seed)
    rule = {"ends": {"every": 3, "patience": epochs, "most": 3 * epochs}} if kind == "plateau" else {"epochs": epochs}
    log = pretrain(
        model, made_up()[0], batch_size=8, validation=0.375, checkpoint=checkpoint, accelerator="cpu", max_lr=1e-3, **rule
    ).log
    return log, state_of(model), np.zeros(0), np.zeros(0)


def assert_same_run(a, b):
    assert a[0] == b[0] and same(a[1], b[1])
    np.testing.assert_array_equal(a[2], b[2])
    np.testing.assert_array_equal(a[3], b[3])


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def interrupt_at(monkeypatch):
    """Let the loop raise at its n-th step; ``None`` lets it run."""

    def at(step):
        class Bar:
            steps = 0

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return False

            def update(self):
                self.steps += 1
                if self.steps == step:
                    raise Interrupted

            def set_postfix(self, *_, **__):
                pass

        monkeypatch.setattr(training, "progress", lambda *_, **__: Bar())

    return at


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
@pytest.mark.parametrize("step", [2, 5, 11], ids=["first epoch", "start of the second", "middle of the third"])
@pytest.mark.slow
def test_an_interrupted_run_ends_bit_identical(tmp_path, interrupt_at, kind, step):
    """Stopped at any step and started again, another random state meanwhile: same log, weights and predictions."""
    interrupt_at(None)
    reference = job(kind)
    assert len(reference[0]) == 4
    interrupt_at(step)
    with pytest.raises(Interrupted):
        job(kind, tmp_path / "last.pt")
    interrupt_at(None)
    # Stopped in its first epoch a run starts from its seed; later, only the checkpoint counts.
    assert_same_run(job(kind, tmp_path / "last.pt", seed=3 if step == 2 else 17), reference)


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_a_finished_run_is_not_trained_again(tmp_path, interrupt_at, kind):
    """From the checkpoint of its last epoch a run returns what it returned, without a step."""
    reference = job(kind, tmp_path / "last.pt")
    interrupt_at(1)
    assert_same_run(job(kind, tmp_path / "last.pt", seed=17), reference)


def flipped(content):
    """One bit of one weight changed: the file is as long as it was, and its structure whole."""
    place = content.index(state_of(tiny(CellTypeClassifier))["token_emb.weight"].numpy().tobytes())
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "text": lambda content: b"not a checkpoint\n",
    "one bit flipped": flipped,
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside(tmp_path, interrupt_at, capsys, damage):
    """A damaged checkpoint is kept beside, said so, and the run done again from the start."""
    path = tmp_path / "last.pt"
    interrupt_at(11)
    with pytest.raises(Interrupted):
        job("finetune", path)
    damaged = DAMAGE[damage](path.read_bytes())
    path.write_bytes(damaged)
    interrupt_at(None)
    assert_same_run(job("finetune", path), job("finetune"))
    assert [p.read_bytes() for p in tmp_path.glob("*damaged*")] == [damaged]
    assert "damaged" in capsys.readouterr().err
    assert training.load_checkpoint(path) is not None


def epochs_done(path):
    return len(torch.load(path, weights_only=False)["log"]) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune", "pretrain", "plateau"])
def test_a_killed_run_ends_bit_identical(tmp_path, kind):
    """A real process, killed with SIGKILL in the middle of training, leaves a checkpoint that resumes exactly."""
    path, epochs = tmp_path / "last.pt", 100
    code = f"import sys; sys.path[:0] = {[str(HERE.parent), str(HERE.parents[2])]}; import test_training as t; "
    process = subprocess.Popen(
        [sys.executable, "-c", code + f"t.job({kind!r}, {str(path)!r}, {epochs})"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while epochs_done(path) < 12 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    error = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, error
    assert 12 <= epochs_done(path) < epochs
    assert_same_run(job(kind, path, epochs, seed=17), job(kind, epochs=epochs))


def test_without_gene_embedding_one_answer_for_all_hidden_genes(cells):
    """On real cells: the masked task is scored on hidden genes, and without gene embedding gets one answer a cell."""
    tokens = tokenize(cells)[:20]
    model = ScBert(ScBertConfig(genes=765, dim=16, depth=2, heads=2, dim_head=8, features=16))
    result = evaluate_masked(model, tokens)
    assert np.array_equal(result["target"], tokens[result["cell"], result["gene"]])
    targets = np.ceil(0.15 * (tokens > 0).sum(1)).sum()
    assert 0.8 * targets < len(result["target"]) < targets
    assert all(len(set(result["predicted"][result["cell"] == cell])) == 1 for cell in range(20))


def dead(model, times=1):
    """The head's convolution lets nothing pass, as one in a hundred does when drawn; drawn again ``times`` times, it does."""
    conv, draw = model.to_out.conv1, model.to_out.conv1.reset_parameters
    left = [times - 1]

    def kill():
        with torch.no_grad():
            conv.weight.zero_()
            conv.bias.fill_(-1)

    def again():
        left[0] -= 1
        draw() if left[0] < 0 else kill()

    kill()
    conv.reset_parameters = again
    return model


def test_a_dead_head_is_drawn_again_and_counted():
    """It would learn nothing: the loss would stay at that of a guess. Drawn again it learns; a live head is left alone."""
    done = fine_tuned(dead(tiny(CellTypeClassifier), times=3), epochs=6)
    assert done.redrawn == 3 and done.log[-1]["loss"] < 0.95 * done.log[0]["loss"]
    assert fine_tuned(tiny(CellTypeClassifier)).redrawn == 0
    with pytest.raises(DataError, match="drawn 100 times"):
        fine_tuned(dead(tiny(CellTypeClassifier), times=10**6))


@pytest.mark.parametrize("embedding", [None, 0.3 * np.random.RandomState(1).randn(GENES, TINY["dim"])])
def test_what_passes_the_heads_relu_is_told_token_by_token(embedding):
    """The shares are those of the head's own activations, gene by gene; NaN for a token that no cell shows."""
    torch.manual_seed(1)
    model, tokens = CellTypeClassifier(ScBertConfig(**TINY), embedding).eval(), made_up()[0]
    tokens[tokens == 5] = 0
    with torch.no_grad():
        head = model.to_out
        passed = (head.conv1(model.norm(model.hidden(torch.from_numpy(tokens)))[:, None])[:, 0, :, 0] > 0).numpy()
    told = passing(model, sp.csr_matrix(tokens), np.arange(CELLS))
    for token in range(5):
        assert told[token] == pytest.approx(passed[tokens == token].mean())
    assert np.isnan(told[5])


def test_what_passes_is_told_before_and_after():
    """Of the first test cells, when training begins and with the weights that are kept."""
    model = tiny(CellTypeClassifier)
    done = fine_tuned(model, epochs=6)
    assert done.passing.shape == (2, 6)
    assert not np.array_equal(done.passing[0], done.passing[1], equal_nan=True)


def test_a_head_without_blocks_trains_beyond_the_redraw_of_features():
    """It has no random features to draw again, however long it is trained."""
    tokens, labels = made_up()
    embedding = 0.3 * np.random.RandomState(0).randn(GENES, TINY["dim"])
    model = CellTypeClassifier(ScBertConfig(**(TINY | {"depth": 0}), redraw_interval=2), embedding)
    cells = np.arange(len(labels))
    done = finetune(model, tokens, labels, cells[18:], cells[:18], epochs=3, batch_size=8, accelerator="cpu")
    assert len(done.log) == 3 and done.log[-1]["steps"] > 2 and np.isfinite(done.probabilities).all()


def test_fine_tuning_until_a_plateau_never_looks_at_the_test_cells():
    """With ``ends``, the end and the weights are chosen on ``select`` alone: other labels of the test cells change nothing."""
    _, labels = made_up()
    ends = {"max_lr": 3e-3, "every": 4, "patience": 2, "least": 0.1, "most": 4000}
    select, others = np.arange(9), np.arange(9, 18)

    def run(labels):
        torch.manual_seed(3)
        return finetune(
            tiny(CellTypeClassifier),
            made_up()[0],
            labels,
            np.arange(18, 48),
            others,
            select=select,
            ends=ends,
            batch_size=8,
            accelerator="cpu",
        )

    done, changed = run(labels), labels.copy()
    changed[others] = (changed[others] + 1) % 3
    assert done.ended == "plateau" and done.predicted_by_epoch is None and len(done.probabilities) == 9
    np.testing.assert_array_equal(done.probabilities, run(changed).probabilities)
    best = max((row["accuracy"], -row["validation_loss"]) for row in done.log)
    assert (done.log[done.best_epoch]["accuracy"], -done.log[done.best_epoch]["validation_loss"]) == best
