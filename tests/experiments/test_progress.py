"""One bar over all runs: work told from the runs that finished, a line in a log, and nothing of it in a kept notebook."""

import json
import re
import time
from collections import Counter

import pytest

from lib.experiments import progress, runs, specs

LONG, SHORT = ("pretraining", "own"), ("cell_types", "other")


def test_the_share_of_the_work_is_not_the_share_of_the_runs():
    """Nine of ten runs are done, but the one that is left is a pre-training: most is still to come."""
    share, left = progress.share_and_left(Counter({LONG: 1}), {SHORT: [0.3] * 9}, 2.7, 1)
    assert share < 0.01 and left == pytest.approx(804)


def test_short_runs_say_nothing_of_the_long_ones():
    """A logistic regression may take ten times what it took where the times are from; the pre-training need not."""
    assert progress.expected(LONG, {SHORT: [3.0] * 9}) == progress.expected(LONG, {})


def test_what_is_under_way_counts():
    """Two run side by side for 60 s, of which 20 s went into the finished one: the others had 100 s of their 2 × 70."""
    share, left = progress.share_and_left(Counter({("masked", "own"): 2}), {("masked", "own"): [70.0] * 1}, 85.0, 2)
    assert share == pytest.approx(170 / 210) and left == pytest.approx(20)


def test_an_estimate_never_says_that_all_is_done():
    """However long the last run takes beyond what was expected, a tenth of it is left."""
    share, left = progress.share_and_left(Counter({SHORT: 1}), {SHORT: [1.0]}, 1000.0, 1)
    assert share < 1 and left is None, "no second is promised that is not known"


def test_the_last_run_is_not_shared_by_idle_places():
    """Of two places one has nothing to do for 5 s: the run that is left is half done, and takes its other half alone."""
    kind = ("masked", "own")
    share, left = progress.share_and_left(Counter({kind: 1}), {kind: [10.0] * 3}, 20.0, 2, idle=5.0)
    assert share == pytest.approx(35 / 40) and left == pytest.approx(5.0)


def test_in_a_log_a_line_at_a_time_and_one_at_the_end(profile, monkeypatch, capsys, tmp_path):
    """Real runs: no line for each of them; what was computed stands in the journal, and the next call says what was stored."""
    monkeypatch.setenv("SCBERT_PROGRESS", "log")
    monkeypatch.setenv("SCBERT_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(progress, "EVERY", 0.05)
    wanted = specs.cell_types(profile, ["full", "majority"], [0.5], [0, 1])
    done = runs.complete(wanted)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Runs: 5 computed in 0:") and len([line for line in lines if "computed" in line]) == 1
    assert any(" of 5 done" in line and "% of the work" in line for line in lines) and not any("step" in line for line in lines)
    runs.complete(wanted)
    told = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    computed = {name for entry in told for name in entry.get("computed", [])}
    assert len(computed) == 5 and computed >= {run.id for run in done}
    assert set(told[-1]["stored"]) == {run.id for run in done}


def test_a_failure_leaves_the_settings_as_they_were(monkeypatch, capsys):
    """And says how many were computed."""
    monkeypatch.setenv("SCBERT_PROGRESS", "log")
    spec = {"task": "cell_types", "model": "majority"}
    with pytest.raises(ZeroDivisionError), progress.shown(dict.fromkeys("abc", spec), 1, True) as finished:
        assert progress.settings.progress() == "off"
        finished("a", spec, 0.1)
        raise ZeroDivisionError
    assert progress.settings.progress() == "log"
    assert capsys.readouterr().out.startswith("Runs: 1 of 3 computed in")


@pytest.mark.slow
def test_a_bar_of_text(monkeypatch, capfd):
    """It moves while nothing finishes, and is gone at the end."""
    monkeypatch.setenv("SCBERT_PROGRESS", "bar")
    spec = {"task": "cell_types", "model": "majority"}
    with progress.shown(dict.fromkeys("ab", spec), 1, True) as finished:
        finished("a", spec, 5.0)
        time.sleep(1.3)
    output, errors = capfd.readouterr()
    assert "1 of 2 done, about 0:0" in errors and errors.split("\r")[-1].strip() == "" and output.count("\n") == 1
    assert progress.without(errors + "\r" + output) == ""


@pytest.mark.slow
def test_a_place_that_waits_for_a_pre_training_does_no_work(monkeypatch, capfd):
    """Two places, one pre-training of 1.2 s, then two runs that begin with it: these are still to come, not overdue."""
    monkeypatch.setenv("SCBERT_PROGRESS", "log")
    monkeypatch.setattr(progress, "EVERY", 0.4)
    monkeypatch.setattr(progress, "TOOK", {("pretraining", "own"): 1.0, ("cell_types", "own"): 1.0})
    before = {"task": "pretraining", "model": "scBERT", "gene_embedding": "own"}
    runs = {"a": before} | dict.fromkeys("bc", before | {"task": "cell_types"})
    with progress.shown(runs, 2, True, {"b": {"a"}, "c": {"a"}}) as finished:
        time.sleep(1.2)
        finished("a", before, 1.2)
        time.sleep(0.1)
        capfd.readouterr()
        time.sleep(0.4)
    told = capfd.readouterr().out.splitlines()[0]
    assert "1 of 3 done, about 0:01 left" in told


def test_the_bar_never_goes_back(monkeypatch, capfd):
    """Two runs are done in no time, of a kind that was thought as long as the four to come, which then turn out to be long."""
    monkeypatch.setenv("SCBERT_PROGRESS", "log")
    monkeypatch.setattr(progress, "EVERY", 0.1)
    monkeypatch.setattr(progress, "TOOK", {("pretraining", "own"): 1.0, ("cell_types", "own"): 1.0})
    before = {"task": "pretraining", "model": "scBERT", "gene_embedding": "own"}
    after = before | {"task": "cell_types"}
    with progress.shown(dict.fromkeys("ab", before) | dict.fromkeys("cdef", after), 1, True) as finished:
        for name in "ab":
            finished(name, before, 2.0)
        time.sleep(0.25)
        finished("c", after, 60.0)
        time.sleep(0.25)
    said = capfd.readouterr().out
    shares = [int(share) for share in re.findall(r"(\d+)% of the work", said)]
    assert len(shares) >= 3 and shares == sorted(shares) and 0 < shares[-1] < 50
    assert "3 of 6 done, about 3:00 left" in said, "what is left is told anew"


def test_what_a_notebook_printed_itself_stays():
    text = (
        "Logistic regression's C: 0.1\n3 of 7 runs are stored already.\n4 runs, 2 at a time.\nfull:  12%|#  |\r\nMine: 81.1%\n"
    )
    assert progress.without(text) == "Logistic regression's C: 0.1\nMine: 81.1%\n"
