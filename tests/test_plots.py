"""What a reader sees: every panel drawn from a hand-made table, and read back from what was drawn."""

import itertools

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb

from lib import plots
from lib.arms import ARMS, CONTROLS, FACTORIAL, colour, factors, label
from lib.evaluate import intervals

BLUE, ORANGE = colour("logistic_regression").lower(), colour("full").lower()
PROFILE = {"name": "hand", "adata": np.zeros((1700, 765)), "data": {"dataset": "pbmc68k_reduced"}}


@pytest.fixture(autouse=True)
def ax():
    """An empty panel in the style of all figures."""
    with mpl.rc_context():
        plots.style()
        yield plt.subplots()[1]
        plt.close("all")


def table(*rows, columns="arm metric value"):
    return pd.DataFrame(rows, columns=columns.split())


def marks(ax):
    """Every point drawn: place, ``circle`` or ``diamond``, its colour, and whether it is filled with it or hollow."""
    rows = []
    for drawn in (c for c in ax.collections if isinstance(c, PathCollection)):
        places = drawn.get_offsets().tolist()
        shape = "circle" if len(drawn.get_paths()[0].vertices) > 10 else "diamond"
        edges, faces = (np.resize(c, (len(places), 4)) for c in (drawn.get_edgecolors(), drawn.get_facecolors()))
        for (x, y), edge, face in zip(places, edges, faces):
            filled = "hollow" if to_hex(face) == "#ffffff" or face[3] == 0 else to_hex(face) == to_hex(edge)
            rows.append((x, y, shape, to_hex(edge), {True: "filled", False: "two colours"}.get(filled, filled)))
    return table(*rows, columns="x y shape colour fill")


def lines(ax, marker=("_", "|")):
    """Points of every line with one of these markers (``None``: without): x, y, colour; the marks of means, by default."""
    rows = []
    for line in ax.lines:
        if line.get_marker() in marker:
            rows += [(x, y, to_hex(line.get_color())) for x, y in line.get_xydata() if np.isfinite([x, y]).all()]
    return table(*rows, columns="x y colour")


def upright(ax):
    """The intervals that seaborn drew, straight up at one place: x, low, high, colour."""
    found = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    found = [(line.get_xdata(), line.get_ydata(), to_hex(line.get_color())) for line in found]
    return [(x[0], *y, c) for x, y, c in found if x[0] == x[1] and np.isfinite(y).all()]


def segments(ax):
    """The intervals of ``estimates``: both ends and the colour."""
    return [
        (*np.ravel(ends), to_hex(shade))
        for drawn in ax.collections
        if isinstance(drawn, LineCollection)
        for ends, shade in zip(drawn.get_segments(), np.resize(drawn.get_colors(), (len(drawn.get_segments()), 4)))
        if len(ends)  # one without ends is not drawn
    ]


def nearest(axis, places):
    """The label of the tick that is nearest to each place."""
    at, names = axis.get_ticklocs(), [text.get_text() for text in axis.get_ticklabels()]
    return [names[int(np.argmin(np.abs(at - place)))] for place in places]


def named(ax):
    """The figure's legend: for each text its colour, marker, fill and line."""
    (legend,) = ax.figure.legends
    assert legend._outside_loc == "upper", "it would hide what is drawn"
    found = {}
    for handle, text in zip(legend.legend_handles, legend.get_texts()):
        face = to_hex(handle.get_markerfacecolor())
        found[text.get_text()] = (to_hex(handle.get_color()), handle.get_marker(), face, handle.get_linestyle())
    return found


INK_MARKS = {
    "o": (plots.INK, "o", plots.INK, "None"),
    "D": (plots.INK, "D", "#ffffff", "None"),
    "_": (plots.INK, "_", plots.INK, "-"),
}


def arm_line(name):
    return label(name), (colour(name).lower(), "None", colour(name).lower(), "-")


def test_compare_draws_ours_as_filled_circles_and_the_papers_as_hollow_diamonds(ax):
    """Values, colours, group and side of every run; mean and Student's interval of each group; the other metric elsewhere."""
    ours = [("full", "accuracy", value) for value in (0.5, 0.7, 0.6)] + [("logistic_regression", "accuracy", 0.8)]
    ours += [("majority", "accuracy", 0.05), ("full", "macro_f1_hard_pair", 0.11)]
    paper = [("full", "accuracy", value) for value in (0.60, 0.64, 0.62)] + [("logistic_regression", "accuracy", 0.9)]
    other = plt.subplots()[1]
    plots.compare([ax, other], table(*ours), table(*paper), ["accuracy", "macro_f1_hard_pair"], ["full", "logistic_regression"])
    drawn = marks(ax)
    drawn["group"] = nearest(ax.xaxis, drawn["x"])
    assert sorted(drawn[["group", "shape", "y", "colour", "fill"]].itertuples(index=False, name=None)) == [
        ("Logistic\nregression (L1)", "circle", 0.8, BLUE, "filled"),
        ("Logistic\nregression (L1)", "diamond", 0.9, BLUE, "hollow"),
        ("scBERT", "circle", 0.5, ORANGE, "filled"),
        ("scBERT", "circle", 0.6, ORANGE, "filled"),
        ("scBERT", "circle", 0.7, ORANGE, "filled"),
        ("scBERT", "diamond", 0.6, ORANGE, "hollow"),
        ("scBERT", "diamond", 0.62, ORANGE, "hollow"),
        ("scBERT", "diamond", 0.64, ORANGE, "hollow"),
    ]
    of_scbert = drawn[drawn["group"] == "scBERT"]
    mean = lines(ax).assign(group=lambda t: nearest(ax.xaxis, t["x"])).sort_values("x")
    assert mean["group"].tolist() == ["scBERT"] * 2, "a single run is a point alone"
    assert mean["y"].tolist() == pytest.approx([0.6, 0.62])
    assert mean["colour"].tolist() == [ORANGE, ORANGE]
    circles, diamonds = (of_scbert.loc[of_scbert["shape"] == shape, "x"] for shape in ("circle", "diamond"))
    first, second = mean["x"][:2]
    assert circles.max() < first < diamonds.min() and diamonds.max() < second, "each mean stands right of its own runs"
    # Student's quantile of two degrees of freedom: 4.3027.
    found = sorted(upright(ax))
    assert [x for x, *_ in found] == pytest.approx([first, second])
    assert found[0][1:3] == pytest.approx((0.6 - 4.3027 * 0.1 / 3**0.5, 0.6 + 4.3027 * 0.1 / 3**0.5), abs=1e-5)
    assert found[1][1:3] == pytest.approx((0.62 - 4.3027 * 0.02 / 3**0.5, 0.62 + 4.3027 * 0.02 / 3**0.5), abs=1e-6)
    assert {shade for *_, shade in found} == {ORANGE}
    assert ax.get_ylim() == (0, 1) and ax.get_title("left") == "Accuracy"
    low, high = ax.get_xlim()
    assert -1 < low < circles.min() and 2 > high > drawn["x"].max(), "something is cut off"
    third = plt.subplots()[1]
    plots.compare([third], table(*ours), table(*paper), ["accuracy"], ["no_pretraining"])
    assert [text.get_text() for text in third.get_xticklabels()] == ["scBERT,\nnot pre-trained"] and marks(third).empty
    assert marks(other)["y"].tolist() == [0.11] and other.get_title("left") == "Macro-F1, hard pair"
    assert named(other) == {
        "ours, each run": INK_MARKS["o"],
        "the paper, each run": INK_MARKS["D"],
        "mean, 95 % Student interval": INK_MARKS["_"],
    }


def test_equal_runs_stand_beside_each_other_and_a_rerun_draws_the_same(ax):
    """Five equal values are five points in an even row around their place; drawn again, at the same places."""
    rows = table(*[("full", "accuracy", 0.5)] * 5)
    plots.runs(ax, rows, [3] * 5)
    assert marks(ax)["x"].tolist() == pytest.approx([2.9, 2.95, 3.0, 3.05, 3.1])
    again = plt.subplots()[1]
    plots.runs(again, rows, [3] * 5)
    assert marks(again).equals(marks(ax))
    alone = plt.subplots()[1]
    plots.runs(alone, rows[:1], [3], orient="y", beside=0)
    assert marks(alone)[["x", "y"]].to_numpy().tolist() == [[0.5, 3]]
    plots.runs(alone, rows[:2], [7, 7], orient="y", beside=0.25)
    assert marks(alone)["y"].tolist()[1:] == pytest.approx([6.9, 7.1])
    assert lines(alone).empty, "of fewer than three runs the points say all"
    plots.runs(alone, rows[:3], [9] * 3, orient="y", beside=0.25)
    assert lines(alone)[["x", "y"]].to_numpy().tolist() == [[0.5, 9.25]] and alone.lines[0].get_marker() == "|"
    plots.runs(alone, rows[:1], [11], orient="y", beside=0, errorbar=None)
    assert [0.5, 11] in lines(alone)[["x", "y"]].to_numpy().tolist(), "means alone are asked for by name"


def test_runs_that_did_not_end_well_are_crosses_and_said_to_be(ax):
    """Marked as in the tables, by ``flagged``; a legend has them where there are any."""
    rows = table(*[("full", "accuracy", value) for value in (0.5, 0.2, 0.6)]).assign(flagged=["", "learnt nothing", None])
    plots.compare([ax], rows, rows[:0], ["accuracy"], ["full"])
    clouds = [drawn for drawn in ax.collections if isinstance(drawn, PathCollection)]
    at = {len(drawn.get_paths()[0].vertices): drawn.get_offsets()[:, 1].tolist() for drawn in clouds}
    assert sorted(at.values()) == [[0.2], [0.5, 0.6]] and len(at) == 2, "another shape"
    assert named(ax)["learnt nothing, fell back, or not ended"][1] == "X"
    other = plt.subplots()[1]
    plots.compare([other], rows[:1], rows[:0], ["accuracy"], ["full"])
    assert "learnt nothing, fell back, or not ended" not in named(other)


def test_epoch_rules_stand_in_order_with_their_means(ax):
    """Each rule over its own name, the runs' values, the mean as a bar and in print; what is no rule of ours is left out."""
    keys = [("clean", "third"), ("paper", "last"), ("paper", "reported"), ("clean", "reported"), ("paper", "halves")]
    rows = [(*key, 0.1 * k + run) for k, key in enumerate(keys) for run in (0.0, 0.05)]
    rows += [("clean", "last", 0.99)]
    plots.epoch_rules(ax, table(*rows, columns="protocol rule value"))
    drawn = marks(ax).assign(rule=lambda t: nearest(ax.xaxis, t["x"]))
    expected = {
        "chosen on the\nreported cells\n(the paper)": [0.2, 0.25],
        "chosen on one half,\nscored on the other": [0.4, 0.45],
        "last epoch": [0.1, 0.15],
        "trained on 4/5,\nchosen on the\nreported cells": [0.3, 0.35],
        "trained on 4/5,\nchosen on the\nlast fifth (clean)": [0.0, 0.05],
    }
    assert drawn.groupby("rule")["y"].apply(sorted).to_dict() == {k: pytest.approx(v) for k, v in expected.items()}
    assert [text.get_text() for text in ax.get_xticklabels()] == list(expected)
    assert set(drawn["colour"]) == {ORANGE} and set(drawn["shape"] + drawn["fill"]) == {"circlefilled"}
    mean = lines(ax).sort_values("x")
    assert mean["x"].tolist() == [0, 1, 2, 3, 4] and set(mean["colour"]) == {plots.INK}
    assert mean["y"].tolist() == pytest.approx([0.225, 0.425, 0.125, 0.325, 0.025])
    said = {text.get_text(): text.xy for text in ax.texts}
    assert list(said) == [f"{y:.3f}" for y in mean["y"]]
    assert all(x < at < x + 0.5 and y == pytest.approx(float(text)) for x, (text, (at, y)) in enumerate(said.items()))
    (divide,) = (line.get_xdata() for line in ax.lines if line.get_linestyle() == ":")
    assert list(divide) == [2.5, 2.5], "the paper's protocol left, clean right"
    assert upright(ax) == [] and -1 < ax.get_xlim()[0] < 0 and 4.5 < ax.get_xlim()[1] < 5
    assert ax.get_title("left") == "scBERT's accuracy, by how its weights are chosen (bars: means)"


def test_a_plateau_stands_right_of_the_authors_rules(ax):
    """Where protocol clean ends by a plateau: its runs under its own name; rules that no run has leave no gap."""
    keys = [("paper", "reported"), ("paper", "halves"), ("paper", "last"), ("clean", "plateau")]
    rows = [(*key, 0.5 + 0.1 * k + run) for k, key in enumerate(keys) for run in (0.0, 0.04)]
    plots.epoch_rules(ax, table(*rows, columns="protocol rule value"))
    assert [text.get_text() for text in ax.get_xticklabels()][-1] == "trained on 4/5\nto a plateau on the\nlast fifth (clean)"
    assert len(ax.get_xticklabels()) == 4 and lines(ax)["y"].tolist() == pytest.approx([0.52, 0.62, 0.72, 0.82])
    last = marks(ax).assign(rule=lambda t: nearest(ax.xaxis, t["x"])).query("rule.str.contains('plateau')")
    assert last["y"].tolist() == pytest.approx([0.8, 0.84])
    (divide,) = (line.get_xdata() for line in ax.lines if line.get_linestyle() == ":")
    assert list(divide) == [2.5, 2.5]


def test_recall_names_the_right_type(ax):
    """A row a type in the order given, with its cells; ours filled with their mean, the paper's one hollow."""
    rows = [("full", "recall[B]", 0.2), ("full", "recall[B]", 0.6), ("logistic_regression", "recall[B]", 0.9)]
    rows += [("full", "recall[T]", 0.3), ("majority", "recall[B]", 0.0), ("full", "accuracy", 0.55), ("full", "recall[X]", 0.7)]
    paper = [("logistic_regression", "recall[T]", 0.8), ("full", "accuracy", 0.1)]
    plots.recall(ax, table(*rows), table(*paper), pd.Series({"B": 40, "T": 7}), ["logistic_regression", "full"])
    drawn = marks(ax).assign(row=lambda t: nearest(ax.yaxis, t["y"])).sort_values(["row", "x"])
    assert drawn[["row", "x", "colour", "shape", "fill"]].to_numpy().tolist() == [
        ["B (40)", 0.2, ORANGE, "circle", "filled"],
        ["B (40)", 0.6, ORANGE, "circle", "filled"],
        ["B (40)", 0.9, BLUE, "circle", "filled"],
        ["T (7)", 0.3, ORANGE, "circle", "filled"],
        ["T (7)", 0.8, BLUE, "diamond", "hollow"],
    ]
    mean = {(round(x, 9), colour): nearest(ax.yaxis, [y])[0] for x, y, colour in lines(ax).itertuples(index=False)}
    assert mean == {(0.4, ORANGE): "B (40)", (0.9, BLUE): "B (40)", (0.3, ORANGE): "T (7)"}, "ours have a bar, the paper's none"
    assert len(ax.lines) == 2, "one line of means an arm, no intervals"
    centre = drawn[drawn["colour"] == ORANGE].groupby("row")["y"].mean().sort_values().tolist()
    assert centre == pytest.approx(lines(ax).query("colour == @ORANGE")["y"].tolist())
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first type on top"
    blue, orange = (drawn.loc[(drawn["row"] == "B (40)") & (drawn["colour"] == shade), "y"] for shade in (BLUE, ORANGE))
    assert blue.max() < orange.min(), "the first arm above"
    assert ax.get_xlabel() == "Recall" and ax.get_xlim()[0] < 0 and ax.get_xlim()[1] > 1
    assert named(ax) == dict([arm_line("logistic_regression"), arm_line("full")]) | {
        "ours, each run": INK_MARKS["o"],
        "their mean": INK_MARKS["_"],
        "the paper": INK_MARKS["D"],
    }


def test_dots_put_the_best_on_top_and_each_value_at_its_name(ax):
    """Rows in the order of the first metric in both panels; interval ends, printed values, titles."""
    rows = table(
        ("full", "accuracy", 0.5, 0.4, 0.7),
        ("majority", "accuracy", 0.3, 0.25, 0.35),
        ("pca", "accuracy", 0.9, 0.8, 0.95),
        ("full", "ari", 0.2, 0.1, 0.3),
        ("majority", "ari", 0.6, 0.5, 0.7),
        ("pca", "ari", 0.1, 0.0, 0.15),
        ("pca", "silhouette", 0.4, 0.4, 0.4),
        columns="arm metric value low high",
    )
    other = plt.subplots()[1]
    plots.dots([ax, other], rows, {"accuracy": "How often", "ari": "How alike"})
    for panel, metric, title in ((ax, "accuracy", "How often"), (other, "ari", "How alike")):
        expected = rows[rows["metric"] == metric].set_index("arm").loc[["pca", "full", "majority"]]
        assert [text.get_text() for text in panel.get_yticklabels()] == [label(arm) for arm in expected.index]
        shades = [colour(arm).lower() for arm in expected.index]
        drawn = marks(panel)
        assert drawn["y"].tolist() == [0, 1, 2] and drawn["x"].tolist() == expected["value"].tolist()
        assert drawn["colour"].tolist() == shades and set(drawn["shape"] + drawn["fill"]) == {"circlefilled"}
        assert segments(panel) == [(e.low, y, e.high, y, s) for y, (e, s) in enumerate(zip(expected.itertuples(), shades))]
        assert [(t.get_text(), t.xy) for t in panel.texts] == [(f"{v:.3f}", (v, y)) for y, v in enumerate(expected["value"])]
        assert all(t.anncoords == "offset points" and t.get_ha() == "center" and t.get_position()[1] > 0 for t in panel.texts)
        assert 3 > panel.get_ylim()[0] > 2 and -1 < panel.get_ylim()[1] < 0, "row 0 is on top, none cut off"
        assert panel.get_title("left") == title
        assert panel.get_xlim()[0] < expected["low"].min() and panel.get_xlim()[1] > expected["high"].max()


def test_estimates_without_an_interval_are_points_alone(ax):
    """No ends: a point and no line. Upright: places are columns, ends heights. The paper's are hollow diamonds."""
    rows = table(("full", 1.0, np.nan, np.nan), ("pca", 2.0, 1.5, 3.0), columns="arm effect a b")
    plots.estimates(ax, rows, [5, 6], "effect a b", "paper", orient="x")
    assert marks(ax)[["x", "y", "shape", "fill"]].to_numpy().tolist() == [
        [5, 1, "diamond", "hollow"],
        [6, 2, "diamond", "hollow"],
    ]
    assert segments(ax) == [(6, 1.5, 6, 3, colour("pca").lower())]


def test_factorial_draws_every_arm_in_its_panel_and_column(ax):
    """Twelve arms by their factors: panel, column, shade of the embedding, mean; rings on the paper's arms alone."""
    rows = table(*[(arm, "accuracy", 0.05 * k + run) for k, arm in enumerate(FACTORIAL) for run in (0.0, 0.02)])
    marked, axes = ["full", "no_pretraining", "no_gene2vec"], [ax, plt.subplots()[1]]
    plots.factorial(axes, rows, marked)
    shades = {"own": ORANGE, "random": colour("random_vectors").lower(), None: colour("no_gene2vec").lower()}
    means = rows.groupby("arm")["value"].mean()
    ringed = []
    for panel, trained in zip(axes, ("last_block", "all")):
        expected = []
        for arm in FACTORIAL:
            pretrained, of, embedding = factors(arm)
            if of == trained:
                expected.append((shades[embedding], "pre-trained" if pretrained else "random weights", round(means[arm], 9)))
        line = lines(panel)
        found = zip(line["colour"], nearest(panel.xaxis, line["x"]), line["y"].round(9))
        assert sorted(found) == sorted(expected)
        points = marks(panel)
        dots = points[points["colour"] != plots.INK]
        found = zip(dots["colour"], nearest(panel.xaxis, dots["x"]), dots["y"].round(9))
        assert sorted(found) == sorted((s, c, round(y + d, 9)) for s, c, y in expected for d in (-0.01, 0.01))
        assert line.groupby("colour")["x"].agg(lambda x: x.max() - x.min()).tolist() == pytest.approx([1, 1, 1])
        assert list(dict.fromkeys(line.sort_values("x")["colour"])) == list(shades.values()), "beside each other, in this order"
        assert sorted(dots["x"].groupby(dots.index // 2).mean().round(6)) == sorted(line["x"].round(6)) and upright(panel) == []
        connected = [drawn for drawn in panel.lines if drawn.get_marker() == "_"]
        assert all(drawn.get_linestyle() == "-" and np.isfinite(drawn.get_ydata()).sum() == 2 for drawn in connected)
        ringed += points.loc[points["colour"] == plots.INK, ["x", "y", "fill"]].to_numpy().tolist()
        assert -1 < panel.get_xlim()[0] < dots["x"].min() and 2 > panel.get_xlim()[1] > dots["x"].max()
        assert [text.get_text() for text in panel.get_xticklabels()] == ["pre-trained", "random weights"]
    at = {0: 0, 1: 1, 2: 0}  # the three arms' columns
    assert sorted(y for _, y, _ in ringed) == pytest.approx(sorted(means[marked]))
    assert all(fill == "hollow" for *_, fill in ringed) and sorted(round(x) for x, *_ in ringed) == sorted(at.values())
    assert [panel.get_title("left") for panel in axes] == ["Last block fine-tuned (the paper)", "All blocks fine-tuned"]
    told = named(axes[1])
    symbols = {"ours, each run": "o", "mean": "_", "the paper's arms": "o"}
    assert {name: told.pop(name)[1] for name in symbols} == symbols
    assert told == dict(map(arm_line, ["full", "random_vectors", "no_gene2vec"]))


def test_a_legend_promises_means_where_they_are_drawn():
    """Three runs at one place have a mean with an interval, two have not; as the points are drawn."""
    rows = [("full", "accuracy", fraction, value) for fraction in (0.1, 1.0) for value in (0.5, 0.6)]
    by = ["arm", "metric", "fraction"]
    two = table(*rows, columns="arm metric fraction value")
    three = table(*rows, ("full", "accuracy", 1.0, 0.7), columns="arm metric fraction value")
    assert plots.means(two, by) == {} and list(plots.means(three, by)) == ["mean"]


def test_curves_go_through_the_means_of_each_fraction(ax):
    """Runs at their fraction, a line through the means in order, Student's intervals, ticks as shares of the labels."""
    columns = "arm fraction metric value"
    rows = [("full", 0.5, "accuracy", 0.7)] * 3 + [("full", 0.1, "accuracy", value) for value in (0.4, 0.6, 0.5)]
    rows += [("logistic_regression", share, "accuracy", value) for share, value in ((1.0, 0.9), (0.1, 0.8)) for _ in range(3)]
    rows += [("full", 0.1, "macro_f1", 0.05), ("majority", 0.1, "accuracy", 0.06)]
    plots.curves(ax, table(*rows, columns=columns), "accuracy", ["logistic_regression", "full"])
    drawn = marks(ax).assign(share=lambda t: nearest(ax.xaxis, t["x"]))
    assert sorted(drawn[["share", "y", "colour", "shape"]].drop_duplicates().to_numpy().tolist()) == [
        ["10 %", 0.4, ORANGE, "circle"],
        ["10 %", 0.5, ORANGE, "circle"],
        ["10 %", 0.6, ORANGE, "circle"],
        ["10 %", 0.8, BLUE, "circle"],
        ["100 %", 0.9, BLUE, "circle"],
        ["50 %", 0.7, ORANGE, "circle"],
    ]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10 %", "50 %", "100 %"]
    assert ax.get_xticks().tolist() == [0.1, 0.5, 1.0]
    assert (drawn["x"] - drawn["share"].str.rstrip(" %").astype(float) / 100).abs().max() < 0.025
    assert set(drawn.groupby("colour")["x"].nunique()) == {6}, "the runs of an arm at one fraction stand beside each other"
    paths = {
        to_hex(line.get_color()): line for line in ax.lines if len(line.get_xdata()) == 2 and len(set(line.get_xdata())) != 1
    }
    assert {shade: line.get_ydata().tolist() for shade, line in paths.items()} == {
        BLUE: pytest.approx([0.8, 0.9]),
        ORANGE: pytest.approx([0.5, 0.7]),
    }
    for shade, line in paths.items():
        own = drawn[drawn["colour"] == shade]
        assert line.get_linestyle() == "-" and set(line.get_xdata().round(6)) <= set(own["x"].round(6))
    assert drawn.query("share == '10 %'").sort_values("x")["colour"].tolist() == [BLUE] * 3 + [ORANGE] * 3, (
        "in the order of the arms"
    )
    ((x, low, high, shade),) = [found for found in upright(ax) if found[2] - found[1] > 1e-6]
    assert shade == ORANGE and nearest(ax.xaxis, [x]) == ["10 %"]
    assert (low, high) == pytest.approx((0.5 - 4.3027 * 0.1 / 3**0.5, 0.5 + 4.3027 * 0.1 / 3**0.5), abs=1e-5)
    assert (ax.get_title("left"), ax.get_xlabel()) == ("Accuracy", "Share of the training cells with labels")
    assert ax.get_ylim() == (0, 1)
    theirs = plt.subplots()[1]
    plots.curves(theirs, table(*rows, columns=columns), "macro_f1", ["full"], "paper")
    assert marks(theirs)[["y", "shape", "fill"]].to_numpy().tolist() == [[0.05, "diamond", "hollow"]]


def test_reliability_has_confidence_across_and_accuracy_up(ax):
    """A line an arm in its colour, points whose area goes with their share of the arm's answers, the diagonal dotted."""
    rows = [("full", 0.3, 0.2, 10), ("full", 0.9, 0.6, 30), ("logistic_regression", 0.8, 0.95, 5)]
    plots.reliability(ax, table(*rows, columns="arm confidence accuracy answers"))
    assert marks(ax)[["x", "y"]].to_numpy().tolist() == [[0.3, 0.2], [0.9, 0.6], [0.8, 0.95]]
    (cloud,) = (drawn for drawn in ax.collections if isinstance(drawn, PathCollection))
    assert [to_hex(face) for face in cloud.get_facecolors()] == [ORANGE, ORANGE, BLUE]
    assert cloud.get_sizes().tolist() == pytest.approx([8 + 152 * share for share in (0.25, 0.75, 1)])
    drawn = {to_hex(line.get_color()): line for line in ax.lines}
    assert drawn[ORANGE].get_xydata().tolist() == [[0.3, 0.2], [0.9, 0.6]]
    assert drawn[plots.INK].get_xydata().tolist() == [[0, 0], [1, 1]] and drawn[plots.INK].get_linestyle() == ":"
    assert ax.get_xlabel() == "Confidence: probability of the answer given" and ax.get_ylabel() == "Share of right answers"
    assert ax.get_xlim() == ax.get_ylim() and ax.get_xlim()[0] == 0 and 1 < ax.get_xlim()[1] < 1.1
    found = named(ax)
    assert dict(list(found.items())[:2]) == dict(map(arm_line, ["full", "logistic_regression"]))
    assert found["calibrated"][3] == ":" and len(found) == 3 and ax.get_legend() is None


def test_unknown_has_a_row_a_type_in_the_order_of_the_table(ax):
    """Area and DeLong's ends at the type's row, arms beside each other in their order; the coin's line at a half."""
    rows = [("logistic_regression", "T", 9, 0.8, 0.7, 0.85), ("full", "T", 9, 0.4, 0.3, 0.5), ("full", "B", 4, 0.6, 0.2, 0.9)]
    plots.unknown(ax, table(*rows, columns="arm left_out cells auc low high"))
    drawn = marks(ax).assign(row=lambda t: nearest(ax.yaxis, t["y"]))
    assert drawn[["row", "x", "colour"]].to_numpy().tolist() == [
        ["T (9)", 0.8, BLUE],
        ["T (9)", 0.4, ORANGE],
        ["B (4)", 0.6, ORANGE],
    ]
    assert drawn["y"].tolist() == pytest.approx([-0.085, 0.085, 1.085])
    ends = [(low, high, shade) for low, _, high, _, shade in segments(ax)]
    assert ends == [(0.7, 0.85, BLUE), (0.3, 0.5, ORANGE), (0.2, 0.9, ORANGE)]
    assert [s[1] for s in segments(ax)] == drawn["y"].tolist()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["T (9)", "B (4)"] and ax.get_ylim()[0] > ax.get_ylim()[1]
    (coin,) = ax.lines
    assert list(coin.get_xdata()) == [0.5, 0.5] and coin.get_linestyle() == ":"
    assert ax.get_xlim()[0] == 0 and 1 < ax.get_xlim()[1] < 1.1
    assert ax.get_xlabel() == "Area under the ROC curve (0.5: chance), 95 % DeLong interval"
    assert named(ax) == dict(map(arm_line, ["logistic_regression", "full"]))


def test_confusion_sums_to_one_along_true_types(ax):
    """Rows are true types: four B, of which one is called T and two are called NK; one T, rightly; no NK, no CD34."""
    other, classes = plt.subplots()[1], np.array(["B", "CD34", "NK", "T"])
    share = plots.confusion(ax, np.array([0, 0, 0, 0, 3]), np.array([0, 3, 2, 2, 3]), classes, "full")
    expected = [[0.25, 0, 0.5, 0.25], [0] * 4, [0] * 4, [0, 0, 0, 1]]
    assert share.tolist() == expected
    (mesh,) = ax.collections
    assert mesh.get_array().reshape(4, 4).tolist() == expected
    said = {(round(text.get_position()[1] - 0.5), round(text.get_position()[0] - 0.5)): text for text in ax.texts}
    text = [[said[i, j].get_text() for j in range(4)] for i in range(4)]
    assert text == [[".25", "", ".50", ".25"], [""] * 4, [""] * 4, ["", "", "", "1"]]
    assert to_hex(said[3, 3].get_color()) == "#ffffff" and to_hex(said[0, 0].get_color()) != "#ffffff"
    plots.confusion(other, np.array([0, 0]), np.array([0, 3]), classes[:1].repeat(4), "full")
    assert other.collections[0].get_clim() == (0, 1), "one scale for all, whatever the largest share"
    assert {panel.collections[0].get_cmap().name for panel in (ax, other)} == {"Blues"}
    for axis, name in ((ax.xaxis, "predicted"), (ax.yaxis, "true")):
        assert nearest(axis, [0.5, 1.5, 2.5, 3.5]) == classes.tolist() and axis.get_label_text() == name
    assert ax.get_ylim() == (4, 0) and ax.get_title("left") == "scBERT" and len(ax.figure.axes) == 1 and ax.get_aspect() == 1


def test_differences_keep_their_sign_and_their_side(ax):
    """In points, a hundred times the table's; the paper's above and hollow, ours below and filled; one row a claim."""
    columns = "arm reference fraction metric effect_paper low_paper high_paper effect_ours low_ours high_ours"
    first = ("no_gene2vec", "full", 1.0, "accuracy", -0.06, -0.08, -0.04, 0.01, -0.02, 0.03)
    second = ("logistic_regression", "full", 0.1, "macro_f1", 0.09, np.nan, np.nan, 0.05, 0.04, 0.06)
    plots.differences(ax, table(first, second, columns=columns))
    drawn = marks(ax).assign(row=lambda t: nearest(ax.yaxis, t["y"])).sort_values("y")
    assert (
        drawn["row"].tolist()
        == ["scBERT, no gene embedding − scBERT, 100 %, Accuracy"] * 2
        + ["Logistic regression (L1) − scBERT, 10 %, Macro-F1"] * 2
    )
    assert drawn["x"].tolist() == pytest.approx([-6, 1, 9, 5]) and drawn["y"].tolist() == pytest.approx(
        [-0.16, 0.16, 0.84, 1.16]
    )
    assert drawn["shape"].tolist() == ["diamond", "circle"] * 2 and drawn["fill"].tolist() == ["hollow", "filled"] * 2
    pink = colour("no_gene2vec").lower()
    assert drawn["colour"].tolist() == [pink, pink, BLUE, BLUE] and ax.get_ylim()[0] > ax.get_ylim()[1]
    known = sorted(segments(ax), key=lambda s: s[1])
    assert [s[0] for s in known] == pytest.approx([-8, -2, 4]) and [s[2] for s in known] == pytest.approx([-4, 3, 6])
    assert [s[1] for s in known] == [drawn["y"].iloc[k] for k in (0, 1, 3)] and [s[4] for s in known] == [pink, pink, BLUE]
    assert list(ax.lines[0].get_xdata()) == [0, 0], "the line of no difference"
    assert named(ax) == {"the paper": INK_MARKS["D"], "ours": INK_MARKS["o"]}
    assert ax.get_xlabel() == "points, 95 % intervals (the paper: Welch's;\nours: over test cells, seeds and pre-trainings)"


def test_masked_task_has_our_bars_and_the_papers_diamonds_over_them(ax):
    """Height, interval and diamond of each bar over its own name, with and without gene embedding."""
    rows = []
    for k, metric in enumerate(("accuracy_of_most_common_bin", "masked_accuracy", "fraction_predicting_most_common_bin")):
        rows += [
            ("no_gene2vec", metric, 0.1 + 0.2 * k, 0.01, 0.15 + 0.2 * k),
            ("full", metric, 0.2 + 0.2 * k, 0.03, 0.3 + 0.2 * k),
        ]
    rows += [("full", "other", 0.9, 0.1, 0.9), ("majority", "masked_accuracy", 0.9, 0.1, 0.9)]
    plots.masked_task(ax, table(*rows, columns="arm metric ours half_width_ours paper"))
    names = ["Accuracy on\nhidden genes", "Accuracy of saying the\ncell's most common bin"]
    names += ["Share of answers that are\nthe most common bin"]
    assert [text.get_text() for text in ax.get_xticklabels()] == names
    pink = colour("no_gene2vec").lower()
    bars = {(round(bar.get_x() + bar.get_width() / 2, 6), to_hex(bar.get_facecolor())): bar.get_height() for bar in ax.patches}
    expected = {
        (-0.2, ORANGE): 0.4,
        (0.2, pink): 0.3,
        (0.8, ORANGE): 0.2,
        (1.2, pink): 0.1,
        (1.8, ORANGE): 0.6,
        (2.2, pink): 0.5,
    }
    assert bars == pytest.approx(expected)
    half = {ORANGE: 0.03, pink: 0.01}
    ends = {round(x, 6): (low, high) for x, low, _, high, _ in segments(ax)}
    assert {shade for *_, shade in segments(ax)} == {plots.INK} and upright(ax) == []
    assert {line.get_linestyle() for line in ax.lines} == {"None"}, "bars are not connected"
    assert ends == {x: pytest.approx((y - half[shade], y + half[shade])) for (x, shade), y in expected.items()}
    diamonds = marks(ax)
    assert set(diamonds["shape"] + diamonds["fill"] + diamonds["colour"]) == {f"diamondhollow{plots.INK}"}
    over = {x: y + (0.1 if shade == ORANGE else 0.05) for (x, shade), y in expected.items()}
    assert dict(zip(diamonds["x"].round(6), diamonds["y"])) == pytest.approx(over)
    assert ax.get_ylim()[0] == 0 and 1.1 > ax.get_ylim()[1] >= 1 and (ax.get_xlabel(), ax.get_ylabel()) == ("", "Share")
    assert named(ax) == dict(map(arm_line, ["full", "no_gene2vec"])) | {"the paper": INK_MARKS["D"]}


def test_shares_follow_each_other_and_fill_the_row(ax):
    """Parts in the order of the columns, from 0 to 1, named where wide enough; arms in the order of the rows."""
    parts = pd.DataFrame(
        {"gene": [0.5, 0.1], "token": [0.3, 0.87], "cell": [0.15, 0.02], "rest": [0.05, 0.01]}, ["full", "pca"]
    )
    plots.shares(ax, parts, "Share")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["scBERT", "PCA"] and ax.get_ylim()[0] > ax.get_ylim()[1]
    for part, bars in zip(parts, ax.containers):
        before = parts.iloc[:, : list(parts).index(part)].sum(axis=1)
        assert [bar.get_x() for bar in bars] == pytest.approx(before.tolist())
        assert [bar.get_width() for bar in bars] == pytest.approx(parts[part].tolist())
        assert [round(bar.get_y() + bar.get_height() / 2, 6) for bar in bars] == [0, 1]
    assert [text.get_text() for text in ax.texts] == ["50 %", "10 %", "30 %", "87 %", "15 %", "", "5 %", ""]
    assert ax.get_xlim() == (0, 1) and ax.get_xlabel() == "Share"
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(parts) and legend._outside_loc == "upper"
    shown = [to_hex(handle.patches[0].get_facecolor()) for handle in ax.containers]
    assert [to_hex(handle.get_facecolor()) for handle in legend.legend_handles] == shown and len(set(shown)) == 4
    assert all(contrast(to_hex(text.get_color()), shade) > 3 for text, shade in zip(ax.texts[::2], shown))
    assert all(text.xy == (0.5, 0.5) for text in ax.texts) and ax.get_legend() is None, "in the middle of their bars"
    assert all(bar.get_height() < 1 for bar in ax.patches) and not any(line.get_visible() for line in ax.get_xgridlines())


def test_the_bar_beside_runs_is_the_interval_of_the_tables(ax):
    """Student's, over pre-trainings and seeds where there are both, whatever the order of rows; none for a single run."""
    rows = [("full", p, s, 0.7 + 0.1 * p + 0.01 * s) for s in range(2) for p in range(3)]
    crossed = pd.DataFrame(rows, columns=["arm", "pretraining", "seed", "value"]).astype({"pretraining": "Int64"})
    plain = pd.DataFrame({"arm": "logistic_regression", "seed": range(3), "value": [0.1, 0.2, 0.3]})
    table = pd.concat([plain, crossed.sample(frac=1, random_state=0), plain.iloc[:1].assign(arm="majority")])
    plots.runs(ax, table, table["arm"].map({"full": 0, "logistic_regression": 1, "majority": 2}))
    ends = [(line.get_xdata(), np.asarray(line.get_ydata(), float)) for line in ax.lines]
    drawn = {round(x[0] - 0.18): np.ptp(y) / 2 for x, y in ends if len(y) == 2 and np.isfinite(y).all() and np.ptp(y) > 0}
    wide = intervals.two_levels(crossed["value"], crossed["pretraining"], crossed["seed"])[1]
    assert drawn[0] == pytest.approx(wide) and wide > 1.5 * intervals.confidence_interval(crossed["value"])[1]
    assert drawn[1] == pytest.approx(intervals.confidence_interval([0.1, 0.2, 0.3])[1])
    assert 2 not in drawn


def test_save_writes_the_same_picture_twice_with_the_profile_in_it(ax, tmp_path, monkeypatch):
    """png, svg, csv; every byte again; the profile, its data set, cells and genes in the picture; values as given."""
    monkeypatch.setenv("SCBERT_FIGURES", str(tmp_path / "figures"))
    values = pd.DataFrame({"arm": ["full"], "value": [0.123456789]})
    written = []
    for _ in range(2):
        fig, panel = plt.subplots()
        plots.runs(panel, values, [0])
        plots.legend(fig, ["full"], mean="mean of all")
        plots.save(fig, "a_figure", values, PROFILE)
        written.append({path.name: path.read_bytes() for path in sorted((tmp_path / "figures" / "hand").iterdir())})
    assert list(written[0]) == ["a_figure.csv", "a_figure.png", "a_figure.svg"] and written[0] == written[1]
    assert written[0]["a_figure.csv"] == b"arm,value\nfull,0.123457\n"
    picture = written[0]["a_figure.svg"].decode()
    assert "profile hand: pbmc68k_reduced, 1,700 cells × 765 genes" in picture, "the profile is named"
    assert "<text" in picture, "written as text, not as shapes"
    assert "mean of all" in picture and "dc:date" not in picture
    assert written[0]["a_figure.png"].startswith(b"\x89PNG") and b"Software" not in written[0]["a_figure.png"]
    height, width = plt.imread(tmp_path / "figures" / "hand" / "a_figure.png").shape[:2]
    assert (width, height) == tuple((220 * fig.get_size_inches()).astype(int)), "sharp enough to print"
    fig.draw_without_rendering()
    note = fig._supxlabel.get_window_extent()
    assert 0.5 * fig.bbox.x1 < note.x0 < note.x1 < fig.bbox.x1, "the note stands at the right, whole"
    boxes = [panel.get_tightbbox(), fig.legends[0].get_window_extent(), note]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), "legend and note stand outside the panel"


def test_style_is_one(ax):
    """Titles to the left, no box around the panel or the legend, lines behind the data."""
    assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible() and ax.spines["left"].get_visible()
    assert (
        ax.get_axisbelow() is True
        and ax.yaxis.get_gridlines()[0].get_visible()
        and not ax.xaxis.get_gridlines()[0].get_visible()
    )
    plots.rows(ax, ["a", "b"])
    assert ax.xaxis.get_gridlines()[0].get_visible(), "rows are read across"
    plots.legend(ax, ["full"])
    assert not ax.figure.legends[0].get_frame_on()
    assert mpl.rcParams["figure.constrained_layout.use"] and mpl.rcParams["svg.fonttype"] == "none"
    assert [mpl.rcParams[f"axes.title{name}"] for name in ("location", "weight")] == ["left", "bold"]


# Machado, Oliveira & Fernandes, IEEE Trans. Vis. Comput. Graph. 15, 1291 (2009): deuteranopia, severity 1, on linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
ALL_CONES = np.eye(3)
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear(shade):
    rgb = np.array(to_rgb(shade))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(first, second="white"):
    """WCAG's ratio of luminances."""
    low, high = sorted(float(linear(shade) @ TO_XYZ[1]) for shade in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    t = np.clip(TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883]), 0, None)
    x, y, z = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first, second, seen_by=ALL_CONES):
    """CIE76: 2.3 is just noticeable."""
    return np.linalg.norm(lab(seen_by @ linear(first)) - lab(seen_by @ linear(second)))


def test_the_measures_of_colour_are_right():
    """Known: black on white 21, #767676 on white 4.54; red and green of one lightness come together without green cones."""
    assert contrast("black") == pytest.approx(21) and contrast("#767676") == pytest.approx(4.54, abs=0.005)
    assert distance("white", "black") == pytest.approx(100, abs=0.01)
    assert distance("#B05040", "#707F40") > 50 > 15 > distance("#B05040", "#707F40", np.array(DEUTERANOPIA))


# Controls, one of each kind: in their figure each arm has a row with its name, and kinds have a colour.
KINDS = [name for k, name in enumerate(CONTROLS) if colour(name) not in {colour(other) for other in CONTROLS[:k]}]


@pytest.mark.parametrize("arm", ARMS)
def test_colours_can_be_seen_on_white(arm):
    """WCAG's 3:1 for lines and large text."""
    assert contrast(colour(arm)) >= 3


@pytest.mark.parametrize(
    "panel",
    [
        ("logistic_regression", "full", *(name for name in KINDS if colour(name) != colour("logistic_regression"))),
        ("full", "no_pretraining", "no_gene2vec", "pca"),
        ("full", "random_vectors", "no_gene2vec"),
        ("cell_rule", "gene_rule", "additive", "no_gene2vec", "full"),
        ("logistic_regression", "nearest_neighbours", "no_gene2vec", "full"),
        ("logistic_regression", "no_pretraining", "no_gene2vec", "full", "majority"),
    ],
    ids=lambda panel: panel[1],
)
@pytest.mark.parametrize("seen_by", [ALL_CONES, np.array(DEUTERANOPIA)], ids=["all cones", "deuteranopia"])
def test_arms_of_one_panel_can_be_told_apart(panel, seen_by):
    """Four times the just noticeable difference between any two arms that are drawn together, also without green cones."""
    close = {pair: distance(colour(pair[0]), colour(pair[1]), seen_by) for pair in itertools.combinations(panel, 2)}
    assert {pair: round(d, 1) for pair, d in close.items() if d < 10} == {}
    assert all(plots.PALETTE[arm] == colour(arm) for arm in panel)
