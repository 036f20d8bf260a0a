"""When training ends, by logs that are made up."""

from dataclasses import replace

import pytest

from lib.scbert import rules

PLATEAU = rules.Plateau(max_lr=0.1, every=3, patience=2, drops=1, factor=0.5, least=0.01, warmup=2, most=60)


def test_a_run_that_begins_late_is_waited_for():
    """At the loss of a guess no look counts; once it is left, on either cells, patience does. What never begins is given up."""

    def looks(rule, losses, trained=None):
        log = []
        for held_out, own in zip(losses, trained or [2.0] * len(losses)):
            if (rate := rule.rate(log)) is None:
                break
            log.append({"learning_rate": rate, "loss": own, "validation_loss": held_out})
        return [row["learning_rate"] for row in log], rule.ended(log)

    rule = replace(PLATEAU, guess=2.0, begin=12)
    late = [2.0, 2.01, 1.99, 2.0, 2.02, 1.95, 2.0, 1.0, 1.1, 1.1, 0.5, 0.6, 0.6, 0.6, 0.6]
    rates, ended = looks(rule, late)
    assert ended == "plateau" and len(rates) == 13, "two looks after 1.0, two after 0.5"
    assert rates[3:10] == pytest.approx([0.1] * 7) and rates[10:] == pytest.approx([0.05] * 3)
    assert len(looks(PLATEAU, late)[0]) < 7, "without a guess to be left, it ends before it has begun"
    assert looks(rule, [2.0] * 30) == (looks(rule, [2.0] * 12)[0], "maximum")
    rates, ended = looks(rule, [2.5] * 30, [2.0] * 3 + [1.0] * 27)  # learnt by heart: it has begun, and is no better elsewhere
    assert ended == "plateau" and len(rates) < 9


def test_what_is_not_learnt_by_heart_is_given_longer():
    """Where trained cells have less than half the loss, patience; else it may fall slowly below its noise, as here."""

    def looks(level, trained):
        log, rule = [], replace(PLATEAU, level=level, most=90)
        for loss in [3, 2, 1, 1.01, 1.0, 0.995, 0.98, 1.0, 0.99, 0.96, 0.97, 0.5] + [0.5] * 20:
            if (rate := rule.rate(log)) is None:
                break
            log.append({"learning_rate": rate, "validation_loss": loss, "loss": trained * loss})
        return len(log), rule.ended(log)

    assert looks(5, 0.6) == (22, "plateau"), "twice five looks after 0.5"
    assert looks(5, 0.4) == looks(0, 0.4) == looks(0, 0.6) and looks(5, 0.4)[0] < 12, "with patience it ends before 0.5"


def test_looks_in_which_a_loss_recovers_from_a_redraw_do_not_count():
    """New random features throw the loss back: what was waited before is not forgotten, but while it falls again none is."""

    def looks(losses, redrawn):
        log = []
        for k, loss in enumerate(losses):
            if (rate := PLATEAU.rate(log)) is None:
                break
            log.append({"learning_rate": rate, "validation_loss": loss, "redrawn": int(k in redrawn)})
        return [row["learning_rate"] for row in log], PLATEAU.best(log)

    losses = [3, 2, 1, 2, 1.8, 1.6, 1.4, 1.2, 1.2, 1.2, 1.2, 1.2]
    rates, best = looks(losses, {3})  # 2.0 after the redraw, and lower from look to look: the rate falls after two flat ones
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3] + [0.1] * 8 + [0.05] * 2) and best == 2
    assert len(looks(losses, set())[0]) == 7, "without a redraw, four looks without a new low end it"
    assert len(looks(losses, {3, 9})[0]) == 12 and looks(losses, {3, 9})[0][10] == 0.1, "the look of a redraw does not count"
    assert len(looks([3, 2, 1] + [1.5, 1.5] * 9, set(range(3, 21, 2)))[0]) == 11, "draw after draw without a new low is the end"


def test_weights_are_kept_by_accuracy_where_there_is_one():
    """The most accurate look wins, of equals that with the lower loss; the end goes by the loss alone."""
    looks = [(0.5, 1.0), (0.9, 3.0), (0.9, 2.0), (0.8, 0.5), (0.9, 2.0)]
    assert PLATEAU.best([{"accuracy": accuracy, "validation_loss": loss} for accuracy, loss in looks]) == 2
    assert PLATEAU.best([{"validation_loss": loss} for _, loss in looks]) == 3
