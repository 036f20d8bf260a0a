"""One style for all figures: every run a point, the interval named, colours that colour-blind readers can tell.

Ours are filled circles, the paper's hollow diamonds, runs whose training did not end as it should crosses. Sizes are those of a
journal: two columns are 183 mm wide, text has 7 points. Seaborn draws what it draws well, but no interval is its own: they are
Student's of :func:`lib.evaluate.measures.mean_of_runs`, or those that a table brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lazy_loader
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from lib import settings
from lib.arms import ARMS, EMBEDDINGS, by_factors, colour, label
from lib.evaluate import measures
from lib.evaluate.words import LEAST

mpl, sns = lazy_loader.load("matplotlib"), lazy_loader.load("seaborn")  # a second that programs without a figure need not wait

PALETTE = {name: arm.colour for name, arm in ARMS.items()}
INK = "#222222"
SHADES = [colour("full"), "#E69F00", colour("logistic_regression"), "#BBBBBB"]  # of areas with INK on them
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
MARKS = {
    "ours": {"marker": "o", "ls": ""},
    "paper": {"marker": "D", "ls": "", "mfc": "white"},
    "flagged": {"marker": "X", "ls": ""},
    "mean": {"marker": "_", "ls": "-", "ms": 7, "mew": 1.5},
    "dotted": {"ls": ":", "lw": 0.8},
    "ringed": {"marker": "o", "ls": "", "ms": 9, "mfc": "none"},
    "bar": {"marker": "_", "ls": "", "ms": 8, "mew": 1.5},
}


def style() -> None:
    """Set the style of all figures; call once in a notebook."""
    mpl.rc("font", size=7)
    mpl.rc("axes", axisbelow=True, grid=True, linewidth=0.6, titlelocation="left", titlesize=8, titleweight="bold")
    mpl.rc("axes.grid", axis="y")
    mpl.rc("axes.spines", right=False, top=False)
    mpl.rc("figure", dpi=125)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("grid", color="#E6E6E6", linewidth=0.6)
    mpl.rc("legend", frameon=False)
    mpl.rc("lines", linewidth=1.1, markersize=4.5)
    mpl.rc("savefig", dpi=220)
    mpl.rc("svg", fonttype="none", hashsalt="scbert")
    for axis in ("xtick", "ytick"):
        mpl.rc(f"{axis}.major", size=2.5, width=0.6)


def mm(width: float, height: float) -> tuple[float, float]:
    """A figure's size in millimetres, as matplotlib asks for it (inches); two columns of a journal are 183 wide."""
    return width / 25.4, height / 25.4


def percent(share: float) -> str:
    """A share as ticks have it: ``10 %``."""
    return f"{100 * share:.0f} %"


def legend(on: mpl.axes.Axes | mpl.figure.Figure, arms: Sequence[str] = (), ncols: int = 5, **marks: str) -> None:
    """Above the panels: the colour of each arm, then what each of ``MARKS`` stands for (``paper="the paper"``)."""
    handles = [mpl.lines.Line2D([], [], color=colour(arm), lw=1.8, label=label(arm)) for arm in arms]
    handles += [mpl.lines.Line2D([], [], color=INK, label=text, **MARKS[mark]) for mark, text in marks.items()]
    on.figure.legend(handles=handles, loc="outside upper center", ncols=ncols)


def points(ax: mpl.axes.Axes, x, y, shades, source: str = "ours", **look) -> None:
    """Filled circles for ``ours``, hollow diamonds for the ``paper``; the style's one place that says so is ``MARKS``."""
    look = {"s": 12, "alpha": 0.85, "linewidths": 0.7, "zorder": 3, "clip_on": False, "marker": MARKS[source]["marker"]} | look
    ax.scatter(x, y, color=MARKS[source].get("mfc", shades), edgecolors=shades, **look)


def runs(ax: mpl.axes.Axes, table: pd.DataFrame, at, source="ours", spread=0.1, beside=0.18, orient="x", **mean) -> None:
    """Every run of ``table`` (``arm``, ``value``) a point at ``at``, and their mean with Student's interval ``beside`` them.

    The interval is that of the tables (:func:`lib.evaluate.measures.mean_of_runs`): over pre-trainings and seeds, where there
    are; fewer than three runs have neither interval nor mean, unless means alone are asked for (``errorbar=None``). Runs at one
    place are spread evenly, so that no point hides another and a rerun draws the same figure; those with a ``flagged`` reason
    are crosses. ``orient="y"``: places are rows. ``mean`` goes to :func:`seaborn.pointplot`.
    """
    at, value = np.asarray(at, float), table["value"].to_numpy()
    group = table.groupby(at)["value"]
    n, k = group.transform("size").to_numpy(), group.cumcount().to_numpy()
    place = at + spread * (2 * k - n + 1) / np.maximum(n - 1, 1)
    shades, wrong = table["arm"].map(PALETTE).to_numpy(), flags(table)
    for chosen, look in ((~wrong, {}), (wrong, {"marker": MARKS["flagged"]["marker"], "s": 22})):
        if chosen.any():
            x, y = (place, value) if orient == "x" else (value, place)
            points(ax, x[chosen], y[chosen], shades[chosen], source, **look)
    enough = n >= (1 if mean.get("errorbar", "student") is None else LEAST)
    if not enough.any():
        return

    def student(values):  # seaborn hands over the values at one place, numbered by their rows
        middle, half = measures.mean_of_runs(table[enough].iloc[values.index])
        return middle - half, middle + half

    look = {"palette": PALETTE, "errorbar": student, "marker": "_" if orient == "x" else "|", "linestyle": "none", "lw": 1.1}
    look |= {"ms": 6.5, "mew": 1.6, "zorder": 4, "native_scale": True, "legend": False} | mean
    x, y = (at + beside, value) if orient == "x" else (value, at + beside)
    sns.pointplot(x=x[enough], y=y[enough], hue=table["arm"].to_numpy()[enough], orient=orient, ax=ax, **look)


def flags(table: pd.DataFrame) -> np.ndarray:
    """Which rows are of runs whose training did not end as it should (bool array)."""
    return (table["flagged"].fillna("") != "").to_numpy() if "flagged" in table else np.zeros(len(table), bool)


def crosses(*tables: pd.DataFrame) -> dict[str, str]:
    """What a legend says of crosses, where there are any."""
    return {"flagged": "learnt nothing, fell back, or not ended"} if any(flags(table).any() for table in tables) else {}


def estimates(ax: mpl.axes.Axes, table: pd.DataFrame, at, columns="value low high", source="ours", orient="y", **look) -> None:
    """A point and its interval for each row of ``table`` (``arm`` and three ``columns``) at ``at``; without ends, the point."""
    value, low, high = table[columns.split()].to_numpy(float).T
    shades = table["arm"].map(PALETTE)
    (ax.hlines if orient == "y" else ax.vlines)(at, low, high, colors=shades, lw=1.1)
    points(ax, *((value, at) if orient == "y" else (at, value)), shades, source, **{"s": 20, "alpha": 1} | look)


def rows(ax: mpl.axes.Axes, names: Sequence[str], **look) -> None:
    """Name the rows 0, 1, … of a panel, the first on top."""
    ax.set_yticks(range(len(names)), names, **look)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(True, axis="x")


def compare(axes, ours: pd.DataFrame, published: pd.DataFrame, metrics: Sequence[str], arms: list[str]) -> None:
    """Ours beside the paper's, one panel a metric, one group an arm; tables: ``arm``, ``metric``, ``value``, a row a run."""
    for ax, metric in zip(np.ravel(axes), metrics):
        if not ((ours["metric"] == metric).any() or (published["metric"] == metric).any()):
            ax.text(0.5, 0.5, "these types are not among these cells", ha="center", transform=ax.transAxes)
        for source, table, shift in (("ours", ours, -0.27), ("paper", published, 0.15)):
            part = table[(table["metric"] == metric) & table["arm"].isin(arms)]
            runs(ax, part, part["arm"].map(arms.index) + shift, source)
        ax.set_xticks(range(len(arms)), [label(arm).replace(", ", ",\n").replace(" regr", "\nregr") for arm in arms])
        ax.set(title=METRICS[metric], xlim=(-0.6, len(arms) - 0.4), ylim=(0, 1))
    crossed = crosses(ours[ours["metric"].isin(metrics) & ours["arm"].isin(arms)])
    legend(ax, ours="ours, each run", **crossed, paper="the paper, each run", mean="mean, 95 % Student interval")


def epoch_rules(ax: mpl.axes.Axes, table: pd.DataFrame) -> None:
    """Accuracy of scBERT's runs by how the epoch is chosen; ``table``: :func:`lib.evaluate.measures.epoch_choice`."""
    there = set(zip(table["protocol"], table["rule"]))
    shown = {key: name for key, name in EPOCH_RULES.items() if key in there}
    places = pd.DataFrame(list(shown), columns=["protocol", "rule"]).rename_axis("at").reset_index()
    table = table.merge(places).assign(arm="full")
    runs(ax, table, table["at"], beside=0, errorbar=None, palette={"full": INK}, ms=26)
    for x, mean in table.groupby("at")["value"].mean().items():
        ax.annotate(f"{mean:.3f}", (x + 0.24, mean), va="center")
    ax.axvline(sum(protocol == "paper" for protocol, _ in shown) - 0.5, color="#BBBBBB", **MARKS["dotted"])
    ax.set_xticks(range(len(shown)), shown.values(), fontsize="small")
    ax.set(xlim=(-0.5, len(shown) - 0.15), title="scBERT's accuracy, by how its weights are chosen (bars: means)")


def recall(ax: mpl.axes.Axes, ours: pd.DataFrame, published: pd.DataFrame, cells: pd.Series, arms: Sequence[str]) -> None:
    """Recall type by type: each run a point, the bar their mean; ``cells``: test cells of each type, in the order of rows."""
    row = {f"recall[{name}]": k for k, name in enumerate(cells.index)}
    for source, table in (("ours", ours), ("paper", published)):
        part = table[table["metric"].isin(row) & table["arm"].isin(arms)]
        at = part["metric"].map(row) + part["arm"].map({arm: 0.34 * k - 0.17 for k, arm in enumerate(arms)})
        if source == "ours":
            runs(ax, part, at, beside=0, orient="y", errorbar=None, ms=10)
        else:
            points(ax, part["value"], at, part["arm"].map(PALETTE), source)
    rows(ax, [f"{name} ({count})" for name, count in cells.items()])
    ax.set(xlabel="Recall", xlim=(-0.03, 1.03))
    legend(ax, arms, ours="ours, each run", mean="their mean", paper="the paper", ncols=3)


def dots(axes, table: pd.DataFrame, titles: dict[str, str]) -> None:
    """Arms in rows, best by the first metric on top, a panel a metric; ``table``: arm, metric, value, low, high."""
    order = table[table["metric"] == next(iter(titles))].sort_values("value", ascending=False, kind="stable")["arm"]
    for ax, (metric, title) in zip(axes, titles.items()):
        part = table[table["metric"] == metric].set_index("arm", drop=False).loc[order]
        estimates(ax, part, range(len(order)))
        for y, value in enumerate(part["value"]):
            look = {"textcoords": "offset points", "fontsize": "small", "ha": "center", "color": INK}
            look |= {
                "bbox": {"fc": "white", "ec": "none", "pad": 0.2},
                "zorder": 3,
            }  # else the axis goes through a small number
            ax.annotate(f"{value:.3f}".replace("-", "−"), (value, y), (0, 4), **look)
        rows(ax, [label(arm) for arm in order])
        ax.margins(x=0.12)
        ax.locator_params(axis="x", nbins=5)  # numbers such as -0.125 would touch
        ax.set(title=title, xlabel="95 % interval over cells")


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
            runs(ax, part.assign(arm=shade), at, spread=0.05, beside=0, errorbar=None, linestyle="-", ms=8)
            for x, mean in part[part["arm"].isin(marked)].groupby(at)["value"].mean().items():
                ax.scatter(x, mean, s=170, color="none", edgecolor=INK, zorder=4)
        ax.set_xticks([0, 1], ["pre-trained", "random weights"])
        ax.set(xlim=(-0.45, 1.45), title=title)
    drawn = {ARMS[arm].embedding for arm in table["arm"]}
    marks = {"ringed": "the paper's arms"} if table["arm"].isin(marked).any() else {}
    there = [shade for embedding, shade in zip(EMBEDDINGS, shown) if embedding in drawn]
    legend(ax, there, ours="ours, each run", bar="mean", **marks, **crosses(table), ncols=4)


def curves(ax: mpl.axes.Axes, table: pd.DataFrame, metric: str, arms: Sequence[str], source: str = "ours") -> None:
    """A metric against the fraction of labelled cells: every run a point, the mean with its interval a line."""
    for k, arm in enumerate(arms):
        part = table[(table["metric"] == metric) & (table["arm"] == arm)]
        at = part["fraction"] + 0.022 * (k - (len(arms) - 1) / 2)
        runs(ax, part, at, source, spread=0.009, beside=0, linestyle="-", marker="")
    fractions = sorted(set(table["fraction"]))
    ax.set_xticks(fractions, map(percent, fractions))
    ax.set(xlabel="Share of the training cells with labels", title=METRICS[metric], ylim=(0, 1))
    ax.set_xlim(fractions[0] - 0.08, fractions[-1] + 0.08)  # of a single one too, whose runs would lie all over the panel


def reliability(ax: mpl.axes.Axes, table: pd.DataFrame) -> None:
    """Accuracy against confidence; the area of a point says how many answers it stands for.

    ``table``: of each ``arm``, what :func:`lib.evaluate.calibration.reliability` gives.
    """
    look = {"x": "confidence", "y": "accuracy", "hue": "arm", "palette": PALETTE, "legend": False, "ax": ax}
    share = table["answers"] / table.groupby("arm")["answers"].transform("sum")
    ax.plot([0, 1], [0, 1], color=INK, **MARKS["dotted"])
    sns.lineplot(table, estimator=None, lw=1, **look)
    sns.scatterplot(table, size=share, sizes=(8, 160), size_norm=(0, 1), alpha=0.6, **look)
    ax.set(xlabel="Confidence: probability of the answer given", ylabel="Share of right answers")
    ax.set(xlim=(0, 1.03), ylim=(0, 1.03))
    legend(ax, dict.fromkeys(table["arm"]), ncols=2, dotted="calibrated")


def unknown(ax: mpl.axes.Axes, table: pd.DataFrame) -> None:
    """How well low confidence gives away each type left out of training: a row a type, with DeLong's interval."""
    arms, types = list(dict.fromkeys(table["arm"])), table.drop_duplicates("left_out").set_index("left_out")["cells"]
    at = table["left_out"].map(types.index.get_loc) + 0.17 * (table["arm"].map(arms.index) - (len(arms) - 1) / 2)
    estimates(ax, table, at, "auc low high", s=12)
    ax.axvline(0.5, color=INK, **MARKS["dotted"])
    rows(ax, [f"{name} ({cells})" for name, cells in types.items()])
    ax.set(xlim=(0, 1.02), xlabel="Area under the ROC curve (0.5: a coin), 95 % DeLong interval")
    legend(ax, arms, ncols=2)


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
    return f"{label(row['arm'])} − {label(row['reference'])}, {percent(row['fraction'])}, {METRICS[row['metric']]}"


def differences(ax: mpl.axes.Axes, claims: pd.DataFrame) -> None:
    """Differences of arms to their references, in points: the paper's above ours, a row a claim."""
    for source, shift in (("paper", -0.16), ("ours", 0.16)):
        columns = f"effect_{source} low_{source} high_{source}"
        table = claims[columns.split()].mul(100).assign(arm=claims["arm"])
        estimates(ax, table, np.arange(len(claims)) + shift, columns, source)
    ax.axvline(0, color=INK, lw=0.8)
    rows(ax, [claim(row) for row in claims.to_dict("records")])
    ax.set(
        title="Differences, by share of the labels and score",
        xlabel="points, 95 % intervals (the paper: Welch's;\nours: over test cells, seeds and pre-trainings)",
    )
    legend(ax, paper="the paper", ours="ours")


def masked_task(ax: mpl.axes.Axes, card: pd.DataFrame) -> None:
    """The masked task with and without gene embedding: bars of ours with intervals over cells, the paper as diamonds."""
    arms = ["full", "no_gene2vec"]
    card = card[card["metric"].isin(MASKED) & card["arm"].isin(arms)]
    look = {"palette": PALETTE, "saturation": 1, "alpha": 0.85, "errorbar": None, "legend": False, "ax": ax}
    sns.barplot(card, x="metric", y="ours", hue="arm", order=MASKED, hue_order=arms, **look)
    at = card["metric"].map(list(MASKED).index) + card["arm"].map({"full": -0.2, "no_gene2vec": 0.2})
    ax.errorbar(at, card["ours"], card["half_width_ours"], color=INK, ls="", capsize=2, lw=0.9)
    ax.set_title("Hidden genes, 95 % interval over cells and pre-trainings")
    known = card["paper"].notna()
    if known.any():
        points(ax, at[known], card["paper"][known].astype(float), INK, "paper", s=20)
    ax.set_xticks(range(len(MASKED)), MASKED.values())
    ax.set(ylim=(0, 1.02), xlabel="", ylabel="Share")
    legend(ax, arms, **({"paper": "the paper"} if known.any() else {}))


def shares(ax: mpl.axes.Axes, table: pd.DataFrame, of: str) -> None:
    """Stacked bars: a row an arm, a part a column, each named where it is wide enough; ``of`` is what they are shares of."""
    table = table.clip(0, 1)  # an adjusted share of nothing, or of all, may be a little beyond
    table.rename(index=label).plot.barh(stacked=True, ax=ax, color=SHADES, width=0.62, legend=False)
    for bars in ax.containers:
        names = [percent(share) if share > 0.04 else "" for share in bars.datavalues]
        ax.bar_label(bars, names, label_type="center", color=INK)
    rows(ax, [label(arm) for arm in table.index])
    ax.set(xlim=(0, 1), xlabel=of, ylabel="")
    ax.grid(False)
    ax.figure.legend(loc="outside upper center", ncols=4)


def folder(profile: dict) -> Path:
    """``figures/<profile>``, or below ``SCBERT_FIGURES``."""
    path = settings.figures() / profile["name"]
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(fig: mpl.figure.Figure, name: str, table: pd.DataFrame, profile: dict) -> None:
    """Write a figure, with the profile and its cells in it, as png and svg, and the tidy table behind it as CSV.

    The same bytes at every rerun.
    """
    cells, genes = profile["adata"].shape
    note = f"profile {profile['name']}: {profile['data']['dataset']}, {cells:,} cells × {genes:,} genes"
    fig.supxlabel(note, fontsize="small", color="#666666", x=0.99, ha="right")
    if "run" in table:  # 234e7969240439a0, taken for a number, ends pandas' parser, and Python
        table = table.assign(run="run-" + table["run"])
    target = folder(profile)
    fig.savefig(target / f"{name}.png", metadata={"Software": None})
    fig.savefig(target / f"{name}.svg", metadata={"Date": None, "Creator": None})
    table.to_csv(target / f"{name}.csv", index=False, float_format="%.6g")
