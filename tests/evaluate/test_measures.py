"""Scores of runs, against scikit-learn and by hand; what choosing the epoch is worth, by hand and by simulation."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, classification_report, f1_score

from lib.evaluate import differences, intervals, measures
from tests.evaluate.made import right_on, run


def test_scores_equal_scikit_learn():
    """Accuracy, macro-F1, recall and the hard pair, against scikit-learn on the same cells."""
    rng = np.random.default_rng(1)
    classes = np.array(["B", *measures.HARD_PAIR, "NK"])
    labels = rng.integers(0, 4, 300)
    predicted = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 4, 300))
    found = measures.scores(labels, predicted, classes)
    report = classification_report(labels, predicted, output_dict=True)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["recall[NK]"] == pytest.approx(report["3"]["recall"])
    hard = (labels == 1) | (labels == 2)
    assert found["accuracy_hard_pair"] == pytest.approx(accuracy_score(labels[hard], predicted[hard]))
    assert found["macro_f1_hard_pair"] == pytest.approx((report["1"]["f1-score"] + report["2"]["f1-score"]) / 2)
    assert "accuracy_hard_pair" not in measures.scores(labels[labels != 1], predicted[labels != 1], classes)


def test_scores_by_hand():
    """Five cells; a type that never occurs is no part of macro-F1, a type that is never right counts zero."""
    found = measures.scores(np.array([0, 0, 0, 1, 2]), np.array([0, 0, 3, 2, 1]), np.array(["A", "B", "C", "D"]))
    assert found == {
        "accuracy": 0.4,
        "macro_f1": pytest.approx(0.8 / 3),
        "recall[A]": pytest.approx(2 / 3),
        "recall[B]": 0,
        "recall[C]": 0,
    }
    found = measures.scores(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 1]), np.array([*measures.HARD_PAIR, "other"]))
    assert found["accuracy_hard_pair"] == 0.5  # of the four cells of the pair
    assert found["macro_f1_hard_pair"] == pytest.approx((2 / 3 + 2 / 5) / 2)  # a third cell is taken for the second type


def test_runs_by_arm():
    """In the order given, each run once, by its id."""
    runs = [right_on("b", [1], 0), right_on("a", [1], 0), right_on("b", [1], 1)]
    found = measures.by_arm([*runs, right_on("b", [1], 0)])
    assert {arm: [r.spec["seed"] for r in own] for arm, own in found.items()} == {"b": [0, 1], "a": [0]} and list(found) == [
        "b",
        "a",
    ]


def test_the_tidy_table():
    """A row for each run and score; the last epoch's accuracy for scBERT, the training cells' for a model without epochs."""
    one = right_on("full", [1, 1, 0, 0], 3, fraction=0.1)
    one.predictions["predicted_by_epoch"] = np.array([[0, 0, 0, 0], [0, 1, 1, 1]])
    one.log = pd.DataFrame({"train_accuracy": [0.1, 0.2]})  # epochs: not that of a fitted model
    other = right_on("logistic_regression", [1, 1, 1, 0])
    other.log = pd.DataFrame({"train_accuracy": [0.9, 0.3]})
    plain = right_on("majority", [1, 1, 1, 1])
    table = measures.table([one, other, plain])
    assert table.columns.tolist() == ["arm", "fraction", "pretraining", "seed", "metric", "value", "run", "flagged"]
    first = table[table["run"] == one.id]
    assert set(first["arm"]) == {"full"} and set(first["fraction"]) == {0.1} and set(first["seed"]) == {3}
    values = {key: part.set_index("metric")["value"].to_dict() for key, part in table.groupby("arm")}
    assert values["full"] == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx(2 / 3),
        "recall[type 0]": 0.5,
        "accuracy_last_epoch": 0.25,
    }
    assert values["logistic_regression"]["train_accuracy"] == 0.9 and "accuracy_last_epoch" not in values["logistic_regression"]
    assert values["majority"] == {"accuracy": 1, "macro_f1": 1, "recall[type 0]": 1}


def test_groups_are_summarised():
    """Mean, half Student's interval (4.303 · 0.1 / √3 for three values a tenth apart), number; groups in their order."""
    table = pd.DataFrame({"arm": ["b", "b", "b", "a"], "metric": "x", "value": [0.7, 0.8, 0.9, 0.4]})
    found = measures.summarise(table, ["arm", "metric"])
    assert found[["arm", "metric", "n"]].to_numpy().tolist() == [["b", "x", 3], ["a", "x", 1]]
    assert found["mean"].tolist() == pytest.approx([0.8, 0.4]) and found["half_width"][0] == pytest.approx(0.2484, abs=1e-4)
    assert np.isnan(found["half_width"][1])


def epochs_run(right, protocol, best_epoch, seed=0):
    """A scBERT run whose answers by epoch are right or wrong as given."""
    right = np.asarray(right, bool)
    one = right_on("full", right[best_epoch], seed, protocol=protocol)
    one.predictions |= {"predicted_by_epoch": np.where(right, 0, 1), "best_epoch": np.array(best_epoch)}
    return one


def test_the_rules_of_the_epoch_by_hand():
    """Three epochs: the best on the reported cells, the last, the one chosen elsewhere; halves of two cells, either way."""
    right = [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    runs = [epochs_run(right, "paper", 0), epochs_run(right, "clean", 1, 5)]
    table = measures.epoch_choice([*runs, runs[0]])
    pd.testing.assert_frame_equal(table, measures.epoch_choice(runs))  # each run once, and the same halves at every call
    found = {key: part.set_index("rule")["value"].to_dict() for key, part in table.groupby(["protocol", "seed"])}
    assert {rule: found["paper", 0][rule] for rule in ("reported", "last")} == {"reported": 0.75, "last": 0.5}
    assert found["clean", 5]["third"] == 0.25 and "third" not in found["paper", 0] and len(table) == 7
    assert table["run"].tolist() == [runs[0].id] * 3 + [runs[1].id] * 4
    # Epoch 0 is right on two cells, epoch 1 on the other two: a third of the halves hold one kind, and then all is wrong.
    pair = measures.epoch_choice([epochs_run([[1, 1, 0, 0], [0, 0, 1, 1]], "paper", 0)]).set_index("rule")["value"]
    assert pair["halves"] == pytest.approx((1 / 3) * 0 + (2 / 3) * 0.5, abs=0.05)
    two = measures.epoch_choice([epochs_run([[1, 0], [0, 1]], "paper", 0)]).set_index("rule")["value"]
    assert two["halves"] == 0  # right on the cell that chose it alone
    one = measures.epoch_choice([epochs_run([[1, 1, 1, 1], [0, 0, 0, 0]], "paper", 0)], halves=3)
    assert one.set_index("rule")["value"].to_dict() == {"reported": 1, "last": 0, "halves": 1}
    # Three cells, one against two: (0 + ½ + ½) / 3 from one to two, nothing the other way.
    assert np.isclose(measures._halves(np.array([[True, False, False], [False, True, True]]), 300, 0), 1 / 6, atol=0.04)


def test_choosing_the_epoch_on_reported_cells_is_worth_what_was_simulated():
    """Epochs of equal true accuracy: the best looks better than the truth, each honest rule does not."""
    rng = np.random.default_rng(0)
    runs = [epochs_run(rng.random((10, 140)) < 0.8, "clean", 3, seed) for seed in range(60)]
    choice = measures.epoch_choice(runs, halves=20)
    mean = choice.groupby("rule")["value"].mean()
    best_of_ten = 0.8 + np.sqrt(0.16 / 140) * 1.539  # expected largest of ten standard normal values
    assert mean["reported"] == pytest.approx(best_of_ten, abs=0.008)
    assert np.allclose(mean[["halves", "last", "third"]], 0.8, atol=0.012)
    worth = measures.choice_worth(choice)
    assert worth["gain"].iloc[0] == pytest.approx(mean["reported"] - mean["third"]) and len(worth) == 1


def test_what_the_choice_adds_is_said():
    """Reported less the honest rule, in points, paired by training: 0.02 and 0.04 are 3.0 ± 12.706 · 1.0 points."""
    rows = [
        ("paper", s, rule, value)
        for s, values in enumerate(((0.82, 0.80, 0.70), (0.84, 0.80, 0.90)))
        for rule, value in zip(("reported", "halves", "last"), values)
    ]
    rows += [
        ("clean", s, rule, value)
        for s in (0, 1)
        for rule, value in (("reported", 0.9), ("third", 0.95), ("halves", 0), ("last", 0))
    ]
    choice = pd.DataFrame(rows, columns=["protocol", "seed", "rule", "value"])
    worth = measures.choice_worth(choice)
    assert worth[["protocol", "against", "n"]].to_numpy().tolist() == [
        ["paper", "halves", 2],
        ["paper", "last", 2],
        ["clean", "third", 2],
    ]
    assert worth["gain"].tolist() == pytest.approx([0.03, 0.03, -0.05])
    assert worth["half_width"].tolist() == pytest.approx([0.12706, 1.14356, 0], rel=1e-3, abs=1e-9)
    assert worth["sentence"].tolist() == [
        "Choosing the epoch on the reported cells instead of choosing on one half of the test cells and scoring on the other "
        "adds **3.0 points** of accuracy (95 % Student interval ± 12.7, 2 runs of protocol paper).",
        "Choosing the epoch on the reported cells instead of taking the last epoch adds **3.0 points** of accuracy "
        "(95 % Student interval ± 114.4, 2 runs of protocol paper).",
        "Choosing the epoch on the reported cells instead of choosing on a fifth of the labelled cells that is not reported "
        "adds **-5.0 points** of accuracy (95 % Student interval ± 0.0, 2 runs of protocol clean).",
    ]
    assert measures.choice_worth(choice[choice["protocol"] == "clean"])["against"].tolist() == ["third"]
    assert measures.choice_worth(choice[choice["protocol"] == "paper"])["against"].tolist() == ["halves", "last"]


def test_a_plateau_stands_beside_the_authors_rule():
    """Runs that end by a plateau have one accuracy; the authors' rule is compared with it by pre-training and seed."""
    ended = [right_on("full", right, seed, protocol="clean") for seed, right in enumerate(([1, 1, 1, 0], [1, 1, 0, 0]))]
    fixed = [epochs_run([[1, 1, 1, 1], [1, 0, 0, 0]], "paper", 0, seed) for seed in (0, 1, 2)]
    choice = measures.epoch_choice([*ended, *fixed])
    assert choice.query("rule == 'plateau'")["value"].tolist() == [0.75, 0.5]
    worth = measures.choice_worth(choice).set_index("against")
    assert worth.loc["plateau", ["gain", "n"]].tolist() == [pytest.approx(0.375), 2] and worth.loc["halves", "n"] == 3
    assert "instead of training to a plateau" in worth.loc["plateau", "sentence"]


def test_runs_of_pre_trainings_are_averaged_over_both_levels():
    """Three pre-trainings that differ, two seeds that do not: the interval of three values; without them Student's."""
    rows = [("full", p, s, "accuracy", value) for p, value in ((0, 0.7), (1, 0.8), (2, 0.9)) for s in (0, 1)]
    table = pd.DataFrame(rows, columns=["arm", "pretraining", "seed", "metric", "value"]).astype({"pretraining": "Int64"})
    mean, half = measures.mean_of_runs(table)
    assert mean == pytest.approx(0.8) and half == pytest.approx(intervals.confidence_interval([0.7, 0.8, 0.9])[1])
    alone = table.assign(pretraining=pd.NA)
    assert measures.mean_of_runs(alone) == intervals.confidence_interval(table["value"])


def test_a_guess_by_the_shares_is_nothing_learnt():
    """Where types do not weigh alike, the loss of knowing their shares alone is their entropy, less than ln(types)."""
    labels = np.array([0] * 8 + [1] * 2)
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))

    def flagged(loss, **spec):
        found = run("full", labels, labels, **spec)
        found.log = pd.DataFrame({"loss": [1.0, loss], "steps": [50, 100]})
        found.predictions["ended"] = np.array("plateau")
        return measures.flagged([found])

    for loss, spec, learnt in (
        (entropy, {"training": {"weighted": False}}, False),
        (entropy, {}, True),
        (0.9 * entropy, {}, True),
    ):
        assert flagged(loss, **spec) == ({} if learnt else {"full-0-0-1.0-paper": "learnt nothing"})
    assert flagged(0.9 * entropy, training={"weighted": False}) == {}


def test_naming_the_most_common_type_is_nothing_learnt():
    """Whatever the loss on trained cells; a type that was left out of training, which no run can name, does not count."""
    labels = np.array([0] * 40 + [1] * 30 + [2] * 30)

    def flagged(right, first=0, **spec):
        named = np.where((np.arange(100) - first) % 100 < right, labels, (labels + 1) % 3)
        found = run("full", labels, named, **spec)
        found.log = pd.DataFrame({"loss": [0.1], "steps": [50]})
        found.predictions["ended"] = np.array("plateau")
        return measures.flagged([found])

    assert [set(flagged(right).values()) for right in (7, 43)] == [{"learnt nothing"}] * 2
    assert flagged(44) == {} and flagged(100) == {}
    first = str(run("full", labels, labels).predictions["classes"][0])
    assert flagged(42, first=40) and not flagged(42, first=40, left_out=first)


def test_how_training_ended_is_said_arm_by_arm():
    """Steps, the rule that ended it, heads drawn again, and a loss that stayed at ln(classes); other models have no row."""

    def trained(arm, seed, losses, ended="plateau", redrawn=0, best=1):
        found = run(arm, [0, 1, 2], [0, 1, 2], seed)
        found.log = pd.DataFrame({"loss": losses, "steps": 50 * np.arange(1, len(losses) + 1)})
        found.predictions |= {"ended": np.array(ended), "redrawn": np.array(redrawn), "best_epoch": np.array(best)}
        return found

    guess = np.log(3)
    runs = [
        trained("full", 0, [guess, 0.5, 0.4, 0.4]),
        trained("full", 1, [guess, 1.06, 1.2], "maximum", redrawn=2, best=2),
        run("majority", [0, 1], [0, 0]),
        trained("no_gene2vec", 0, [guess, 1.0], "epochs"),
    ]
    table = measures.endings([*runs, runs[0]]).set_index("arm")
    assert list(table.index) == ["full", "no_gene2vec"]
    assert table.loc["full", ["runs", "steps", "heads drawn again", "learnt nothing"]].tolist() == [2, "150 to 200", 2, 1]
    assert table.loc["full", "ended"] == "plateau (1), maximum (1)" and table.loc["full", "best"] == "0.75"
    assert table.loc["no_gene2vec", ["runs", "steps", "ended", "learnt nothing"]].tolist() == [1, "100", "epochs (1)", 0]
    assert measures.flagged(runs) == {runs[1].id: "stopped at its maximum, learnt nothing"}
    thrown_back = trained("full", 2, [guess, 0.5, guess, guess])  # by new random features, and it stayed there
    assert measures.flagged([thrown_back]) == {thrown_back.id: "fell back to a guess"}
    assert measures.endings([thrown_back])[["learnt nothing", "fell back"]].values.tolist() == [[0, 1]]
    marked = measures.table(runs)
    assert set(marked.loc[marked["flagged"] != "", "run"]) == {runs[1].id}
    runs += [trained("no_pretraining", 1, [guess, 0.5])]
    questions = [("full", other, "accuracy", {}) for other in ("no_gene2vec", "no_pretraining")]
    assert differences.family(questions, runs)["n_flagged"].tolist() == [0, 1]  # the first is of seed 0 alone
    alike = [trained(arm, seed, [guess, 0.5]) for arm in ("full", "no_pretraining") for seed in (0, 2, 3)]
    family = differences.family(questions[1:], [run for run in runs if run.id != runs[0].id] + alike)
    assert family.loc[0, ["n_flagged", "n_seeds"]].tolist() == [1, 4]  # and the three that ended, which are all alike
    assert family.loc[0, "difference_ended"] == 0 and family.loc[0, "low_ended"] > -1
    assert "difference_ended" not in differences.family(questions, runs)  # too few would be left
    pretrained = trained("full", 0, [9.0, 8.0])
    del pretrained.predictions["labels"], pretrained.predictions["best_epoch"]
    assert measures.endings([pretrained])["learnt nothing"].tolist() == [0]
