"""One style for all figures: every run a point, the interval named, colours that colour-blind readers can tell."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import confusion_matrix

from lib import settings
from lib.arms import EMBEDDINGS, by_factors, colour, label
from lib.evaluate import intervals, measures

METRICS = {
    "accuracy": "Accuracy", "macro_f1": "Macro-F1",
    "accuracy_hard_pair": "Accuracy, hard pair", "macro_f1_hard_pair": "Macro-F1, hard pair",
}  # fmt: skip


def style():
    """Set the style of all figures; call once in a notebook."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
        "grid.color": "#E6E6E6", "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 90,
        "savefig.dpi": 160, "figure.constrained_layout.use": True, "svg.hashsalt": "scbert", "svg.fonttype": "none",
    })  # fmt: skip


def jitter(n, width=0.1):
    """``n`` offsets, evenly spread: no point hides another, and a rerun draws the same figure."""
    return np.linspace(-width, width, n) if n > 1 else np.zeros(1)


def runs_and_mean(ax, x, values, arm, marker="o", filled=True):
    """Every run as a point at ``x``, and beside them the mean with its 95 % Student interval."""
    values = np.asarray(values, float)
    mean, half_width = intervals.confidence_interval(values)
    face = colour(arm) if filled else "white"
    ax.scatter(x + jitter(len(values)) - 0.05, values, s=24, color=face, edgecolor=colour(arm), lw=1, marker=marker,
               alpha=0.8, zorder=3)  # fmt: skip
    ax.errorbar(x + 0.13, mean, half_width if np.isfinite(half_width) else None, color=colour(arm), marker="_", ms=9,
                mew=2, lw=1.6, capsize=3, zorder=4)  # fmt: skip
    return mean, half_width


def compare(axes, ours, published, metrics, arms):
    """Ours (filled) beside the paper's (hollow), one panel a metric, one group an arm; every run a point."""
    for ax, metric in zip(np.ravel(axes), metrics):
        for i, arm in enumerate(arms):
            for offset, table, filled in ((-0.22, ours, True), (0.2, published, False)):
                values = table.query("metric == @metric and arm == @arm")["value"].to_numpy()
                if len(values):
                    runs_and_mean(ax, i + offset, values, arm, "o" if filled else "D", filled)
        ax.set_xticks(range(len(arms)), [label(arm).replace(", ", ",\n").replace(" regr", "\nregr") for arm in arms])
        ax.set_title(METRICS[metric])
        ax.set_ylim(0, 1)
        ax.set_xlim(-0.6, len(arms) - 0.35)


def ours_and_paper_legend(fig, paper="the paper (Zheng68K)"):
    """A legend above the panels of :func:`compare`."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", ls="", color="#444444", label="ours, each run"),
        Line2D([], [], marker="D", ls="", markerfacecolor="white", color="#444444", label=f"{paper}, each run"),
        Line2D([], [], marker="_", ls="-", color="#444444", ms=10, mew=2, label="mean, 95 % Student interval"),
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=3)


EPOCH_RULES = {
    ("paper", "reported"): "chosen on the\nreported cells\n(the paper)",
    ("paper", "halves"): "chosen on one half,\nscored on the other",
    ("paper", "last"): "last epoch",
    ("clean", "reported"): "trained on 4/5,\nchosen on the\nreported cells",
    ("clean", "third"): "trained on 4/5,\nchosen on the\nlast fifth (clean)",
}


def epoch_rules(ax, table):
    """Accuracy of scBERT's runs by how the epoch is chosen: each run a line of points, means as bars."""
    for x, (protocol, rule) in enumerate(EPOCH_RULES):
        part = table[(table["protocol"] == protocol) & (table["rule"] == rule)]
        if part.empty:
            continue
        ax.scatter(x + jitter(len(part)), part["value"], s=24, color=colour("full"), alpha=0.8, zorder=3)
        ax.plot([x - 0.28, x + 0.28], [part["value"].mean()] * 2, color="#222222", lw=2, zorder=4)
        ax.annotate(f"{part['value'].mean():.3f}", (x + 0.3, part["value"].mean()), fontsize=9, va="center")
    ax.axvline(2.5, color="#BBBBBB", lw=1, ls=":")
    ax.set_xticks(range(len(EPOCH_RULES)), EPOCH_RULES.values(), fontsize=8)
    ax.set_xlim(-0.5, len(EPOCH_RULES) - 0.15)
    ax.set_title("scBERT's accuracy, by how its epoch is chosen")


def bracket(axes, table, metrics):
    """Models in rows, best on top: mean over runs with the interval over test cells, each run a faint point."""
    order = table[table["metric"] == metrics[0]].sort_values("mean")["arm"].tolist()
    for ax, metric in zip(axes, metrics):
        rows = table[table["metric"] == metric].set_index("arm")
        for y, arm in enumerate(order):
            row = rows.loc[arm]
            error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            ax.errorbar(row["mean"], y, xerr=error, marker="o", ms=7, lw=1.6, capsize=3, color=colour(arm), zorder=3)
            ax.annotate(f"{row['mean']:.3f}", (row["mean"], y + 0.2), fontsize=8, ha="center", color="#444444")
        ax.set_yticks(range(len(order)), [label(arm) for arm in order])
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.6, len(order) - 0.3)
        ax.grid(True, axis="x")
        ax.set_title(METRICS[metric])


def factorial(axes, table, marked=()):
    """Accuracy of every combination of factors: a panel for what is trained, a column for pre-training.

    Parameters
    ----------
    axes : two axes
        The last block trained, all trained.
    table : DataFrame
        ``arm``, ``value``: every run a row.
    marked : sequence of str
        Arms to ring: the paper's.
    """
    for ax, trained, title in zip(axes, ("last_block", "all"), ("Last block fine-tuned (the paper)", "All blocks fine-tuned")):
        for k, (embedding, name) in enumerate(EMBEDDINGS.items()):
            shade = colour(by_factors(True, "last_block", embedding))
            means = []
            for x, pretrained in enumerate((True, False)):
                arm = by_factors(pretrained, trained, embedding)
                values = table.loc[table["arm"] == arm, "value"].to_numpy()
                at = x + 0.2 * (k - 1)
                ax.scatter(at + jitter(len(values), 0.05), values, s=24, color=shade if pretrained else "white", edgecolor=shade,
                           lw=1, alpha=0.85, zorder=3)  # fmt: skip
                means.append((at, values.mean()))
                if arm in marked:
                    ax.scatter(*means[-1], s=330, facecolor="none", edgecolor="#222222", lw=1.2, zorder=4)
            ax.plot(*zip(*means), color=shade, lw=1.8, marker="_", ms=11, mew=2.2, label=name, zorder=2)
        ax.set_xticks([0, 1], ["pre-trained", "random weights"])
        ax.set_xlim(-0.45, 1.45)
        ax.set_title(title)


def curves(ax, table, metric, arms, marker="o", filled=True):
    """A metric against the fraction of labelled cells: every run a point, the mean with its interval a line."""
    for k, arm in enumerate(arms):
        part = table.query("metric == @metric and arm == @arm")
        if part.empty:
            continue
        shift = 0.012 * (k - (len(arms) - 1) / 2)
        ax.scatter(part["fraction"] + shift, part["value"], s=20, marker=marker, edgecolor=colour(arm), lw=1,
                   color=colour(arm) if filled else "white", alpha=0.7, zorder=3)  # fmt: skip
        mean = measures.summarise(part, ["fraction"]).sort_values("fraction")
        ax.errorbar(mean["fraction"] + shift, mean["mean"], mean["half_width"].where(mean["n"] > 1), color=colour(arm),
                    lw=1.6, capsize=3, label=label(arm), zorder=4)  # fmt: skip
    ax.set_xlabel("Fraction of the training cells with labels")
    ax.set_title(METRICS[metric])


def reliability(ax, tables):
    """Accuracy against confidence; the area of a point says how many answers it stands for.

    ``tables``: of each arm, what :func:`lib.evaluate.calibration.reliability` gives.
    """
    ax.plot([0, 1], [0, 1], color="#444444", lw=1, ls=":", label="calibrated")
    for arm, table in tables.items():
        ax.plot(table["confidence"], table["accuracy"], color=colour(arm), lw=1.4, label=label(arm))
        ax.scatter(table["confidence"], table["accuracy"], s=15 + 300 * table["answers"] / table["answers"].sum(),
                   color=colour(arm), alpha=0.6)  # fmt: skip
    ax.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="Confidence: probability of the answer given", ylabel="Share of right answers")


def unknown(ax, table):
    """How well low confidence gives away each type left out of training: a row a type, with DeLong's interval."""
    names = table.drop_duplicates("left_out")["left_out"].tolist()[::-1]
    arms = list(dict.fromkeys(table["arm"]))
    for k, arm in enumerate(arms):
        part = table[table["arm"] == arm]
        y = np.array([names.index(name) for name in part["left_out"]]) + 0.17 * ((len(arms) - 1) / 2 - k)
        area, low, high = part[["auc", "low", "high"]].to_numpy().T
        ax.errorbar(area, y, xerr=[area - low, high - area], ls="", marker="o", ms=5, lw=1.2,
                    color=colour(arm), label=label(arm))  # fmt: skip
    ax.axvline(0.5, color="#444444", lw=1, ls=":")
    cells = table.drop_duplicates("left_out").set_index("left_out")["cells"]
    ax.set_yticks(range(len(names)), [f"{name} ({cells[name]})" for name in names])
    ax.set(xlim=(0, 1.02), xlabel="Area under the ROC curve (0.5: a coin)", ylim=(-0.6, len(names) - 0.4))
    ax.grid(True, axis="x")


def confusion(ax, labels, predicted, classes, arm):
    """Row-normalised confusion matrix: the share of each true type (row) that is given each name (column)."""
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(classes)))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(counts)):
        ax.text(j, i, f"{share[i, j]:.2f}".lstrip("0") if share[i, j] < 1 else "1", ha="center", va="center",
                fontsize=7.5, color="white" if share[i, j] > 0.55 else "#222222")  # fmt: skip
    ax.set_xticks(range(len(classes)), classes, rotation=90)
    ax.set_yticks(range(len(classes)), classes)
    ax.set_xlabel("predicted")
    ax.grid(False)
    ax.set_title(label(arm))
    return share


def differences(ax, claims):
    """Differences of arms to their references, in points: the paper's (hollow) above ours (filled), a row a claim."""
    rows = claims.iloc[::-1].to_dict("records")
    for y, row in enumerate(rows):
        for shift, who, marker in ((0.16, "paper", "D"), (-0.16, "ours", "o")):
            effect, low, high = (100 * row[f"{name}_{who}"] for name in ("effect", "low", "high"))
            error = [[max(0, effect - low)], [max(0, high - effect)]] if np.isfinite(low) else None
            name = {"paper": "the paper", "ours": "ours"}[who] if y == 0 else None
            ax.errorbar(effect, y + shift, label=name, xerr=error, marker=marker, ms=6, color=colour(row["arm"]), capsize=2, lw=1.4,
                        mfc="white" if who == "paper" else colour(row["arm"]))  # fmt: skip
    ax.axvline(0, color="#444444", lw=1)
    names = [f"{label(r['arm'])} − {label(r['reference'])}, {r['fraction']:.0%}, {METRICS[r['metric']]}" for r in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=9)
    ax.set_xlabel("points, 95 % intervals\n(the paper: Welch over runs; ours: bootstrap over test cells and runs)")
    ax.legend(loc="upper right", fontsize=9)
    ax.grid(True, axis="x")


def masked_task(ax, card):
    """The masked task with and without gene embedding: bars of ours with intervals over cells, the paper as diamonds."""
    names = {
        "masked_accuracy": "Accuracy on\nhidden genes",
        "accuracy_of_most_common_bin": "Accuracy of saying the\ncell's most common bin",
        "fraction_predicting_most_common_bin": "Share of answers that are\nthe most common bin",
    }
    for shift, arm in ((-0.2, "full"), (0.2, "no_gene2vec")):
        rows = card[card["arm"] == arm].set_index("metric").loc[list(names)]
        x = np.arange(len(names)) + shift
        ax.bar(x, rows["ours"], 0.36, color=colour(arm), alpha=0.85, yerr=rows["half_width_ours"], capsize=3,
               label=label(arm))  # fmt: skip
        ax.scatter(x, rows["paper"], marker="D", s=40, facecolor="white", edgecolor="#222222", zorder=3)
    ax.scatter([], [], marker="D", s=40, facecolor="white", edgecolor="#222222", label="the paper")
    ax.set_xticks(range(len(names)), names.values())
    ax.set_ylim(0, 1.12)
    ax.legend(fontsize=9, ncols=3, loc="upper left")


def dots(axes, table, by, metrics, titles):
    """Rows with a value and an interval, a panel a metric: ``table`` has ``by`` (arms), metric, value, low, high."""
    order = list(dict.fromkeys(table[by]))[::-1]
    for ax, metric, title in zip(axes, metrics, titles):
        rows = table[table["metric"] == metric].set_index(by)
        for y, name in enumerate(order):
            row = rows.loc[name]
            error = [[max(0, row["value"] - row["low"])], [max(0, row["high"] - row["value"])]]
            ax.errorbar(row["value"], y, xerr=error, marker="o", ms=7, lw=1.6, capsize=3, color=colour(name), zorder=3)
            ax.annotate(f"{row['value']:.3f}", (row["value"], y + 0.2), fontsize=8, ha="center", color="#444444")
        ax.set_yticks(range(len(order)), [label(name) for name in order])
        ax.set_ylim(-0.6, len(order) - 0.3)
        ax.margins(x=0.12)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(True, axis="x")
        ax.set_title(title)


def shares(ax, table):
    """Stacked bars: a row an arm, a part a column, each named where it is wide enough."""
    left = np.zeros(len(table))
    for part, shade in zip(table.columns, ("#D55E00", "#E69F00", "#0072B2", "#BBBBBB")):
        values = table[part].to_numpy()
        ax.barh(range(len(table)), values, left=left, color=shade, label=part, height=0.62)
        for y, (start, value) in enumerate(zip(left, values)):
            if value > 0.04:
                ax.text(start + value / 2, y, f"{value:.0%}", ha="center", va="center", fontsize=9,
                        color="#222222" if shade in ("#E69F00", "#BBBBBB") else "white")  # fmt: skip
        left = left + values
    ax.set_yticks(range(len(table)), [label(arm) for arm in table.index])
    ax.set(xlim=(0, 1), xlabel="Share of the variance of the genes' hidden states")
    ax.invert_yaxis()
    ax.grid(False)


def profile_note(fig, profile):
    """Say in the figure which profile and how many cells it shows."""
    cells, genes = profile["adata"].shape
    fig.supxlabel(f"profile {profile['name']}: {profile['data']['dataset']}, {cells:,} cells × {genes:,} genes",
                  fontsize=8, color="#666666", x=0.99, ha="right")  # fmt: skip


def folder(profile):
    """``figures/<profile>``, or below ``SCBERT_FIGURES``."""
    path = settings.figures() / profile["name"]
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(fig, name, table, profile):
    """Write a figure as png and svg, and the tidy table behind it as CSV; the same bytes at every rerun."""
    profile_note(fig, profile)
    target = folder(profile)
    fig.savefig(target / f"{name}.png", metadata={"Software": None})
    fig.savefig(target / f"{name}.svg", metadata={"Date": None, "Creator": None})
    table.to_csv(target / f"{name}.csv", index=False, float_format="%.6g")
