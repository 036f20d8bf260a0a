"""Intervals and tests against scipy, closed forms, hand computations and simulation."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from lib.evaluate import intervals


def test_resamples_draw_as_many_cells_as_there_are():
    """The first row are the cells as they are; the others draw each cell once on average, and the same at every call."""
    drawn = intervals.resample(5, 4000)
    assert drawn.shape == (4001, 5) and (drawn[0] == 1).all() and (drawn.sum(1) == 5).all()
    assert np.allclose(drawn[1:].mean(0), 1, atol=0.05) and drawn[1:].min() == 0 and np.ptp(drawn[1:].var(0)) < 0.1
    assert np.array_equal(drawn, intervals.resample(5, 4000, 0)) and not np.array_equal(drawn, intervals.resample(5, 4000, 1))
    rng = np.random.default_rng(7)  # goes on where it was
    assert not np.array_equal(intervals.resample(5, 50, rng), intervals.resample(5, 50, rng))


def test_resamples_within_types_have_the_variance_of_strata():
    """A mean of cells drawn within types varies by s² / k of each, with s² of ddof 1; a single cell varies with others."""
    values, types = np.array([0.0, 1, 5, 7, 9, 3]), np.array([0, 0, 1, 1, 1, 2])
    drawn = intervals.resample(6, 40_000, types=types)
    assert (drawn[0] == 1).all() and np.allclose(drawn.sum(1), 6)
    assert np.allclose(drawn[:, types == 1].sum(1), 3), "three of them in every resample"
    pair = np.array([0.0, 1, 3])  # types 0 and 2, drawn together
    expected = (3 * pair.var(ddof=1) + 3 * np.array([5, 7, 9]).var(ddof=1)) / 36
    assert (drawn[1:] @ values / 6).var() == pytest.approx(expected, rel=0.03) and np.ptp(drawn[1:, 5]) > 0
    alone = intervals.resample(3, 50, types=np.array([4, 7, 9]))  # every type is a single cell: as if there were one type
    assert np.allclose(alone.sum(1), 3) and np.ptp(alone, 0).min() > 0
    assert (intervals.resample(1, 5, types=np.zeros(1, int)) == 1).all()


def test_the_luck_of_crossed_runs_by_hand():
    """Mean squares of a two-way layout as ordinary least squares has them; never less than one level alone."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, s = np.repeat(range(3), 5), np.tile(range(5), 3)
        y = rng.normal(size=3)[p] * 0.5 + rng.normal(size=5)[s] * 0.3 + rng.normal(size=15)
        table = pd.DataFrame({"p": p, "s": s, "y": y})
        anova = anova_lm(ols("y ~ C(p) + C(s)", table).fit())["mean_sq"]
        of_p, of_s, rest = anova["C(p)"], anova["C(s)"], anova["Residual"]
        variance, parts = intervals.over_runs(y, p, s)
        assert variance == pytest.approx(max(of_p + of_s - rest, of_p, of_s) / 15)
        assert parts == [(pytest.approx(ms / 15), df) for ms, df in ((of_p, 2), (of_s, 4), (rest, 8))]
        mean, half = intervals.two_levels(y, p, s)
        df = max(variance**2 / sum(part**2 / df for part, df in parts), 2)
        assert (mean, half) == (pytest.approx(y.mean()), pytest.approx(scipy_stats.t.ppf(0.975, df) * np.sqrt(variance)))


def test_tables_of_runs_that_are_not_full():
    """One level is Student's, and so are runs that share nothing; with a run missing it is wider than the full table says."""
    values = [0.7, 0.8, 0.95]
    student = intervals.confidence_interval(values)
    for p, s in (([None] * 3, [0, 1, 2]), ([4, 5, 6], [0, 0, 0]), ([4, 5, 6], [0, 1, 2])):
        assert intervals.two_levels(values, p, s) == pytest.approx(student)
    p, s = np.repeat(range(3), 4), np.tile(range(4), 3)
    y = np.random.default_rng(0).normal(size=12)
    full, (less, parts) = intervals.over_runs(y, p, s)[0], intervals.over_runs(y[1:], p[1:], s[1:])
    assert less > 0.8 * full and [df for _, df in parts] == [3, 2]
    assert np.isnan(intervals.over_runs([0.5], [0], [0])[0]) and np.isnan(intervals.two_levels([0.5], [None], [3])[1])
    assert intervals.two_levels([0.5, 0.5], [None, None], [0, 1]) == (0.5, 0)


def test_percentiles_leave_a_fortieth_on_each_side():
    assert intervals.percentiles(np.arange(1001)) == pytest.approx((25, 975))
    assert intervals.percentiles([np.nan, *range(41)]) == pytest.approx((1, 39))


def test_confidence_interval_is_students():
    """Mean and half width as scipy gives them, with the sample's standard deviation."""
    values = np.random.default_rng(0).normal(0.7, 0.05, 7)
    mean, half = intervals.confidence_interval(values, 0.9)
    low, high = scipy_stats.t.interval(0.9, 6, loc=values.mean(), scale=scipy_stats.sem(values))
    assert np.allclose([mean - half, mean + half], [low, high])
    assert intervals.confidence_interval([0.0, 1.0])[1] == pytest.approx(12.706 * np.sqrt(0.5) / np.sqrt(2), rel=1e-4)
    assert intervals.confidence_interval([0.5]) == (0.5, pytest.approx(np.nan, nan_ok=True))
    assert np.isnan(intervals.confidence_interval([])).all()


def test_effect_is_welchs():
    """Difference, interval and the larger of two one-sided p as scipy's Welch test gives them."""
    a, b = np.array([0.7, 0.75, 0.73]), np.array([0.6, 0.66, 0.64, 0.7])
    found = intervals.effect(a, b)
    interval = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert np.allclose([found["difference"], found["low"], found["high"]], [a.mean() - b.mean(), interval.low, interval.high])
    assert (found["n_first"], found["n_second"]) == (3, 4) and intervals.effect(b, a)["difference"] == -found["difference"]
    rng = np.random.default_rng(0)
    for shift in (0.002, -0.002):
        a, b = rng.normal(0.75, 0.01, 10), rng.normal(0.75 + shift, 0.02, 8)
        lower = scipy_stats.ttest_ind(a + 0.02, b, equal_var=False, alternative="greater").pvalue
        upper = scipy_stats.ttest_ind(a - 0.02, b, equal_var=False, alternative="less").pvalue
        assert intervals.effect(a, b)["p_equivalence"] == pytest.approx(max(lower, upper))


def test_effect_of_few_runs():
    """One run on a side: a difference without interval; none: not even that; no spread at all: a point."""
    one = intervals.effect([0.8], [0.5, 0.7])
    assert one["difference"] == pytest.approx(0.2) and np.isnan([one["low"], one["high"], one["p_equivalence"]]).all()
    assert (one["n_first"], one["n_second"]) == (1, 2) and np.isnan(intervals.effect([0.8, 0.9], [0.5])["low"])
    for sides in (([], [0.5]), ([0.5, 0.6], []), ([], [])):
        none = intervals.effect(*sides)
        assert np.isnan([none["difference"], none["low"], none["high"]]).all() and none["n_second"] == len(sides[1])
    flat = intervals.effect([0.8, 0.8], [0.5, 0.5])
    assert flat["difference"] == flat["low"] == flat["high"] == pytest.approx(0.3) and np.isnan(flat["p_equivalence"])
    with warnings.catch_warnings(action="error"):  # one flat side is no error
        half_flat = intervals.effect([0.811, 0.811, 0.811], [0.5, 0.6, 0.7])
    assert half_flat["low"] < 0.211 < half_flat["high"] and 0 < half_flat["p_equivalence"] < 1


def test_wilson_is_the_textbooks():
    """Wilson's interval in closed form, and never outside [0, 1]."""
    z, n, p = scipy_stats.norm.ppf(0.975), 140, 116 / 140
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert np.allclose(intervals.wilson(116, 140), [p, centre - half, centre + half])
    assert intervals.wilson(0, 5)[1] == pytest.approx(0, abs=1e-12) and intervals.wilson(5, 5)[2] == pytest.approx(1)


def test_corrected_t_is_nadeau_and_bengios():
    """Without test cells it is Student's one-sample t; with them, wider by the root of 1 + J · n_test / n_train."""
    values = np.random.default_rng(0).normal(0.02, 0.03, 20)
    plain = scipy_stats.ttest_1samp(values, 0)
    interval = plain.confidence_interval()
    found = intervals.corrected_t(values, 560, 0)
    assert np.allclose([found["low"], found["high"], found["p"]], [interval.low, interval.high, plain.pvalue])
    assert found["n_splits"] == 20 and found["difference"] == pytest.approx(values.mean())
    wide = intervals.corrected_t(values, 560, 140)
    ratio = (wide["high"] - wide["low"]) / (found["high"] - found["low"])
    assert ratio == pytest.approx(np.sqrt(1 + 20 * 140 / 560)) and wide["difference"] == found["difference"]
    turned = intervals.corrected_t(-values, 560, 140)
    assert (turned["p"], turned["low"]) == (pytest.approx(wide["p"]), pytest.approx(-wide["high"]))
    one = intervals.corrected_t(values[:1], 560, 140)
    assert np.isnan([one["low"], one["high"], one["p"]]).all() and (one["difference"], one["n_splits"]) == (values[0], 1)
    two = intervals.corrected_t([0.01, 0.03], 4, 1)
    assert two["low"] == pytest.approx(0.02 - 12.7062 * np.sqrt(0.0002 * 0.75), rel=1e-4)
    flat = intervals.corrected_t([0.0, 0.0], 560, 140)
    assert flat == {"difference": 0, "low": 0, "high": 0, "p": 1, "n_splits": 2}
    same = intervals.corrected_t([0.25, 0.25, 0.25], 560, 140)  # exact in binary: no spread at all
    assert same == {"difference": 0.25, "low": 0.25, "high": 0.25, "p": 0, "n_splits": 3}


def test_holm_in_closed_form():
    """Sorted p times what is left of the family, never decreasing, never above 1; nan do not count."""
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.5])
    found = intervals.holm(p)
    assert np.allclose(found[[1, 3, 0, 4]], [0.04, 0.09, 0.09, 0.5]) and np.isnan(found[2])
    assert np.isnan(intervals.holm([np.nan])).all() and intervals.holm([0.9, 0.8]).max() == 1
    assert intervals.holm([0.03]).tolist() == [0.03]


@pytest.mark.slow
def test_corrected_t_where_the_plain_one_fails(record_property, capsys):
    """Real classifiers on repeated splits of the same simulated cells, no true difference: the plain t is too sure.

    Both arms are the same learner on different, equally informative halves of the features, so neither is better.
    """
    from sklearn.naive_bayes import GaussianNB

    rng, n, splits = np.random.default_rng(0), 120, 15
    plain = corrected = 0
    for _ in range(n):
        y = rng.integers(0, 2, 200)
        x = rng.normal(size=(200, 8)) + 0.45 * y[:, None]
        values = []
        for _ in range(splits):
            order = rng.permutation(200)
            train, test = order[:160], order[160:]
            score = [
                GaussianNB().fit(x[train][:, part], y[train]).score(x[test][:, part], y[test])
                for part in (slice(0, 4), slice(4, 8))
            ]
            values.append(score[0] - score[1])
        plain += scipy_stats.ttest_1samp(values, 0).pvalue < 0.05
        corrected += intervals.corrected_t(values, 160, 40)["p"] < 0.05
    record_property("plain", float(plain / n))
    record_property("corrected", float(corrected / n))
    with capsys.disabled():
        print(f"\nfalse positives over splits: plain t {plain / n:.3f}, Nadeau–Bengio {corrected / n:.3f}")
    assert plain / n > 0.2 and corrected / n < 0.12


@pytest.mark.slow
def test_student_and_wilson_cover(record_property):
    """Coverage of the two intervals that have a closed form."""
    rng, n = np.random.default_rng(0), 4000
    values = rng.normal(0.8, 0.02, (n, 5))
    student = np.mean([abs(m - 0.8) <= h for m, h in map(intervals.confidence_interval, values)])
    counts = rng.binomial(140, 0.83, n)
    wilson = np.mean([low <= 0.83 <= high for _, low, high in (intervals.wilson(c, 140) for c in counts)])
    record_property("student", float(student))
    record_property("wilson", float(wilson))
    assert abs(student - 0.95) < 0.012 and abs(wilson - 0.95) < 0.015
