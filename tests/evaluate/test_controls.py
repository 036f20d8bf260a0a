"""Controls in the order that they must have, and the scores that bracket every model."""

import numpy as np
import pandas as pd

from lib.evaluate import controls, differences, ensembles, words
from tests.evaluate.made import answers, right_on, run


def test_sanity_names_what_is_out_of_order():
    """Arms as good as they should be are ahead; a scBERT below the majority is behind: one family, in the order given."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 250, p=[0.5, 0.2, 0.2, 0.1])
    share = {
        "nearest_neighbours": 0.7,
        "depth": 0.55,
        "logistic_regression_equal_depth": 0.65,
        "logistic_regression_tokens": 0.7,
        "logistic_regression": 0.8,
        "head_only": 0.75,
        "full": 0.2,
    }
    runs = [run(arm, labels, answers(rng, labels, s), seed) for arm, s in share.items() for seed in range(3)]
    runs += [run("majority", labels, np.zeros(250, int), seed) for seed in range(3)]
    runs += [run("stratified_random", labels, rng.permutation(labels), seed) for seed in range(3)]
    table = controls.sanity(runs)
    asked = table[["reference", "arm", "metric", "because"]].itertuples(index=False, name=None)
    assert list(asked) == controls.EXPECTED
    said = table.set_index(["reference", "arm"])["verdict"]
    assert said["stratified_random", "majority"] == "ahead" and said["majority", "nearest_neighbours"] == "ahead"
    assert said["majority", "full"] == "behind" and said["head_only", "full"] == "behind"
    assert np.allclose(table["p_holm"], differences.judged(table.to_dict("records"))["p_holm"])
    alone = differences.paired_difference(*differences.pair(runs, "majority", "stratified_random"), metric="macro_f1")
    other = differences.paired_difference(*differences.pair(runs, "majority", "stratified_random"), metric="accuracy")
    assert alone["difference"] < 0 < other["difference"] == table["difference"][0]
    assert table["difference"][1] == -alone["difference"]
    few = [run for run in runs if run.spec["arm"] in ("depth", "majority", "logistic_regression")]  # none at equal depth
    fewer = controls.sanity(few)[["reference", "arm", "metric", "because"]].itertuples(index=False, name=None)
    assert list(fewer) == [row for row in controls.EXPECTED if row[:2] == ("depth", "logistic_regression")]


def test_the_bracket_has_every_arm_once():
    """Mean of an arm's runs, each counted once though it is given twice, by both scores, within its interval."""
    runs = [right_on("a", [1, 1, 1, 0] * 25, 0), right_on("b", [1] * 100), right_on("a", [1, 1, 0, 0] * 25, 1)]
    table = controls.bracket([*runs, runs[0], runs[0]])
    assert table[["arm", "metric", "n_runs"]].to_numpy().tolist() == [
        ["a", "accuracy", 2],
        ["a", "macro_f1", 2],
        ["b", "accuracy", 1],
        ["b", "macro_f1", 1],
    ]
    assert table["mean"].tolist()[::2] == [0.625, 1] and (table["low"][0] < 0.625 < table["high"][0])
    expected = dict(zip(("mean", "low", "high"), differences.mean_and_interval([runs[0], runs[2]], "macro_f1")))
    assert table.loc[1, list(expected)].to_dict() == expected and table.loc[2, ["low", "high"]].tolist() == [1, 1]
    together = differences.mean_and_interval([ensembles.ensemble([runs[0], runs[2]])])
    assert table.loc[0, ["ensemble", "ensemble_low", "ensemble_high"]].tolist() == list(together)
    assert table.loc[2, "ensemble"] == table.loc[2, "mean"] and set(table["n_flagged"]) == {0}
    assert words.ensembles(table, ["a", "b"], str.upper).startswith("Averaged into one classifier: A, accuracy ")
    assert words.ensembles(table, ["b"], str) == ""
    assert controls.bracket(runs, ["macro_f1"])["metric"].tolist() == ["macro_f1"] * 2


def test_trials_are_sorted_and_say_which_did_not_end():
    labels = np.arange(40) % 4

    def trial(rate, right, ended):
        found = run(
            "full", labels, np.where(np.arange(40) < right, labels, (labels + 1) % 4), training={"ends": {"max_lr": rate}}
        )
        found.id, found.predictions["ended"] = f"{rate} {right}", np.array(ended)
        found.log = pd.DataFrame({"loss": [1.4, 0.5]})
        return found

    table = controls.trials([trial(0.1, 14, "maximum"), trial(0.01, 30, "plateau"), trial(0.1, 20, "plateau")])
    assert table["tried"].tolist() == ["max lr 0.01", "max lr 0.1"] and table["accuracy"].tolist() == [0.75, 0.425]
    assert table["runs"].tolist() == [1, 2] and table.loc[1, ["lowest", "highest"]].tolist() == [0.35, 0.5]
    assert table["ended"].tolist() == ["as it should", "stopped at its maximum (1)"]
