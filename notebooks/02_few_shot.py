# %% [markdown]
# # 2 · Does pre-training help when there are few labels?
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/02_few_shot.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/02_few_shot.ipynb)
# <!-- end of badges -->
#
# **The paper's claim.** Pre-training should pay most where labels are few. It does not: trained on 10 %, 25 %, 50 %
# or 75 % of the labelled cells, logistic regression still names cells as well as scBERT.
#
# <!-- finding: python -m lib.readme -->
# **What we find** in sorted blood cells (`figures/laptop`): With few labels logistic regression is ahead of scBERT in
# accuracy at 10 % (+5.5 points, 1.7 to 9.2), macro-F1 at 10 % (+9.1 points, 5.4 to 12.7), accuracy at 30 % (+3.2 points,
# 0.7 to 5.8) and macro-F1 at 30 % (+5.8 points, 2.5 to 9.1). Where both learn from the same four fifths of them (scBERT
# ends by the rest), it is undecided whether logistic regression or scBERT is ahead in accuracy at 10 % (+4.0 points, −0.0
# to 8.1), macro-F1 at 10 % (+7.0 points, 1.7 to 12.3), accuracy at 30 % (+2.3 points, −0.4 to 5.0) and macro-F1 at 30 %
# (+4.3 points, 1.0 to 7.6). Both sides have the settings that were chosen with all labels.
#
# **What we find** in liver cells (`figures/liver-laptop`): With few labels it is undecided whether logistic regression or
# scBERT is ahead in accuracy at 10 % (+1.9 points, −1.8 to 5.6), macro-F1 at 10 % (+2.9 points, −3.7 to 9.5), accuracy at
# 30 % (+1.0 points, −1.1 to 3.1) and macro-F1 at 30 % (+3.0 points, −1.6 to 7.6). Where both learn from the same four
# fifths of them (scBERT ends by the rest), logistic regression and scBERT are equivalent within 2 points either way in
# accuracy at 30 % (−0.1 points, −2.1 to 1.8); it is undecided whether logistic regression or scBERT is ahead in accuracy
# at 10 % (−0.1 points, −4.3 to 4.2), macro-F1 at 10 % (−2.8 points, −11.5 to 6.0) and macro-F1 at 30 % (+0.7 points, −2.9
# to 4.3). Both sides have the settings that were chosen with all labels.
# <!-- end of finding -->
#
# **What is done here.** For each fraction and seed one random subset of the training cells is drawn, and *every*
# model learns from that same subset.
#
# **Caveat.** In the `quick` profile a tenth of the labels is 56 cells for ten types, far fewer than the paper's 5,476:
# some rare types are then not seen at all. The subset is drawn without regard to type, as the authors did.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README
dataset = None  # another data set by its name, such as macparland; None: that of the profile
seeds = None  # e.g. [0, 1, 2]; None: those of the profile
protocol = None  # "paper" or "clean"; None: that of the profile
fractions = None  # e.g. [0.1, 0.5, 1.0]; None: those of the profile

# %%
import subprocess
import sys
from pathlib import Path

root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lib" / "arms.py").exists()), Path("scbert"))
if "google.colab" in sys.modules:  # Colab opens the notebook alone: fetch the rest, and install what is missing there
    if not root.exists():
        subprocess.run(["git", "clone", "--depth", "1", "https://github.com/OWNER/REPOSITORY.git", root], check=True)
    missing = root / "notebooks" / "requirements-colab.txt"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-r", missing], check=True)
if not root.exists():
    raise FileNotFoundError("This notebook needs the folder lib of its repository: open it there.")
sys.path.insert(0, str(root.resolve()))

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from lib import plots
from lib.evaluate import measures, words
from lib.experiments import profiles, runs, specs
from lib.paper import published, scorecard

plots.style()

# %% [markdown]
# ## The cells

# %%
chosen = profiles.load(profile, dataset=dataset, few_shot_seeds=seeds, protocol=protocol, fractions=fractions)
profiles.describe(chosen)

# %% [markdown]
# ## The runs
#
# Look at how many types a subset holds: a type that is absent from it cannot be predicted by any model.

# %%
arms = ["logistic_regression", "full", "majority"]
done = runs.complete(specs.few_shot(chosen))
ours = measures.table(done)
labels = chosen["adata"].obs["cell_type"].to_numpy()
subsets = [run.spec | {"cells": run.predictions["train"]} for run in done if run.spec["arm"] == "majority"]
subsets = pd.DataFrame(
    [
        {"fraction": s["fraction"], "seed": s["seed"], "cells": len(s["cells"]), "types": len(set(labels[s["cells"]]))}
        for s in subsets
    ]
)
subsets.pivot(index="fraction", columns="seed", values=["cells", "types"])

# %% [markdown]
# ## Scores beside the paper's
#
# Mean ± half the 95 % Student interval (n runs; pre-trainings and seeds are two levels of it). With three of either it is wide: its quantile
# is 4.3, not 2.

# %%
paper = published.runs().query("dataset == @chosen['reproduces'] and experiment in ['few_shot', 'baseline']")
paper = paper[(paper["experiment"] == "few_shot") | (paper["arm"] == "logistic_regression")]
rows = {}
for fraction in chosen["fractions"]:
    ours_here, paper_here = (table[table["fraction"] == fraction] for table in (ours, paper))
    rows[f"{fraction:.0%}"] = words.beside_paper(ours_here, paper_here, ["accuracy", "macro_f1"], arms[:2], plots.label)
pd.concat(rows, names=["labels"])

# %% [markdown]
# ## Figure: learning curves
#
# Look at whether the orange curve (scBERT) lies above the blue ones on the left, where labels are few. Upper panels:
# ours. Lower panels: the paper's. With the protocol `clean` scBERT keeps a fifth of its labels to end by; *labels as scBERT* is
# logistic regression without that fifth.

# %% tags=["figure"]
curves = [arms[0], *(arm for arm in dict.fromkeys(ours["arm"]) if arm not in arms), *arms[1:]]
fig, axes = plt.subplots(2, 2, figsize=plots.mm(183, 143))
for ax, metric in zip(axes[0], ["accuracy", "macro_f1"]):
    plots.curves(ax, ours, metric, curves)
for ax, metric in zip(axes[1], ["accuracy", "macro_f1"]):
    plots.curves(ax, paper, metric, arms[:2], "paper")
    ax.set_title(f"{plots.METRICS[metric]}, the paper ({chosen['reproduces']})")
plots.legend(
    fig,
    curves,
    4,
    ours="ours, each run",
    **plots.crosses(ours),
    paper="the paper, each run",
    mean="mean, 95 % Student interval",
)
columns = ["arm", "fraction", "seed", "metric", "value"]
drawn = pd.concat([ours.assign(source="ours")[[*columns, "run", "source"]], paper.assign(source="paper")[[*columns, "source"]]])
plots.save(fig, "02_few_shot", drawn.query("metric in ['accuracy', 'macro_f1']"), chosen)

# %% [markdown]
# ## The answer
#
# Logistic regression minus scBERT in points of accuracy, from the same subsets and test cells, with a 95 % interval
# over test cells, seeds and pre-trainings; beside it the paper's, with Welch's interval over its runs. An interval that covers
# zero does not show that there is no difference: look at how wide it is. With all labels the question is that of notebook 01,
# and answered there.

# %%
family = scorecard.family("few_shot", done)
family.to_csv(plots.folder(chosen) / "02_family.csv", index=False, float_format="%.6g")
rows = []
for found in family.query("metric == 'accuracy'").to_dict("records"):
    theirs = published.difference("few_shot", chosen["reproduces"], *arms[:2], fraction=found["fraction"]) or {}
    row = {"fraction": found["fraction"], "ours": found["difference"], "ours_low": found["low"], "ours_high": found["high"]}
    names = {"paper": "difference", "paper_low": "low", "paper_high": "high"}
    rows.append(row | {name: theirs[key] for name, key in names.items() if theirs})
answer = pd.DataFrame(rows)
answer.to_csv(plots.folder(chosen) / "02_difference.csv", index=False, float_format="%.6g")
shown = answer.assign(fraction=answer["fraction"].map(plots.percent)).set_index("fraction").mul(100)
shown.rename_axis("labels (differences in points)").style.format(precision=1, na_rep="–")

# %% [markdown]
# These fractions and both scores are one family of questions: the more are asked, the likelier one of them has p < 0.05
# by chance. Holm's adjusted p allows for that, and with the interval decides on *ahead* and *behind*; *equivalent* means within 2
# points either way by two one-sided tests at 5 %; *undecided*, that neither is shown. The verdicts are those of notebook 05.
#
# Is it the model, or its labels? With the protocol `clean` scBERT keeps a fifth of its labels to end by. Logistic regression needs none
# for that, since C was chosen before, and learns from all of them. That is what both can do with so many labels. In the second table
# logistic regression learns from the same four fifths as scBERT; a family of questions of its own.

# %% tags=["answer", "table"]
same = scorecard.same_labels(done)  # without a row under the authors' protocol, where both learn from the same labels already
same.to_csv(plots.folder(chosen) / "02_same_labels.csv", index=False, float_format="%.6g")
display(*(words.show_family(each, plots.label) for each in (family, same) if not each.empty))
Markdown(words.by_fraction(family, "logistic regression", "scBERT", same))

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, or one of the published runs of `data/runs`, with its specification, its
# log and its predictions, cell by cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
