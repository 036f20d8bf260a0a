"""When training ends, and which weights are kept: after so many epochs, as the authors do, or on a plateau.

Both look at nothing but a log: a list with a dictionary a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Epochs:
    """Train for a fixed number of passes over the cells and keep the best, as the authors do."""

    epochs: int
    learning_rate: Callable[[int], float]  # of an epoch, from 0
    score: Callable[[dict], float]  # of an entry of the log; its maximum makes the best epoch (the first one, among equals)

    def steps(self, a_pass: int) -> int:
        """Steps of a round, after which the model is looked at; ``a_pass``: of one pass over the cells."""
        return a_pass

    def rate(self, log: list) -> float | None:
        """The rate of the round that follows those of the log; None where training has ended."""
        return self.learning_rate(len(log)) if len(log) < self.epochs else None

    def best(self, log: list) -> int:
        """The round whose weights are kept."""
        return int(np.argmax([self.score(row) for row in log]))

    def ended(self, log: list) -> str:
        return "epochs"


@dataclass(frozen=True)
class Plateau:
    """Train until the loss on cells that are neither trained on nor reported stops falling.

    After every ``every`` steps that loss is looked at. Whenever it has not reached a new low, by more than ``least`` of the
    lowest, for ``patience`` looks and trained cells are learnt by heart, or for ``level`` looks, since noise hides a slow fall,
    the rate falls to ``factor`` of itself; the time after the last of ``drops`` falls, it has ended. Every 1,000 steps the
    random features are drawn anew, as in scBERT, which throws the loss back: looks in which it recovers, each lower than all
    since that draw, do not count, since else most trainings would end there. Some runs stay at the loss of a guess for hundreds
    of steps before they learn: until a loss is a twentieth below it, on trained cells or these, no look counts, for ``begin``
    looks at most. Counted in steps, so that few cells are learnt from for as long as many. Kept are the weights with the best
    accuracy on those cells, where a log has it, since that is what is reported; else those with the lowest loss.
    """

    max_lr: float  # Adam's rate, after a warm-up over the first ``warmup`` looks
    every: int = 50
    patience: int = 4
    level: int = 0  # never fewer than ``patience``
    by_heart: float = 0.5  # of that loss: what lies below it on trained cells
    drops: int = 2
    factor: float = 0.3
    least: float = 2e-3
    warmup: int = 2
    most: int = 20_000  # steps at which it is given up: a run that gets here has not ended, and is flagged
    begin: int = 60  # looks after which one that has not begun to learn is given up, and flagged
    guess: float = np.inf  # the loss of knowing only how common each answer is; by default every loss is below it

    def steps(self, a_pass: int) -> int:
        return self.every

    def rate(self, log: list) -> float | None:
        falls, begun = self._falls(log)
        if falls > self.drops or len(log) * self.every >= self.most or (not begun and len(log) >= self.begin):
            return None
        return self.max_lr * self.factor**falls * min(1.0, (len(log) + 1) / (self.warmup + 1))

    def best(self, log: list) -> int:
        return max(range(len(log)), key=lambda i: (log[i].get("accuracy", 0.0), -log[i]["validation_loss"]))

    def ended(self, log: list) -> str:
        return "plateau" if self._falls(log)[0] > self.drops else "maximum"

    def _falls(self, log):
        """How often the rate has fallen, and whether learning has begun."""
        lowest = recovered = np.inf  # of all looks, and of those since the last redraw
        since, falls, begun = [], 0, False
        for row in log:
            loss = row["validation_loss"]
            begun = begun or min(loss, row.get("loss", np.inf)) < 0.95 * self.guess
            if loss < lowest * (1 - self.least):
                lowest, recovered, since = loss, loss, []
            elif row.get("redrawn") or loss < recovered * (1 - self.least):
                recovered = loss
            elif begun:
                since.append(loss)
            by_heart = row.get("loss", np.inf) < self.by_heart * loss
            if len(since) >= (self.patience if by_heart else max(self.level, self.patience)):
                falls, since = falls + 1, []
        return falls, begun
