"""The panels of our figures, each a function of axes and a tidy table; how marks look is :mod:`lib.plots.marks`'s."""

from __future__ import annotations

from collections.abc import Sequence

import lazy_loader
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from lib.arms import ARMS, EMBEDDINGS, by_factors, colour, label
from lib.plots import marks

mpl, sns = lazy_loader.load("matplotlib"), lazy_loader.load("seaborn")  # a second that programs without a figure need not wait

SHADES = [colour("full"), "#E69F00", colour("logistic_regression"), "#BBBBBB"]  # of areas with marks.INK on them
METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro-F1"}
METRICS |= {f"{metric}_hard_pair": f"{title}, hard pair" for metric, title in METRICS.items()}
EPOCH_RULES = {
    ("paper", "reported"): "chosen on the\nreported cells\n(the paper)",
    ("paper", "halves"): "chosen on one half,\nscored on the other",
    ("paper", "last"): "last epoch",
    ("clean", "reported"): "trained on 4/5,\nchosen on the\nreported cells",
    ("clean", "third"): "trained on 4/5,\nchosen on the\nlast fifth (clean)",
    ("clean", "plateau"): "trained on 4/5\nto a plateau on the\nlast fifth (clean)",
}
MASKED = {
    "masked_accuracy": "Accuracy on\nhidden genes",
    "accuracy_of_most_common_bin": "Accuracy of saying the\ncell's most common bin",
    "fraction_predicting_most_common_bin": "Share of answers that are\nthe most common bin",
}


def compare(axes, ours: pd.DataFrame, published: pd.DataFrame, metrics: Sequence[str], arms: list[str]) -> None:
    """Ours beside the paper's, one panel a metric, one group an arm; tables: ``arm``, ``metric``, ``value``, a row a run."""
    for ax, metric in zip(np.ravel(axes), metrics):
        if not ((ours["metric"] == metric).any() or (published["metric"] == metric).any()):
            ax.text(0.5, 0.5, "these types are not among these cells", ha="center", transform=ax.transAxes)
        for source, table, shift in (("ours", ours, -0.27), ("paper", published, 0.15)):
            part = table[(table["metric"] == metric) & table["arm"].isin(arms)]
            marks.runs(ax, part, part["arm"].map(arms.index) + shift, source)
        ax.set_xticks(range(len(arms)), [label(arm).replace(", ", ",\n").replace(" regr", "\nregr") for arm in arms])
        ax.set(title=METRICS[metric], xlim=(-0.6, len(arms) - 0.4), ylim=(0, 1))
    crossed = marks.crosses(ours[ours["metric"].isin(metrics) & ours["arm"].isin(arms)])
    marks.legend(ax, ours="ours, each run", **crossed, paper="the paper, each run", mean="mean, 95 % Student interval")


def epoch_rules(ax: mpl.axes.Axes, table: pd.DataFrame) -> None:
    """Accuracy of scBERT's runs by how the epoch is chosen; ``table``: :func:`lib.evaluate.measures.epoch_choice`."""
    there = set(zip(table["protocol"], table["rule"]))
    shown = {key: name for key, name in EPOCH_RULES.items() if key in there}
    places = pd.DataFrame(list(shown), columns=["protocol", "rule"]).rename_axis("at").reset_index()
    table = table.merge(places).assign(arm="full")
    marks.runs(ax, table, table["at"], beside=0, errorbar=None, palette={"full": marks.INK}, ms=26)
    for x, mean in table.groupby("at")["value"].mean().items():
        ax.annotate(f"{mean:.3f}", (x + 0.24, mean), va="center")
    ax.axvline(sum(protocol == "paper" for protocol, _ in shown) - 0.5, color="#BBBBBB", **marks.MARKS["dotted"])
    ax.set_xticks(range(len(shown)), shown.values(), fontsize="small")
    ax.set(xlim=(-0.5, len(shown) - 0.15), title="scBERT's accuracy, by how its weights are chosen (bars: means)")


def recall(ax: mpl.axes.Axes, ours: pd.DataFrame, published: pd.DataFrame, cells: pd.Series, arms: Sequence[str]) -> None:
    """Recall type by type: each run a point, the bar their mean; ``cells``: test cells of each type, in the order of rows."""
    row = {f"recall[{name}]": k for k, name in enumerate(cells.index)}
    for source, table in (("ours", ours), ("paper", published)):
        part = table[table["metric"].isin(row) & table["arm"].isin(arms)]
        at = part["metric"].map(row) + part["arm"].map({arm: 0.34 * k - 0.17 for k, arm in enumerate(arms)})
        if source == "ours":
            marks.runs(ax, part, at, beside=0, orient="y", errorbar=None, ms=10)
        else:
            marks.points(ax, part["value"], at, part["arm"].map(marks.PALETTE), source)
    marks.rows(ax, [f"{name} ({count})" for name, count in cells.items()])
    ax.set(xlabel="Recall", xlim=(-0.03, 1.03))
    marks.legend(ax, arms, ours="ours, each run", mean="their mean", paper="the paper", ncols=3)


def dots(axes, table: pd.DataFrame, titles: dict[str, str]) -> None:
    """Arms in rows, best by the first metric on top, a panel a metric; ``table``: arm, metric, value, low, high."""
    order = table[table["metric"] == next(iter(titles))].sort_values("value", ascending=False, kind="stable")["arm"]
    for ax, (metric, title) in zip(axes, titles.items()):
        part = table[table["metric"] == metric].set_index("arm", drop=False).loc[order]
        marks.estimates(ax, part, range(len(order)))
        for y, value in enumerate(part["value"]):
            look = {"textcoords": "offset points", "fontsize": "small", "ha": "center", "color": marks.INK}
            look |= {"bbox": {"fc": "white", "ec": "none", "pad": 0.2}, "zorder": 3}  # else the axis crosses a small number
            ax.annotate(f"{value:.3f}".replace("-", "−"), (value, y), (0, 4), **look)
        marks.rows(ax, [label(arm) for arm in order])
        ax.margins(x=0.12)
        ax.locator_params(axis="x", nbins=5)  # numbers such as -0.125 would touch
        ax.set(title=title, xlabel="95 % interval over cells")


def by_row(axes, table: pd.DataFrame, metrics: Sequence[str]) -> None:
    """Arms in rows, a panel a metric, every run (a row of the table) a point, their mean with Student's interval below.

    Where the table has a column ``row``, that names the rows in place of the arm.
    """
    table = table if "row" in table else table.assign(row=table["arm"].map(label))
    rows = list(dict.fromkeys(table["row"]))
    for ax, metric in zip(axes, metrics):
        part = table[table["metric"] == metric]
        marks.runs(ax, part, part["row"].map(rows.index), orient="y")
        marks.rows(ax, rows)
        ax.set(title=METRICS[metric], xlim=(0, 1), xlabel="", ylabel="")
    marks.legend(ax, ours="each run", **marks.crosses(table), mean="mean, 95 % Student interval")


def factorial(axes, table: pd.DataFrame, marked: Sequence[str] = ()) -> None:
    """Accuracy of every combination of factors: a panel for what is trained, a column for pre-training, a line an embedding.

    ``axes``: the last block trained, all trained. ``table``: a row a run. ``marked``: arms to ring, the paper's.
    """
    shown = [by_factors(True, "last_block", embedding) for embedding in EMBEDDINGS]
    for ax, trained, title in zip(axes, ("last_block", "all"), ("Last block fine-tuned (the paper)", "All blocks fine-tuned")):
        for k, (embedding, shade) in enumerate(zip(EMBEDDINGS, shown)):
            column = {by_factors(pretrained, trained, embedding): x for x, pretrained in enumerate((True, False))}
            part = table[table["arm"].isin(column)]
            at = part["arm"].map(column) + 0.2 * (k - 1)
            marks.runs(ax, part.assign(arm=shade), at, spread=0.05, beside=0, errorbar=None, linestyle="-", ms=8)
            for x, mean in part[part["arm"].isin(marked)].groupby(at)["value"].mean().items():
                ax.scatter(x, mean, s=170, color="none", edgecolor=marks.INK, zorder=4)
        ax.set_xticks([0, 1], ["pre-trained", "random weights"])
        ax.set(xlim=(-0.45, 1.45), title=title)
    drawn = {ARMS[arm].embedding for arm in table["arm"]}
    rings = {"ringed": "the paper's arms"} if table["arm"].isin(marked).any() else {}
    there = [shade for embedding, shade in zip(EMBEDDINGS, shown) if embedding in drawn]
    marks.legend(ax, there, ours="ours, each run", bar="mean", **rings, **marks.crosses(table), ncols=4)


def curves(ax: mpl.axes.Axes, table: pd.DataFrame, metric: str, arms: Sequence[str], source: str = "ours") -> None:
    """A metric against the fraction of labelled cells: every run a point, the mean with its interval a line."""
    for k, arm in enumerate(arms):
        part = table[(table["metric"] == metric) & (table["arm"] == arm)]
        at = part["fraction"] + 0.022 * (k - (len(arms) - 1) / 2)
        marks.runs(ax, part, at, source, spread=0.009, beside=0, linestyle="-", marker="")
    fractions = sorted(set(table["fraction"]))
    ax.set_xticks(fractions, map(marks.percent, fractions))
    ax.set(xlabel="Share of the training cells with labels", title=METRICS[metric], ylim=(0, 1))
    ax.set_xlim(fractions[0] - 0.08, fractions[-1] + 0.08)  # of a single one too, whose runs would lie all over the panel


def reliability(ax: mpl.axes.Axes, table: pd.DataFrame) -> None:
    """Accuracy against confidence; the area of a point says how many answers it stands for.

    ``table``: of each ``arm``, what :func:`lib.evaluate.calibration.reliability` gives.
    """
    look = {"x": "confidence", "y": "accuracy", "hue": "arm", "palette": marks.PALETTE, "legend": False, "ax": ax}
    share = table["answers"] / table.groupby("arm")["answers"].transform("sum")
    ax.plot([0, 1], [0, 1], color=marks.INK, **marks.MARKS["dotted"])
    sns.lineplot(table, estimator=None, lw=1, **look)
    sns.scatterplot(table, size=share, sizes=(8, 160), size_norm=(0, 1), alpha=0.6, **look)
    ax.set(xlabel="Confidence: probability of the answer given", ylabel="Share of right answers")
    ax.set(xlim=(0, 1.03), ylim=(0, 1.03))
    marks.legend(ax, dict.fromkeys(table["arm"]), ncols=2, dotted="calibrated")


def unknown(ax: mpl.axes.Axes, table: pd.DataFrame) -> None:
    """How well low confidence gives away each type left out of training: a row a type, with DeLong's interval."""
    arms, types = list(dict.fromkeys(table["arm"])), table.drop_duplicates("left_out").set_index("left_out")["cells"]
    at = table["left_out"].map(types.index.get_loc) + 0.17 * (table["arm"].map(arms.index) - (len(arms) - 1) / 2)
    marks.estimates(ax, table, at, "auc low high", s=12)
    ax.axvline(0.5, color=marks.INK, **marks.MARKS["dotted"])
    marks.rows(ax, [f"{name} ({cells})" for name, cells in types.items()])
    ax.set(xlim=(0, 1.02), xlabel="Area under the ROC curve (0.5: chance), 95 % DeLong interval")
    marks.legend(ax, arms, ncols=2)


def confusion(ax: mpl.axes.Axes, labels, predicted, classes, arm: str) -> np.ndarray:
    """Row-normalised confusion matrix: the share of each true type (row) that is given each name (column)."""
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(classes)))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    text = np.where(counts == 0, "", np.vectorize(lambda x: f"{x:.2f}".removeprefix("0") if x < 1 else "1")(share))
    look = {"xticklabels": classes, "yticklabels": classes, "annot_kws": {"fontsize": "x-small"}, "square": True, "cbar": False}
    sns.heatmap(share, annot=text, fmt="", cmap="Blues", vmin=0, vmax=1, ax=ax, **look)
    ax.set(xlabel="predicted", ylabel="true", title=label(arm))
    return share


def claim(row: dict) -> str:
    """A claim in few words: what is asked against what, with which share of the labels, by which score."""
    return f"{label(row['arm'])} − {label(row['reference'])}, {marks.percent(row['fraction'])}, {METRICS[row['metric']]}"


def differences(ax: mpl.axes.Axes, claims: pd.DataFrame) -> None:
    """Differences of arms to their references, in points: the paper's above ours, a row a claim."""
    for source, shift in (("paper", -0.16), ("ours", 0.16)):
        columns = f"effect_{source} low_{source} high_{source}"
        table = claims[columns.split()].mul(100).assign(arm=claims["arm"])
        marks.estimates(ax, table, np.arange(len(claims)) + shift, columns, source)
    ax.axvline(0, color=marks.INK, lw=0.8)
    marks.rows(ax, [claim(row) for row in claims.to_dict("records")])
    ax.set(
        title="Differences, by share of the labels and score",
        xlabel="points, 95 % intervals (the paper: Welch's;\nours: over test cells, seeds and pre-trainings)",
    )
    marks.legend(ax, paper="the paper", ours="ours")


def masked_task(ax: mpl.axes.Axes, card: pd.DataFrame) -> None:
    """The masked task with and without gene embedding: bars of ours with intervals over cells, the paper as diamonds."""
    arms = ["full", "no_gene2vec"]
    card = card[card["metric"].isin(MASKED) & card["arm"].isin(arms)]
    look = {"palette": marks.PALETTE, "saturation": 1, "alpha": 0.85, "errorbar": None, "legend": False, "ax": ax}
    sns.barplot(card, x="metric", y="ours", hue="arm", order=MASKED, hue_order=arms, **look)
    at = card["metric"].map(list(MASKED).index) + card["arm"].map({"full": -0.2, "no_gene2vec": 0.2})
    ax.errorbar(at, card["ours"], card["half_width_ours"], color=marks.INK, ls="", capsize=2, lw=0.9)
    ax.set_title("Hidden genes, 95 % interval over cells and pre-trainings")
    known = card["paper"].notna()
    if known.any():
        marks.points(ax, at[known], card["paper"][known].astype(float), marks.INK, "paper", s=20)
    ax.set_xticks(range(len(MASKED)), MASKED.values())
    ax.set(ylim=(0, 1.02), xlabel="", ylabel="Share")
    marks.legend(ax, arms, **({"paper": "the paper"} if known.any() else {}))


def shares(ax: mpl.axes.Axes, table: pd.DataFrame, of: str) -> None:
    """Stacked bars: a row an arm, a part a column, each named where it is wide enough; ``of`` is what they are shares of."""
    table = table.clip(0, 1)  # an adjusted share of nothing, or of all, may be a little beyond
    table.rename(index=label).plot.barh(stacked=True, ax=ax, color=SHADES, width=0.62, legend=False)
    for bars in ax.containers:
        names = [marks.percent(share) if share > 0.04 else "" for share in bars.datavalues]
        ax.bar_label(bars, names, label_type="center", color=marks.INK)
    marks.rows(ax, [label(arm) for arm in table.index])
    ax.set(xlim=(0, 1), xlabel=of, ylabel="")
    ax.grid(False)
    ax.figure.legend(loc="outside upper center", ncols=4)
