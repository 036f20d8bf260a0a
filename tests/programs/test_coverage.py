"""How often intervals cover: the simulated world's truths by a large simulation of its own, and the promise itself."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from lib.programs import coverage


@pytest.mark.parametrize("cells", [140, 755])
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_truths_are_those_of_very_many_cells(cells, metric):
    """The score of one arm, by scikit-learn, on two hundred times as many cells of the same types; and what luck is worth."""
    world = coverage.World(cells)
    many = coverage.World(cells)
    many.labels = np.repeat(world.labels, 200_000 // cells)
    rng = np.random.default_rng(0)
    score = world.score[many.labels] + world.unit * 3 + rng.normal(0, world.width, len(many.labels))
    predicted = many.named(rng, score > 0)
    found = np.mean(predicted == many.labels) if metric == "accuracy" else f1_score(many.labels, predicted, average="macro")
    assert world.truth(3, metric) == pytest.approx(found, abs=0.006)
    assert world.truth(1, "accuracy") - world.truth(0, "accuracy") == pytest.approx(0.01, rel=0.02)
    assert 0.6 < world.truth(0, metric) < 0.9 and len(world.labels) == cells


def test_an_experiment_is_a_crossed_design():
    """A run a seed of the first arm, one a pre-training and seed of the second, all on the same cells."""
    runs, before = coverage.experiment(coverage.World(140), np.random.default_rng(0), 3, 2)
    assert [(r.spec["arm"], r.spec.get("pretraining", {}).get("seed"), r.spec["seed"]) for r in runs] == [
        *(("first", None, s) for s in (0, 1)),
        *(("second", p, s) for p in range(3) for s in (0, 1)),
    ]
    assert len(before) == 3 and all(np.array_equal(r.predictions["labels"], runs[0].predictions["labels"]) for r in runs)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("cells, pretrainings, seeds", [(140, 1, 3), (140, 3, 3), (755, 1, 3), (755, 3, 5)])
def test_intervals_cover(cells, pretrainings, seeds, metric, record_property, capsys):
    """From three seeds on, 0.93 of the intervals hold the truth; here within three standard errors of 200 experiments."""
    found = coverage.cover(cells, pretrainings, seeds, metric, experiments=200, seed=1)
    record_property("coverage", float(found["coverage"]))
    with capsys.disabled():
        print(f"\n{pretrainings} × {seeds} runs, {cells} cells, {metric}: coverage {found['coverage']:.3f}")
    assert found["coverage"] > 0.93 - 3 * np.sqrt(0.93 * 0.07 / 200)
    assert found["too_equal"] < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert found["too_sure"] < 0.07 + 3 * np.sqrt(0.93 * 0.07 / 200) or pretrainings == 1


@pytest.mark.slow
def test_the_table_is_written(tmp_path, monkeypatch):
    """Every design once, in the folder of figures."""
    monkeypatch.setenv("SCBERT_FIGURES", str(tmp_path))
    assert coverage.main(["2"]) == 0
    table = pd.read_csv(tmp_path / "coverage.csv")
    assert len(table.drop_duplicates(["cells", "pretrainings", "seeds", "metric"])) == len(table) == 24
    assert table["coverage"].between(0, 1).all() and (table["half_width"] < table["detectable"]).all()
