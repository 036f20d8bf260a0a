"""What passes the head's ReLU, by hand."""

import numpy as np
import pytest

from lib.evaluate import heads
from tests.evaluate.made import run


def test_what_passes_is_told_beside_accuracy():
    """Means over the tokens 1 to 5 that cells show, zeros apart; without what does not tell, and each run once."""
    labels = np.array([0, 0, 1, 1])
    silent, told = (run("no_gene2vec", labels, np.array([0, 0, 1, 0]), seed=seed) for seed in (0, 1))
    before, after = [0.5, 0.0, 1.0, 0.5, np.nan, 0.5], [0.0, 1, 1, 1, np.nan, 1]
    told.predictions["passing"] = np.array([before, after], np.float32)
    [row] = heads.passing([silent, told, told]).to_dict("records")
    assert (row["arm"], row["seed"], row["accuracy"]) == ("no_gene2vec", 1, 0.75)
    assert row["contrast before"] == pytest.approx(0) and row["detected before"] == pytest.approx(0.5)
    assert row["contrast after"] == pytest.approx(1) and row["zeros after"] == 0
    assert list(heads.passing([silent]).columns) == heads.COLUMNS
