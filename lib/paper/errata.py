"""The paper's own statistics computed again from its runs, what in them to beware of, and what we do differently."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as tests

from lib.evaluate import intervals
from lib.paper import published


def printed() -> pd.DataFrame:
    """What the authors' notebook prints of its runs: means, half widths and p-values (DataFrame).

    ``execution_count`` is the number that Jupyter gave the printing cell: cells ran in that order.
    """
    return pd.read_csv(published.FOLDER / "printed.csv").fillna({"reference": ""})


def deviations() -> pd.DataFrame:
    """What was done: in scBERT's paper, in scBERT's code, in the authors' code, and here (DataFrame)."""
    return pd.read_csv(published.FOLDER / "deviations.csv").fillna("–")


def regenerated() -> pd.DataFrame:
    """The authors' printed statistics beside the same formulas on their runs, and beside ours (DataFrame).

    Their half width is 2.262 · s / √n with the population's standard deviation; their p is Student's, with equal
    variances, over runs that share one split. ``same`` tells whether the formula gives back what was printed (the
    runs are known to six digits); ``ours`` is Student's half width with the sample's standard deviation, or Welch's p.
    """
    known = published.runs().query("dataset == 'zheng68k' and fraction == 1 and experiment != 'few_shot'")
    groups = dict(iter(known.groupby(["arm", "metric"])["value"]))
    rows = []
    for row in printed().to_dict("records"):
        values = groups[row["arm"], row["metric"]].to_numpy()
        if row["statistic"] == "mean":
            again = ours = values.mean()
        elif row["statistic"] == "half_width":
            again, ours = 2.262 * values.std() / np.sqrt(len(values)), intervals.confidence_interval(values)[1]
        else:
            reference = groups[row["reference"], row["metric"]].to_numpy()
            again = tests.ttest_ind(reference, values).pvalue
            ours = tests.ttest_ind(reference, values, equal_var=False).pvalue
        same = bool(abs(again - row["printed"]) < 2e-5 * row["printed"] + 1e-7)
        rows.append(row | {"regenerated": float(again), "same": same, "ours": float(ours)})
    return pd.DataFrame(rows)


def errata() -> list[str]:
    """What in the published numbers a reader should know of, computed from them (list of sentences)."""
    known = published.runs().query("dataset == 'zheng68k' and metric == 'accuracy'")
    arm = known.query("experiment == 'ablation' and arm == 'no_gene2vec'").sort_values("value")
    gap = int(arm["value"].diff().to_numpy()[1:].argmax()) + 1
    low, high = arm.iloc[:gap], arm.iloc[gap:]
    full = known.query("experiment == 'baseline' and arm == 'full'")
    table = regenerated()
    stale = table[~table["same"]]
    late = table.loc[table["statistic"] == "mean", "execution_count"].min()
    few = known.query("experiment == 'few_shot' and arm == 'full' and fraction == 0.1").sort_values("value")
    twice = known.query("experiment == 'few_shot' and arm == 'full' and fraction == 1").set_index("seed")["value"]
    again = full[full["seed"].str.startswith("fewshot-")].assign(seed=lambda t: t["seed"].str[-1]).set_index("seed")
    moved = (twice - again["value"]).abs().max()
    seeds = [set(full["seed"]), set(arm["seed"])]
    return [
        f"**No gene embedding: two populations.** Of its {len(arm)} runs, {len(low)} (seeds "
        f"{', '.join(sorted(low['seed']))}) lie between {low['value'].min():.2f} and {low['value'].max():.2f}, the other "
        f"{len(high)} between {high['value'].min():.2f} and {high['value'].max():.2f}, with none between. Their mean, "
        f"{arm['value'].mean():.3f}, describes neither; against scBERT's {full['value'].mean():.3f} the better group's "
        f"mean, {high['value'].mean():.3f}, is a loss of {100 * (full['value'].mean() - high['value'].mean()):.1f} "
        f"points, not {100 * (full['value'].mean() - arm['value'].mean()):.1f}.",
        f"**Four p-values belong to earlier runs.** Printed: {', '.join(f'{p:.3g}' for p in stale['printed'])}. The same "
        f"test (Student's) on the runs gives {', '.join(f'{p:.3g}' for p in stale['regenerated'])}. The cell that "
        f"printed them ran as number {stale['execution_count'].max()}, the cells that print the means of these runs as "
        f"{late} and later, so they most likely belong to earlier evaluations. Tried in vain: leaving out any one run, "
        "changing any one of scBERT's runs by up to a point, the few-shot evaluations of the same models in place of "
        "theirs, one-sided, Welch's, paired and rank tests. No conclusion changes.",
        f"**One model, two accuracies.** The models of the few-shot experiment at 100 % were evaluated twice; accuracy "
        f"moved by up to {100 * moved:.2f} points, as it may where a prediction depends on the cells of its batch (the "
        "stabiliser in the table of deviations).",
        f"**Intervals are too narrow.** Population standard deviations make every printed half width "
        f"{100 * (1 - np.sqrt(0.9)):.0f} % narrower than Student's for ten runs; the runs share one split, so none "
        "covers the choice of test cells.",
        f"**Other seeds, other arms.** scBERT's runs and the ablations' have {len(seeds[0] & seeds[1])} seeds in common, "
        f"of {len(seeds[0])} each; {len(again)} of scBERT's come from another script.",
        f"**Few-shot at 10 %:** one of {len(few)} runs of scBERT reached {few['value'].iloc[0]:.3f}, the others "
        f"{few['value'].iloc[1]:.3f} and {few['value'].iloc[-1]:.3f}; without it the mean is "
        f"{few['value'].iloc[1:].mean():.3f} instead of {few['value'].mean():.3f}.",
    ]
