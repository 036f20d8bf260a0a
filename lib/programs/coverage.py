"""How often the 95 % interval of a difference covers the truth, where the truth is known: ``python -m lib.coverage``.

An arm without pre-training (a run a seed) and one that is pre-trained (every pre-training with every seed) name the same test
cells. A cell is hard or easy for both arms, for one of them, for all runs of a pre-training or of a seed, or in one run alone;
and each pre-training, seed and run is lucky or not in all cells. Everything is drawn anew in each experiment.

Coverage in 600 experiments a design (standard error 0.01), with 2, 3 and 5 seeds:

=====  =============  ==================  ==================
cells  pre-trainings  accuracy            macro-F1
=====  =============  ==================  ==================
  140              1  0.950 0.967 0.963   0.953 0.962 0.973
  140              3  0.972 0.972 0.972   0.977 0.955 0.965
  755              1  0.912 0.942 0.960   0.907 0.952 0.963
  755              3  0.953 0.948 0.950   0.952 0.948 0.957
=====  =============  ==================  ==================

So at least 0.94 from three seeds on, below which no verdict is given (the lowest of them, 755 cells, 1 × 3 runs, with other
random numbers and 1,000 experiments: 0.946). With one pre-training that is for these very weights: of the difference over all
pre-trainings the interval covers 0.84 to 0.96, and with 755 cells a difference that is not there is called shown in up to
0.17 of the experiments, not 0.05: hence the note beside every verdict on a single one.
"""

from __future__ import annotations

import sys
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from lib import settings
from lib.evaluate import differences

# Test cells by type, and about how many of each are named right, as in quick and in laptop: rare types are hard.
TYPES = {
    140: ([48, 26, 19, 14, 11, 9, 6, 4, 2, 1], [0.9, 0.87, 0.97, 0.78, 0.55, 0.55, 0.8, 0.3, 0.9, 0.2]),
    755: ([154, 137, 135, 74, 50, 47, 46, 41, 38, 33], [0.97, 0.95, 0.97, 0.8, 0.35, 0.72, 0.75, 0.45, 0.5, 0.94]),
}
# Standard deviations of how hard a cell is, in the units of a normal score that is right above 0; of luck, in points.
HARD = {"both": 0.8, "arm": 0.35, "pretraining": 0.2, "seed": 0.2, "run": 0.35}
LUCK = {"pretraining": 1.5, "seed": 1.5, "run": 1.0}
GAP = 2.0  # points by which the first arm is better, about


class World:
    """Types, how hard they are, and what wrong answers are; ``points`` of accuracy are shifts of the normal score."""

    def __init__(self, cells: int):
        self.counts, recall = (np.array(x, float) for x in TYPES[cells])
        self.labels = np.repeat(np.arange(len(self.counts)), self.counts.astype(int))
        self.width = np.sqrt(sum(sd**2 for sd in HARD.values()))
        self.score = self.width * ndtri(recall)
        step = 1e-3
        self.unit = 0.01 * step / (self._accuracy(step) - self._accuracy(0))  # of the score, for a point of accuracy
        near = np.eye(len(recall), k=1) + np.eye(len(recall), k=-1) + 0.1
        self.wrong = near * (1 - np.eye(len(recall)))
        self.wrong /= self.wrong.sum(1, keepdims=True)  # what a cell of a type is taken for, where not for its own

    def _accuracy(self, shift):
        return float(self.counts @ ndtr((self.score + shift) / self.width) / self.counts.sum())

    def truth(self, points, metric):
        """A score of an arm with this luck (array, points) among infinitely many cells of these types."""
        recall = ndtr((self.score + self.unit * np.asarray(points, float)[..., None]) / self.width)
        hit = recall * self.counts
        if metric == "accuracy":
            return hit.sum(-1) / self.counts.sum()
        given = hit + ((1 - recall) * self.counts) @ self.wrong
        return (2 * hit / (self.counts + given)).mean(-1)

    def named(self, rng, right):
        """Answers, right where they are said to be."""
        other = (rng.random((len(right), 1)) > self.wrong[self.labels].cumsum(1)).sum(1)
        return np.where(right, self.labels, other)


def experiment(world: World, rng: np.random.Generator, pretrainings: int, seeds: int, gap: float = GAP) -> tuple:
    """Runs of both arms, and the luck (points) of each pre-training."""
    n = len(world.labels)
    common = world.score[world.labels] + rng.normal(0, HARD["both"], n)
    before = rng.normal(0, LUCK["pretraining"], pretrainings)
    runs = []
    for arm, of in (("first", [None]), ("second", range(pretrainings))):
        own = common + rng.normal(0, HARD["arm"], n) + world.unit * gap * (arm == "first")
        by_pretraining = {p: rng.normal(0, HARD["pretraining"], n) for p in of}
        by_seed = {s: (rng.normal(0, HARD["seed"], n), rng.normal(0, LUCK["seed"])) for s in range(seeds)}
        for p, s in product(of, range(seeds)):
            luck = (0 if p is None else before[p]) + by_seed[s][1] + rng.normal(0, LUCK["run"])
            score = own + by_pretraining[p] + by_seed[s][0] + rng.normal(0, HARD["run"], n) + world.unit * luck
            spec = {"arm": arm, "seed": s} | ({} if p is None else {"pretraining": {"seed": p}})
            made = {"labels": world.labels, "classes": np.arange(len(world.counts)).astype(str), "test": np.arange(n)}
            made["probabilities"] = np.eye(len(world.counts))[world.named(rng, score > 0)]
            runs.append(SimpleNamespace(id=f"{arm}-{p}-{s}", spec=spec, predictions=made))
    return runs, before


def cover(cells: int, pretrainings: int, seeds: int, metric: str, experiments: int = 400, seed: int = 0) -> dict:
    """One design, simulated: how often its interval covers, how wide it is, and how often each test errs.

    Returns
    -------
    dict
        The design; ``coverage``: of the true difference. With one pre-training that is the one between these very weights and
        the other arm, since luck that was drawn once cannot be seen; ``coverage_any_pretraining`` is of the difference
        over all pre-trainings, the same as ``coverage`` where there are several. ``half_width`` (mean) and ``detectable``
        (mean), in points; ``too_sure``: how often p is below 5 % where there is no difference over all pre-trainings;
        ``too_equal``: how often equivalence is shown where the true difference lies on the margin.
    """
    world, rng, rows = World(cells), np.random.default_rng([seed, cells, pretrainings, seeds]), []
    draws = np.random.default_rng(1).normal(size=(4000, 3)) * list(LUCK.values())
    for k in range(experiments):
        for gap in (GAP, 0.0):
            runs, before = experiment(world, rng, pretrainings, seeds, gap)
            second = world.truth(draws.sum(1), metric).mean()
            these = world.truth(before.mean() + draws[:, 1:].sum(1), metric).mean() if pretrainings == 1 else second
            first = world.truth(gap + draws[:, 1:].sum(1), metric).mean()
            pairs = differences.pair(runs, "first", "second")
            found = differences.paired_difference(*pairs, metric, resamples=300, seed=k, margin=abs(first - these))
            rows.append((gap, found, first - these, first - second))
    told = [(found, here, anywhere) for gap, found, here, anywhere in rows if gap]
    null = [found for gap, found, *_ in rows if not gap]
    return {
        "cells": cells,
        "pretrainings": pretrainings,
        "seeds": seeds,
        "metric": metric,
        "coverage": np.mean([found["low"] <= here <= found["high"] for found, here, _ in told]),
        "coverage_any_pretraining": np.mean([found["low"] <= anywhere <= found["high"] for found, _, anywhere in told]),
        "half_width": 100 * np.mean([(found["high"] - found["low"]) / 2 for found, *_ in told]),
        "detectable": 100 * np.mean([found["detectable"] for found, *_ in told]),
        "too_sure": np.mean([found["p"] < 0.05 for found in null]),
        "too_equal": np.mean([found["p_equivalence"] < 0.05 for found, *_ in told]),
        "experiments": experiments,
    }


def main(arguments: list[str]) -> int:
    """Every design; a table to read, and ``figures/coverage.csv``. The one argument: experiments a design (400)."""
    experiments = int(arguments[0]) if arguments else 400
    designs = product((140, 755), (1, 3), (2, 3, 5), ("accuracy", "macro_f1"))
    rows = []
    for cells, pretrainings, seeds, metric in designs:
        rows.append(cover(cells, pretrainings, seeds, metric, experiments))
        print(
            ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in rows[-1].items())
        )
    target = settings.figures() / "coverage.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(target, index=False, float_format="%.4g")
    print(f"{target} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
