# %% [markdown]
# # 8 · What holds at the paper's size that a CPU can reach
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/08_full_size.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/08_full_size.ipynb)
# <!-- end of badges -->
#
# **The question.** The small scBERT of `quick` and `laptop` may lose, or win, because it is small. What happens at 16,906 genes,
# with six blocks of width 200?
#
# <!-- finding: python -m lib.readme -->
# **What we find** in sorted blood cells at the paper's size (`figures/standard`): Of the runs of scBERT without a gene
# embedding 3 of 8 pre-trained on the training cells, 1 of 8 not pre-trained, 1 of 8 pre-trained on 3,003 other cells and
# 3 of 8 pre-trained on 11,562 other cells stay at a guess; the others name 0.404 to 0.885 (median 0.869) of the test
# cells right, logistic regression 0.881 to 0.894. It is undecided whether logistic regression or scBERT without a gene
# embedding is ahead in accuracy, pre-trained on the training cells (+30.7 points, −35.2 to 96.6), accuracy, not
# pre-trained (+9.7 points, −9.8 to 29.3), accuracy, pre-trained on 3,003 other cells (+17.6 points, −14.2 to 49.4) and
# accuracy, pre-trained on 11,562 other cells (+27.4 points, −36.2 to 91.1). Logistic regression is ahead of scBERT
# without a gene embedding in accuracy, not pre-trained, with 10 % of the labels (+4.9 points, 2.9 to 7.0). scBERT's
# weights are chosen on the reported cells where the protocol is the authors', which favours it. Of the runs, 3 of those
# of scBERT without a gene embedding (without their seeds +4.0 points, −0.0 to 8.0), 1 of those of scBERT with neither a
# gene embedding nor pre-training (without their seeds +1.5 points, −0.6 to 3.6), 1 of those of scBERT without a gene
# embedding, pre-trained on 3,003 other cells (without their seeds +8.4 points, −16.6 to 33.3) and 3 of those of scBERT
# without a gene embedding, pre-trained on 11,562 other cells (without their seeds +3.0 points, −2.0 to 8.0) stopped at
# their maximum, learnt nothing or fell back to a guess. Of the cells of another preparation: their labels were given by
# likeness to the means of sorted types (Zheng et al. 2017), which favours a nearest mean. The arm that the paper is
# about, with a gene embedding and pre-trained, is not among them.
#
# **What we find** in sorted blood cells (`figures/laptop`): Asked about 150 cells of another preparation, compared with
# logistic regression in accuracy: ahead of it is Nearest mean cell of a type (+16.7 points, 8.4 to 25.0); behind it are
# Random, by share (−34.1 points, −42.7 to −25.6) and Majority class (−36.0 points, −44.2 to −27.8); undecided are scBERT,
# no gene embedding, scBERT, no gene embedding, not pre-trained, Ranks, projected on types' means, Nearest neighbours in
# PCA, Logistic regression (L1), detected or not, Logistic regression (L1) on tokens, Logistic regression (L1), labels as
# scBERT, Logistic regression (L1), types weighted alike, Logistic regression (L2) and scBERT's head, no transformer (−6.7
# to +8.9 points). Their labels were given by likeness to the means of sorted types (Zheng et al. 2017), which favours a
# nearest mean.
# <!-- end of finding -->
#
# **What is done here.** Without a gene embedding, all genes of a cell that show one token are in one state in every layer, so that
# scBERT at its full size costs minutes on a CPU, exactly (notebook 04). Those arms are trained from random weights and pre-trained,
# in both protocols, and stand beside logistic regression and the controls on the same cells. In
# `standard` each seed fine-tunes one of the pre-trainings, in turn; cells from elsewhere are pre-trained on too, and few labels are
# learnt from.
#
# **Caveat.** Only `./run_all.sh --profile standard --only 08` answers this, from published runs in a minute or two: in `quick` and
# `laptop` the model is the small one, and the figures below say what these arms do there. The arm that the paper is about, with gene2vec and pre-trained on Panglao, is not among them: it needs a GPU.
# What is missing is listed at the end, by name.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README
dataset = None  # another data set by its name, such as liver; None: that of the profile
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
from lib.arms import FACTORIAL
from lib.evaluate import calibration, controls, differences, heads, measures, words
from lib.experiments import profiles, runs, specs
from lib.paper import published

plots.style()

# %% [markdown]
# ## The cells

# %%
chosen = profiles.load(profile, dataset=dataset, seeds=seeds, protocol=protocol)
profiles.describe(chosen)

# %% [markdown]
# ## The runs
#
# Look at how each training ended, and whether a run learnt nothing: the paper's runs of this arm fall into two groups, of which the
# lower is far behind.

# %%
arms = ["logistic_regression", "no_gene2vec", "no_gene2vec_no_pretraining"]
wanted = [specs.cell_types(chosen, arms), specs.controls(chosen), specs.other_protocol(chosen, arms[1:])]
wanted_few = specs.few_labels(chosen)
pretrained_on = {cells: runs.to_be_had(each) for cells, each in specs.corpora(chosen).items()}
runs.complete(sum([*wanted, *wanted_few.values(), *pretrained_on.values()], []))  # all at once: no core waits for the others
done, bracketing, other = map(runs.complete, wanted)
few = {protocol: runs.complete(each) for protocol, each in wanted_few.items()}
elsewhere = {cells: runs.complete(each) for cells, each in pretrained_on.items() if each}
ours = measures.table(done)
begun = {run.id: corpus for corpus, each in elsewhere.items() for run in each}
every = {run.id: run for run in sum([done, other, *few.values(), *elsewhere.values()], [])}
rows = measures.table(list(every.values()))
rows["corpus"], rows["protocol"] = rows["run"].map(begun), rows["run"].map(lambda name: every[name].spec["protocol"])
rows.assign(run="run-" + rows["run"]).to_csv(plots.folder(chosen) / "08_runs.csv", index=False, float_format="%.6g")
paper = published.runs().query("experiment in ['baseline', 'ablation'] and dataset == @chosen['reproduces']")
measures.endings(done + bracketing + other).assign(arm=lambda table: table["arm"].map(plots.label)).style.hide()

# %% [markdown]
# ## Figure 1: beside the paper's runs
#
# Look at whether the pink points lie in one group or in two, and how far below the blue ones.

# %% tags=["figure"]
metrics = ["accuracy", "macro_f1", "accuracy_hard_pair", "macro_f1_hard_pair"]
fig, axes = plt.subplots(2, 2, figsize=plots.mm(183, 113))
plots.compare(axes, ours, paper, metrics, arms)
plots.save(fig, "08_full_size", ours.query("metric in @metrics").assign(source="ours"), chosen)
words.beside_paper(ours, paper, metrics, arms, plots.label)

# %% [markdown]
# ## Figure 2: between the controls
#
# Mean over the runs with the 95 % interval over the test cells alone.

# %%
bracket = controls.bracket(done + bracketing)
fig, pair = plt.subplots(1, 2, figsize=plots.mm(183, 105), sharey=True)
plots.dots(pair, bracket.rename(columns={"mean": "value"}), {"accuracy": "Accuracy", "macro_f1": "Macro-F1"})
for ax in pair:
    ax.set_xlim(0, 1)
plots.save(fig, "08_controls", bracket, chosen)

# %% [markdown]
# ## Figure 3: had they ended?
#
# Cross-entropy on the training cells and accuracy on those that choose the weights, each run a line, in both protocols. Look at
# whether the lines are flat where they end.

# %%
logs = pd.concat(
    [
        run.log.assign(arm=run.spec["arm"], protocol=run.spec["protocol"], seed=run.spec["seed"], run=run.id)
        for run in done + other
        if run.spec["model"] == "scBERT"
    ]
)
fig, axes = plt.subplots(2, 2, figsize=plots.mm(183, 117), sharex=True, sharey="col")
columns = {"loss": "loss, training cells", "accuracy": "accuracy, cells that choose"}
look = {"x": "steps", "style": "protocol", "style_order": ["clean", "paper"], "units": "run", "estimator": None, "lw": 0.9}
for row, arm in zip(axes, arms[1:]):
    for ax, (column, name) in zip(row, columns.items()):
        told = logs[logs["arm"] == arm]
        sns.lineplot(told, y=column, ax=ax, color=plots.PALETTE[arm], legend=ax is axes[0, 1], **look)
        ax.set(ylabel=name, title=plots.label(arm) if column == "loss" else "")
axes[0, 0].set(yscale="log")
axes[0, 1].set(ylim=(0, 1))
fig.legend(*axes[0, 1].get_legend_handles_labels(), title="protocol", loc="outside upper center", ncols=2)
axes[0, 1].get_legend().remove()
plots.save(fig, "08_learning", logs, chosen)

# %% [markdown]
# ## Figure 4: what the head lets pass
#
# scBERT's head turns each gene's state into one number, and a ReLU drops those below zero. *Contrast* is the share of the detected
# genes (tokens 1 to 5) that pass, less that of the zeros: at 1 all that follows sees which genes are detected, at −1 which are not, at
# 0 the two look alike. Left: as drawn, before fine-tuning. Right: after. Look at whether a run can be good where the two look alike,
# and, at the paper's size, where it is the zeros that pass, nine tenths of all genes. Runs that were published before this was
# recorded are not in it.

# %%
told = heads.passing(list(every.values()))
if len(told):
    begun = told["pretraining"].notna().map({True: "pre-trained", False: "not pre-trained"})
    told["training"] = begun.where(told["flagged"] == "", "learnt nothing, or not ended")
    told["labels"] = told["fraction"].map(plots.percent)
    fig, pair = plt.subplots(1, 2, figsize=plots.mm(183, 75), sharey=True)
    look = {"hue": "labels", "style": "training", "palette": [plots.PALETTE[arm] for arm in ("full", "logistic_regression")]}
    look |= {"hue_order": sorted(told["labels"].unique(), key=len, reverse=True), "alpha": 0.8, "s": 26}
    look |= {"markers": {"pre-trained": "o", "not pre-trained": "s", "learnt nothing, or not ended": "X"}}
    for ax, when in zip(pair, ("before", "after")):
        sns.scatterplot(told, x=f"contrast {when}", y="accuracy", ax=ax, legend=when == "after", **look)
        ax.set(title=f"{when} fine-tuning".capitalize(), xlabel="contrast: detected − zeros that pass", ylabel="Accuracy")
        ax.set(xlim=(-1.08, 1.08), ylim=(0, 1))
    fig.legend(*pair[1].get_legend_handles_labels(), loc="outside upper center", ncols=7)
    pair[1].get_legend().remove()
    plots.save(fig, "08_heads", told.drop(columns=["training", "labels"]), chosen)

# %% [markdown]
# ## Figure 5: few labels
#
# The same labelled cells for all. The arm with a gene embedding is among them, from random weights: its blocks but for the last are
# frozen, so that what they make of a cell is computed once. Look at whether the distance to logistic regression is that of all labels.
# Under the authors' protocol (*paper*) ten epochs of few cells are few steps: more of them could turn what the table says. Where a
# profile has that protocol, what is not too slow is trained to its plateau as well (*clean*), each protocol a family of its own: there
# scBERT keeps a fifth of its labels to end by, and logistic regression is asked on the other four fifths too (*labels as scBERT*).

# %%
first, *again = few.values()
compared = [first, *([run for run in first if run.spec["model"] != "scBERT"] + each for each in again)]  # one baseline for all
short = pd.concat([measures.table(each).assign(protocol=protocol) for protocol, each in few.items()])
trained = {run.id for each in few.values() for run in each if run.spec["model"] == "scBERT"}
short["row"] = short["arm"].map(plots.label) + (", " + short["protocol"]).where(short["run"].isin(trained), "")
fig, pair = plt.subplots(1, 2, figsize=plots.mm(183, 25 + 12 * short["row"].nunique()), sharey=True)
plots.by_row(pair, short.sort_values("arm", kind="stable"), differences.METRICS)
fig.suptitle(f"{plots.percent(short['fraction'].iloc[0])} of the labels", fontsize="medium", x=0.01, ha="left")
plots.save(fig, "08_few_labels_runs", short.query("metric in @differences.METRICS").drop(columns="row"), chosen)
families = []
for protocol, each in zip(few, compared):
    there, at = {run.spec["arm"] for run in each}, {"fraction": each[0].spec["fraction"]}
    asked = [(arms[0], arms[2]), (arms[0], "no_pretraining"), ("no_pretraining", arms[2])]
    asked += [("logistic_regression_four_fifths", arms[2])]  # both from the labels that scBERT learns from
    asked = [(*two, metric, at) for two in asked for metric in differences.METRICS if there >= set(two)]
    families.append(differences.family(asked, each).assign(protocol=protocol))
scarce = pd.concat(families)
scarce.to_csv(plots.folder(chosen) / "08_few_labels.csv", index=False, float_format="%.6g")
words.show_family(scarce, plots.label)

# %% [markdown]
# ## Other cells to pre-train on
#
# The arm without a gene embedding, pre-trained on cells from elsewhere in place of the training cells: against logistic regression,
# and against the same from random weights. Each set of cells is a family of its own. Where a profile names no such cells, the table
# has no rows.

# %%
families = []
for name, pretrained in elsewhere.items():
    beside = pretrained + [run for run in done if run.spec["arm"] != "no_gene2vec"]
    asked = [(arm, "no_gene2vec", metric, {}) for arm in (arms[0], arms[2]) for metric in differences.METRICS]
    families.append(differences.family(asked, beside).assign(corpus=name))
corpora = pd.concat(families) if families else scarce.iloc[:0].assign(corpus="")
corpora.to_csv(plots.folder(chosen) / "08_corpora.csv", index=False, float_format="%.6g")
if families:
    display(words.show_family(corpora, plots.label))
measures.endings(sum(elsewhere.values(), [])).style.hide()

# %% [markdown]
# ## Cells from elsewhere
#
# The models trained above, asked about cells that they have nothing to do with: in `standard` and `laptop` 165 of Zheng68K, which
# were not sorted, 15 of each type. Their labels were given by rank correlation with the mean of each sorted type, so that whatever
# compares with means, as *nearest mean cell*, has an advantage; Dendritic is one that the models never met. Look at whether who is ahead
# on the test cells is ahead here, how far all fall, and whether logistic regression on scBERT's input (*tokens*) or on detected genes
# falls as far: if not, the input explains it, not the transformer. *auc*: as in notebook 07. Without such cells there is no table.

# %%
asked = {run.id: run for run in done + bracketing if "depths" not in run.spec}.values()
groups = {arm: [run for run in asked if run.spec["arm"] == arm] for arm in dict.fromkeys(run.spec["arm"] for run in asked)}
groups |= {f"no_gene2vec, {cells}": each for cells, each in elsewhere.items()}
probed = {name: specs.probe(chosen, [run.spec for run in each]) for name, each in groups.items()}
probed = {name: runs.complete(runs.to_be_had(each)) for name, each in probed.items()}
(first, *others), reasons = probed, measures.flagged(sum(groups.values(), []))
rows = []
for name in (name for name in others if probed[first] and probed[name]):
    bad = {differences.drawn(run) for run in groups[name] if run.id in reasons}
    row = {"arm": first, "reference": groups[name][0].spec["arm"], "corpus": name.partition(", ")[2], "metric": "accuracy"}
    rows.append(row | calibration.elsewhere_difference(probed[first], probed[name], bad))
outside = differences.judged(rows) if rows else scarce.iloc[:0].assign(corpus="")
outside.to_csv(plots.folder(chosen) / "08_elsewhere.csv", index=False, float_format="%.6g")
if rows:
    found = pd.concat([calibration.elsewhere(each).assign(group=name) for name, each in probed.items() if each])
    found.assign(run="run-" + found["run"]).to_csv(plots.folder(chosen) / "08_elsewhere_runs.csv", index=False)
    told = found.groupby("group", sort=False)[["accuracy", "auc"]].agg(["median", "min", "max"])
    display(told.style.format(precision=3), words.show_family(outside, plots.label))

# %% [markdown]
# ## The answer
#
# Differences on the same test cells, with a 95 % interval that covers the luck of the test cells, of seeds and of pre-trainings. All
# rows of a table are one family, for which p is adjusted by Holm's method. *Equivalent*: within 2 points either way by two one-sided
# tests.

# %% tags=["answer", "table"]
questions = [("logistic_regression", arm, metric, {}) for arm in arms[1:] for metric in differences.METRICS]
questions += [(*arms[1:], metric, {}) for metric in differences.METRICS]
claims = differences.family(questions, done)
theirs = differences.family([(*arms[1:], metric, {}) for metric in differences.METRICS], other)
claims.to_csv(plots.folder(chosen) / "08_family.csv", index=False, float_format="%.6g")
theirs.to_csv(plots.folder(chosen) / "08_other_protocol.csv", index=False, float_format="%.6g")
display(words.show_family(claims, plots.label), words.show_family(theirs, plots.label))
named = {arm: plots.label(arm) for arm in arms}
accuracy = claims.query("metric == 'accuracy'").to_dict("records")
sentences = [words.describe(row, named[row["arm"]], named[row["reference"]]) for row in accuracy]
if chosen["size"]["dim"] < 200:
    sentences.insert(0, f"**A small scBERT, of width {chosen['size']['dim']}**: of the paper's size `figures/standard` tells.")
Markdown("\n".join(f"- {sentence}" for sentence in sentences))

# %% [markdown]
# ## What was not run
#
# Of scBERT's twelve arms, those without a gene embedding whose last block alone is trained are above, and with a gene embedding what
# was not pre-trained, on few labels. The others are missing here at this size, and so is pre-training on the authors' Panglao:

# %%
missing = [name for name in FACTORIAL if name not in {run.spec["arm"] for run in sum(few.values(), done)}]
pd.DataFrame({"arm": [plots.label(name) for name in missing], "in this notebook": "not run"}).style.hide()

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, or one of the published runs of `data/runs`, with its specification, its
# log and its predictions, cell by cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
