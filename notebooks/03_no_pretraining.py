# %% [markdown]
# # 3 · What do pre-training and the gene embedding contribute?
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/03_no_pretraining.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/03_no_pretraining.ipynb)
# <!-- end of badges -->
#
# **The paper's claim.** Fine-tuned from random weights, without any pre-training, scBERT names cells nearly as well
# (0.758 against 0.766, the means of `data/published/runs.csv`). Without gene2vec, the embedding that tells it which
# gene is which, it is worse (0.701).
#
# <!-- finding: python -m lib.readme -->
# **What we find** in sorted blood cells (`figures/laptop`): scBERT without a gene embedding and scBERT are equivalent
# within 2 points either way in accuracy with all labels (+0.0 points, −2.1 to 2.1). It is undecided whether scBERT
# without pre-training or scBERT is ahead in accuracy with all labels (−3.1 points, −14.4 to 8.3). It is undecided whether
# pre-trained scBERT or scBERT without pre-training is ahead in accuracy with 10 % of the labels (−0.9 points, −5.2 to
# 3.4) and accuracy with 30 % of the labels (−0.4 points, −3.1 to 2.3). Of the runs, 1 of those of scBERT without
# pre-training (without their seeds +1.0 points, −3.7 to 5.8) stopped at their maximum, learnt nothing or fell back to a
# guess. The pre-training has seen the training cells alone, not a million others.
#
# **What we find** in liver cells (`figures/liver-laptop`): It is undecided whether scBERT without a gene embedding or
# scBERT is ahead in accuracy with all labels (−5.8 points, −27.0 to 15.3). scBERT without pre-training and scBERT are
# equivalent within 2 points either way in accuracy with all labels (+0.1 points, −0.7 to 0.9). It is undecided whether
# pre-trained scBERT or scBERT without pre-training is ahead in accuracy with 10 % of the labels (−3.5 points, −8.9 to
# 1.9) and accuracy with 30 % of the labels (−0.9 points, −2.8 to 1.0). Of the runs, 1 of those of scBERT without a gene
# embedding (without their seeds −1.1 points, −3.5 to 1.3) stopped at their maximum, learnt nothing or fell back to a
# guess. The pre-training has seen the training cells alone, not a million others.
# <!-- end of finding -->
#
# **What is done here.** The same fine-tuning, from three starting points: pre-trained; random weights, with *the same
# layers frozen*; pre-trained and fine-tuned without a gene embedding. Then the full question behind these ablations:
# pre-trained or not × last block or all blocks fine-tuned × a gene embedding that means something, one of random
# vectors, or none; and what pre-training is worth where labels are few.
#
# **Caveat.** In the `quick` profile, unless gene2vec's file is there, the gene embedding is `coexpression`, computed
# from the training cells alone, and the pre-training corpus is the training cells without their labels: 560 cells instead of 1.1
# million. What little pre-training can do here is not what it could do there.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README
dataset = None  # another data set by its name, such as macparland; None: that of the profile
seeds = None  # e.g. [0, 1, 2]; None: those of the profile
protocol = None  # "paper" or "clean"; None: that of the profile

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
import seaborn as sns
from IPython.display import Markdown, display

from lib import plots
from lib.arms import FACTORIAL, by_factors, factors
from lib.evaluate import differences, measures, words
from lib.experiments import profiles, runs, specs
from lib.paper import published, scorecard

plots.style()

# %% [markdown]
# ## The cells

# %%
chosen = profiles.load(profile, dataset=dataset, seeds=seeds, protocol=protocol)
profiles.describe(chosen)

# %% [markdown]
# ## The runs
#
# `no_pretraining` keeps the gene embedding and freezes random blocks in front of the last one: what is trained is the
# same as in `full`. Twelve arms in all; those that are not the paper's are run with fewer seeds, or all with a share of the labels,
# or some are left out, where the profile says so.
#
# The table under the runs says how training ended. *Best* is where the weights that are kept lie between the begin of training (0)
# and its end (1): near 1, a run was still getting better when it was stopped, and longer training could change what is said below.
# *Heads drawn again*: about one drawn head in a hundred lets no token of any cell pass its ReLU, and could learn nothing.

# %%
arms = ["full", "no_pretraining", "no_gene2vec"]
wanted = [specs.cell_types(chosen, arms), specs.factorial(chosen), specs.pretraining_effect(chosen)]
runs.complete(sum(wanted, []))  # all at once, so that no core waits for the others
done, factorial, few = map(runs.complete, wanted)
ours = measures.table(done)
paper = published.runs().query("experiment in ['baseline', 'ablation'] and dataset == @chosen['reproduces']")
measures.endings(done + factorial + few).assign(arm=lambda table: table["arm"].map(plots.label)).style.hide()

# %% [markdown]
# ## Scores beside the paper's

# %%
metrics = ["accuracy", "macro_f1", "accuracy_hard_pair", "macro_f1_hard_pair"]
words.beside_paper(ours, paper, metrics, arms, plots.label)

# %% [markdown]
# ## Figure 1: three starting points
#
# Look at how the paper's runs without a gene embedding fall into two groups, and how ours scatter: a difference
# between two means is worth little where the runs of one arm differ as much.

# %% tags=["figure"]
fig, axes = plt.subplots(2, 2, figsize=plots.mm(183, 135))
plots.compare(axes, ours, paper, metrics, arms)
plots.save(fig, "03_no_pretraining", ours.query("metric in @metrics").assign(source="ours"), chosen)

# %% [markdown]
# ## Figure 2: all twelve arms
#
# Each point is a run, bars are means; rings mark the paper's arms. Look at three things. Lines that fall to the right
# say that pre-training helps. A line of another colour above says that the gene embedding matters: if *random vectors*
# do as well as the real ones, it is enough to tell genes apart, and what the vectors mean adds nothing. The right panel
# says whether the frozen layers hold the models back.

# %%
table = measures.table(factorial)
accuracy = table.query("metric == 'accuracy'")
fig, axes = plt.subplots(1, 2, figsize=plots.mm(183, 81), sharey=True)
plots.factorial(axes, accuracy, arms)
axes[0].set_ylabel(f"Accuracy, {plots.percent(factorial[0].spec['fraction'])} of the labels")
of_arm = pd.DataFrame({name: factors(name) for name in FACTORIAL}, ["pretrained", "trained", "embedding"]).T
plots.save(fig, "03_factorial", accuracy.merge(of_arm, left_on="arm", right_index=True), chosen)

# %% [markdown]
# Each factor's effect with the others held, in points of accuracy with a 95 % interval over test cells, seeds and
# pre-trainings.
# Together with those of figure 3 they are one family of questions, so that p is adjusted over all of them by Holm's method, and
# no pair is judged twice: what is asked of the paper's arms with all labels is answered under "The answer". *Equivalent*: within
# 2 points either way by two one-sided tests.

# %%
claims = scorecard.family("ablation", done)
layers, kinds = ("last_block", "all"), ("own", "random", None)
pairs = [((True, t, e), (False, t, e)) for t in layers for e in kinds]  # pre-training
pairs += [((True, t, "own"), (True, t, e)) for t in layers for e in kinds[1:]]  # the gene embedding
pairs += [((p, "all", "own"), (p, "last_block", "own")) for p in (True, False)]  # all blocks trained
at, run = {"fraction": factorial[0].spec["fraction"]}, {each.spec["arm"] for each in factorial}
questions = [(by_factors(*a), by_factors(*b), "accuracy", at) for a, b in pairs]
questions = [question for question in questions if run >= set(question[:2])]
fractions = sorted({run.spec["fraction"] for run in few})
questions += [
    ("full", "no_pretraining", "accuracy", {"fraction": fraction}) for fraction in fractions if fraction != at["fraction"]
]
family = differences.family(differences.unasked(questions, claims), factorial + few)
effect = family[(family["arm"] == "full") & (family["reference"] == "no_pretraining")]
factor = family[family["fraction"] == at["fraction"]]
factor.to_csv(plots.folder(chosen) / "03_factors.csv", index=False, float_format="%.6g")
words.show_family(factor, plots.label)

# %% [markdown]
# ## Figure 3: where labels are few
#
# If pre-training helps anywhere, it should be here: from the same subsets of labelled cells, pre-trained or not. Left: each
# run a point. Right: what pre-training adds, with the 95 % interval over test cells, seeds and pre-trainings. Look at whether the
# difference grows to the left.

# %%
few_table = measures.table(few)
fractions = effect["fraction"].tolist()
fig, axes = plt.subplots(1, 2, figsize=plots.mm(183, 71))
plots.curves(axes[0], few_table, "accuracy", ["full", "no_pretraining"])
changes = effect[["difference", "low", "high"]].mul(100).assign(arm="full")
plots.estimates(axes[1], changes, fractions, "difference low high", orient="x")
axes[1].axhline(0, color=plots.INK, lw=0.8)
axes[1].set(title="What pre-training adds, 95 % interval", xlabel=axes[0].get_xlabel(), ylabel="points of accuracy")
axes[1].set_xticks(fractions, map(plots.percent, fractions))
plots.legend(fig, ["full", "no_pretraining"], ours="each run", **plots.crosses(few_table), mean="mean, 95 % Student interval")
plots.save(fig, "03_few_labels", few_table.query("metric == 'accuracy'"), chosen)
effect.to_csv(plots.folder(chosen) / "03_few_labels_difference.csv", index=False, float_format="%.6g")
words.show_family(effect, plots.label)

# %% [markdown]
# ## Figure 4: how they learn
#
# Loss on the training cells and accuracy on the cells that choose the weights, look by look, each run a line. Look at whether a
# pre-trained model learns sooner, and whether the lines are flat where they end.

# %%
logs = pd.concat([run.log.assign(arm=run.spec["arm"], seed=run.spec["seed"], run=run.id) for run in done])
chosen_on = "test cells" if chosen["protocol"] == "paper" else "cells that choose the weights"
fig, axes = plt.subplots(1, 2, figsize=plots.mm(183, 66))
look = {"hue": "arm", "palette": plots.PALETTE, "units": "run", "estimator": None, "lw": 0.9, "legend": False}
for ax, column in zip(axes, ["loss", "accuracy"]):
    sns.lineplot(logs, x="steps", y=column, ax=ax, **look)
axes[0].set(yscale="log", ylabel="", title="Cross-entropy, training cells")
axes[1].set(ylim=(0, 1), ylabel="", title=f"Accuracy, {chosen_on}")
plots.legend(fig, arms)
plots.save(fig, "03_learning", logs, chosen)

# %% [markdown]
# ## The answer
#
# What is lost by leaving something out, on the same test cells, with a 95 % interval over test cells,
# seeds and pre-trainings; beside it, the paper's runs with Welch's interval. Both arms and both scores are one family, whose verdicts are those of
# notebook 05. Then the twelve arms, and few labels, in a sentence each.

# %% tags=["answer", "table"]
claims.query("metric == 'accuracy'").to_csv(plots.folder(chosen) / "03_difference.csv", index=False, float_format="%.6g")
display(words.show_family(claims, plots.label))
names = {"no_pretraining": "scBERT without pre-training", "no_gene2vec": "scBERT without gene embedding"}
lines = []
for found in claims.query("metric == 'accuracy'").to_dict("records"):
    theirs = published.difference("ablation", chosen["reproduces"], found["arm"], "full")
    lines.append(f"- {words.describe(found, names[found['arm']], 'scBERT')}")
    lines[-1] += f" {words.describe(theirs, names[found['arm']], 'scBERT', 'In the paper')}" if theirs else ""
by_factor = {}
for row in factor.to_dict("records"):
    differ = [one != other for one, other in zip(factors(row["arm"]), factors(row["reference"]))].index(True)
    by_factor.setdefault(differ, []).append(row)
for differ, name in enumerate(
    (
        "Pre-training, over pairs of arms that differ in nothing else",
        "Training all blocks",
        "The gene embedding against random vectors or none, pre-trained",
    )
):
    if differ in by_factor:  # a profile may do without the arms
        lines.append(words.summary(name, pd.DataFrame(by_factor[differ])))
lines.append(words.summary("Pre-training, by share of the labels", effect))
Markdown("\n".join(lines))

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, or one of the published runs of `data/runs`, with its specification, its
# log and its predictions, cell by cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
