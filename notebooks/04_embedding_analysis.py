# %% [markdown]
# # 4 · What has the pre-trained model learnt?
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/04_embedding_analysis.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/04_embedding_analysis.ipynb)
# <!-- end of badges -->
#
# **The paper's claim.** The pre-training task, to fill in the hidden expression of genes, can be done well without
# meaningful representations of genes. Without gene2vec the model gives *one* answer for all hidden genes of a cell,
# the cell's most common bin, and is right as often as that simple rule (its Table 3).
#
# <!-- finding: python -m lib.readme -->
# **What we find** in sorted blood cells (`figures/laptop`): On hidden genes scBERT and a rule that counts bins, without a
# transformer, are equivalent within 2 points either way (+0.4 points, −0.5 to 1.4). Without a gene embedding its answer
# is right for 0.609 of the hidden genes, the cell's most common bin for 0.608. scBERT's representation of cells is behind
# that by principal components in the share of cells that their nearest neighbours name right (−17.3 points, −25.2 to
# −9.4). 3 pre-trainings on the training cells, without their labels.
#
# **What we find** in liver cells (`figures/liver-laptop`): On hidden genes it is undecided whether scBERT or a rule that
# counts bins, without a transformer, is ahead (−1.1 points, −2.5 to 0.4). Without a gene embedding its answer is right
# for 0.514 of the hidden genes, the cell's most common bin for 0.515. scBERT's representation of cells is behind that by
# principal components in the share of cells that their nearest neighbours name right (−40.8 points, −45.7 to −36.0). 3
# pre-trainings on the training cells, without their labels.
# <!-- end of finding -->
#
# **What is done here.** The masked task on held-out cells, with and without a gene embedding, against that rule and two
# others that need no transformer. Then what the gene and cell representations hold: whether a gene's state moves with the
# cell, which genes lie near each other before and after the transformer, and whether cells of one type lie closer together
# than in plain principal components.
#
# **Caveat.** In the `quick` profile the model is small and its corpus are 560 cells; the gene embedding is
# `coexpression`, not gene2vec. That a model without a gene embedding can only say one thing for a cell's hidden genes
# is a matter of its architecture and holds at any size.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README
dataset = None  # another data set by its name, such as macparland; None: that of the profile

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
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown, display

from lib import plots
from lib.evaluate import calibration, differences, masked, measures, representations, words
from lib.experiments import profiles, runs, specs, store
from lib.paper import scorecard
from lib.prepare import cells, splits
from lib.prepare.tokens import tokenize

plots.style()

# %% [markdown]
# ## The cells

# %%
chosen = profiles.load(profile, dataset=dataset)
profiles.describe(chosen)

# %% [markdown]
# ## The masked task
#
# Of each test cell 15 % of the expressed genes are targets; nine tenths of those are hidden, and these are scored. A
# cell's *most common bin* is that of its expressed genes, hidden ones included: the rule knows more than a model can,
# and still knows nothing about genes.
#
# First, how the pre-training ended that these models come from. Where *best* is near 1 it was still getting better when it was
# stopped: then a rule that is ahead of it below may not stay ahead.

# %%
done = runs.complete(specs.masked(chosen))
ended = measures.endings(runs.complete([run.spec["pretraining"] for run in done]))
display(
    ended.assign(arm=ended["arm"].map(plots.label))
    .drop(columns=["heads drawn again", "learnt nothing", "fell back"])
    .style.hide()
)
card = scorecard.masked_scorecard(done, chosen["reproduces"]).query("dataset == @chosen['reproduces']")
card["ours ± interval"] = [words.show(mean, half) for mean, half in zip(card["ours"], card["half_width_ours"])]
card.assign(arm=card["arm"].map(plots.label)).set_index(["arm", "metric"])[["ours ± interval", "paper"]]

# %% [markdown]
# ## Figure 1: the paper's Table 3
#
# Share of all hidden genes of the test cells, as the authors count, mean over the pre-trainings with a 95 % interval for other cells
# and other pre-trainings; diamonds are the paper's (Zheng68K). Without a
# gene embedding a model can give one answer only for all hidden genes of a cell. Look at how often that answer is the
# rule's (right pair), and how much better a model with an embedding does (left pair).

# %% tags=["figure"]
fig, ax = plt.subplots(figsize=plots.mm(165, 72))
plots.masked_task(ax, card)
plots.save(fig, "04_masked_task", card[["arm", "metric", "ours", "half_width_ours", "n_ours", "paper"]], chosen)

# %%
arms, lines = measures.by_arm(done), []
for arm, own in arms.items():
    p = own[0].predictions
    answers = np.mean([len(set(p["predicted"][p["cell"] == cell])) for cell in np.unique(p["cell"])])
    found = masked.over({"rule": np.eye(7)[p["most_common_bin"]]}, "rule", own)
    lines.append(
        f"- {words.describe(found, plots.label(arm), 'the rule', 'On hidden genes')} On average "
        f"{answers:.1f} different answers in a cell."
    )
Markdown("\n".join(lines))

# %% [markdown]
# ## Figure 2: how much of that needs no model?
#
# Three rules with what a count can know: the cell's most common bin among its *visible* genes; the gene's most common bin
# among the training cells that express it; and both together, in an additive model with one weight for each. Look at the
# distance from the additive rule to scBERT: that is what a transformer adds to knowing how deep the cell is and how strongly the
# gene is usually expressed. *Macro*: the mean of the five bins' recalls, which a rule that always says the same bin cannot
# win. Drawn is the first pre-training; bars are 95 % bootstrap intervals over cells. The sentence below is on all pre-trainings.

# %%
by_arm = {arm: own[0] for arm, own in arms.items()}  # of the first pre-training: what is drawn
stored = cells.read(chosen["fingerprint"])
train, _ = splits.holdout(stored.labels, **chosen["split"])
answers = masked.rules(stored.tokens, train, by_arm["full"])
answers |= {arm: by_arm[arm].predictions["probabilities"] for arm in ("no_gene2vec", "full")}
scores = masked.scores(answers, by_arm["full"])
fig, axes = plt.subplots(1, 2, figsize=plots.mm(183, 66), sharey=True)
titles = {"accuracy": "Accuracy on hidden genes", "macro": "Macro: mean recall of the bins"}
plots.dots(axes, scores.rename(columns={"answer": "arm"}), titles)
plots.save(fig, "04_rules", scores, chosen)

# %% tags=["answer"]
value = scores.pivot(index="answer", columns="metric", values="value")
over = masked.over(answers, "additive", arms["full"])  # all pre-trainings
found = {"arm": "full", "reference": "additive", "metric": "masked_accuracy"} | over | {"verdict": words.verdict(over)}
pd.DataFrame([found]).to_csv(plots.folder(chosen) / "04_difference.csv", index=False, float_format="%.6g")
gain = value.loc["full", "accuracy"] - value.loc["cell_rule", "accuracy"]
Markdown(
    f"Over the cell's most common visible bin, scBERT gains {100 * gain:+.1f} points; the additive rule, without a model of "
    f"the cell, {100 * (value.loc['additive', 'accuracy'] - value.loc['cell_rule', 'accuracy']):+.1f}. "
    f"{words.describe(over, 'scBERT', 'the additive rule', 'On hidden genes')} "
    "Recall by bin, 1 to 5: "
    + "; ".join(
        f"{plots.label(name)} " + ", ".join(f"{value.loc[name, f'recall[{b}]']:.2f}" for b in range(1, 6))
        for name in ("full", "additive", "cell_rule")
    )
    + "."
)

# %% [markdown]
# ## Figure 3: is it as sure as it is right?
#
# Answers in ten bins by their probability; on the dotted line an answer given with 70 % is right in 70 % of the cases. Look at
# whether the model knows more about its own errors than the additive rule does.

# %%
target = by_arm["full"].predictions["target"]
tables = {
    name: calibration.reliability(answers[name].max(1), answers[name].argmax(1) == target)
    for name in ("additive", "no_gene2vec", "full")
}
tables = pd.concat(tables, names=["answer"]).reset_index("answer")
fig, ax = plt.subplots(figsize=plots.mm(110, 84))
plots.reliability(ax, tables.rename(columns={"answer": "arm"}))
plots.save(fig, "04_calibration", tables, chosen)
errors = scores.query("metric == 'calibration_error'").set_index("answer").loc[tables["answer"].unique()]
said = (f"{plots.label(row.Index)} {row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in errors.itertuples())
Markdown(f"Calibration error: {'; '.join(said)}.")

# %% [markdown]
# ## Why one answer: an exact property
#
# Without a gene embedding, the model cannot do otherwise:
#
# 1. What enters the first block for a gene is the vector of its token, nothing else. Two genes of a cell with the same
#    token enter with the same vector.
# 2. A block turns a gene's vector into another one that depends on that vector and on sums over all genes of the cell
#    (the keys and values), which are the same for every gene. So genes that enter a block alike leave it alike.
# 3. Block by block, all genes with one token share one hidden state to the end. The hidden genes all show the mask
#    token: they get one answer.
#
# The same argument makes this arm cheap. It is enough to compute the at most seven distinct states of a cell, each
# counting as often as its token occurs, in place of one state for each gene. This is not an approximation. Below, the
# pre-trained weights (random ones, where the runs are published and have no weights) compute some test cells both ways: look at the largest difference, which is rounding, and the time.

# %%
import time

import torch

from lib.scbert.model import ScBert, ScBertConfig

run, genes = by_arm["no_gene2vec"], chosen["adata"].var_names.tolist()
weights = store.Run(run.spec["pretraining"]).weights
random = ScBert(ScBertConfig(genes=len(genes), **run.spec["size"]))
collapsed = (ScBert.from_checkpoint(weights, genes=genes) if weights else random).double().eval()
# A gene embedding of zeros says nothing either, but with it every gene is computed for itself.
whole = ScBert(collapsed.config, np.zeros((collapsed.config.genes, collapsed.config.dim))).double().eval()
whole.load_state_dict(collapsed.state_dict(), strict=False)
tokens = torch.from_numpy(tokenize(chosen["adata"].X[run.predictions["test"][:32]]))
logits, seconds = [], []
with torch.no_grad():
    for model in (whole, collapsed):
        model(tokens)  # once to warm up
        begun = time.perf_counter()
        logits.append(model(tokens))
        seconds.append(time.perf_counter() - begun)
difference = (logits[0] - logits[1]).abs().max() / logits[0].abs().max()
Markdown(
    f"{len(tokens)} cells of {tokens.shape[1]} tokens: the largest difference of the logits is {difference:.0e} of the "
    f"largest logit. Every gene for itself: {1000 * seconds[0]:.0f} ms; the distinct states alone: "
    f"{1000 * seconds[1]:.0f} ms. With more genes the first number grows and the second does not."
)

# %% [markdown]
# ## Figure 4: what an answer on a hidden gene varies with
#
# What a model says of a hidden gene, as the bin it expects (the mean of its probabilities), is another number for each gene and
# cell. Its variance is taken apart: what knowing the gene explains (its mean over cells); then the cell (a shift of all its
# genes: how deep it is); then the *gene's own neighbours in that cell*, the ten genes that go most with it over the training
# cells, if they are high or low there; and the rest. A model of which genes go together shows in the third part. Look at how large it
# is for the true bins, and whether scBERT's answers have it; the additive rule's cannot. What two parts share counts for the first:
# some genes are expressed in deep cells only, hence the first part of a model that gives one answer a cell.
#
# A worked example, two genes in two cells:
#
# | expected bin | cell 1 | cell 2 | | expected bin | cell 1 | cell 2 |
# |---|---|---|---|---|---|---|
# | gene A | 3 | 1 | | gene A | 3 | 1 |
# | gene B | 2 | 0 | | gene B | 0 | 2 |
#
# On the left, A is one bin above B in either cell and cell 1 two bins above cell 2: a fifth of the variance is the gene, four fifths
# the cell, nothing is left. On the right neither cell is higher and the gene is again a fifth; that B is high where A is low, four
# fifths, is something that only a model which looks at other genes of the cell can say.
#
# Below the figure, what that means for one gene: of some that mark a kind of cell, the one that is hidden in most test cells. A
# model that knew what goes with it would give answers that rise and fall with the gene's neighbours, as far as the true bins do.

# %%
neighbours = masked.neighbours_of(stored.tokens, train)
expected = {
    "the true bins": [(done[0], target.astype(float))],
    "additive": [(by_arm["full"], answers["additive"] @ np.arange(7))],
}
expected |= {arm: [(run, run.predictions["probabilities"] @ np.arange(7)) for run in own] for arm, own in arms.items()}
parts = {}
for name, several in expected.items():  # of several pre-trainings, the mean
    each = [masked.taken_apart(values, run, stored.tokens, train, neighbours) for run, values in several]
    parts[name] = pd.DataFrame(each).mean()
parts = pd.DataFrame(parts).T
fig, ax = plt.subplots(figsize=plots.mm(165, 57))
plots.shares(ax, parts, "Share of the variance of the bins expected at hidden genes")
plots.save(fig, "04_hidden_genes", parts.rename_axis("arm").reset_index(), chosen)
p, known = by_arm["full"].predictions, ["CD79A", "LYZ", "NKG7", "CD3D", "FCER1A", "PF4"]
places = {gene: stored.genes.tolist().index(gene) for gene in known if gene in set(stored.genes)}
example = max(places, key=lambda gene: (p["gene"] == places[gene]).sum())
at = p["gene"] == places[example]
beside = masked.neighbour_level(by_arm["full"], stored.tokens, train, neighbours)[at]
said = {"the true bins": target[at], "scBERT": (p["probabilities"] @ np.arange(7))[at]}
said["the additive rule"] = (answers["additive"] @ np.arange(7))[at]
level = {name: np.corrcoef(values, beside)[0, 1] for name, values in said.items() if at.sum() > 2}
right = {name: np.corrcoef(values, target[at])[0, 1] for name, values in said.items() if at.sum() > 2}
partners = ", ".join(stored.genes[neighbours[places[example]]])
Markdown(
    f"**{example}** is hidden in {at.sum()} test cells; its neighbours are {partners}. Correlation with how high these are in "
    f"the cell: {', '.join(f'{name} {r:.2f}' for name, r in level.items())}. With the true bin: "
    f"{', '.join(f'{name} {r:.2f}' for name, r in right.items() if name != 'the true bins')}. Deviation between cells: "
    f"{said['scBERT'].std():.2f} bins (standard deviation) in what scBERT expects, {said['the true bins'].std():.2f} in truth."
)

# %% [markdown]
# ## Genes: before and after the transformer
#
# For each gene, its ten nearest genes in the embedding that goes in, and in the representation that comes out (the
# mean over all cells). Look at the overlap against chance, and against a transformer with random weights: what passes
# unchanged through random weights was not learnt. Below, the neighbours of some genes that are known to mark a kind of
# cell: B cells' CD79A should have MS4A1 near it, monocytes' LYZ the S100 genes, NKG7 other genes of killer cells.

# %%
shown = runs.complete(specs.representations(chosen))
several = measures.by_arm(shown)
reps = {arm: own[0].predictions for arm, own in several.items()}  # what is drawn
n_genes = len(reps["full"]["genes_in"])
overlap = {
    plots.label(arm): representations.neighbour_overlap(reps[arm]["genes_in"], reps[arm]["genes_out"])
    for arm in ("full", "no_pretraining")
}
display(pd.Series(overlap | {"by chance": 10 / (n_genes - 1)}, name="share of neighbours in common").round(3).to_frame())
columns = {
    "going in": ("full", "genes_in"),
    "coming out": ("full", "genes_out"),
    "random weights": ("no_pretraining", "genes_out"),
}
pd.DataFrame({name: representations.nearest_genes(reps[arm][key], stored.genes, known) for name, (arm, key) in columns.items()})

# %% [markdown]
# ## Figure 5: cells
#
# UMAP of the cells as each model represents them (mean over the genes of the last hidden states; for PCA as many
# components as scBERT is wide), no labels used. Look at whether scBERT's islands are purer than PCA's. UMAP distorts
# distances, so the number in each title decides: the share of *test* cells whose ten nearest *training* cells give the
# right type, with the 95 % interval of a proportion.

# %%
order = ["pca", "full", "no_pretraining", "no_gene2vec"]
rows = []
for arm in order:
    r = reps[arm]
    rows += [{"arm": arm} | row for row in representations.cells(r["cells"], r["labels"], r["train"], r["test"])]
zero = pd.DataFrame(rows)
knn = zero.query("metric == 'knn_accuracy'").set_index("arm")
points = pd.concat([pd.DataFrame(reps[arm]["umap"], columns=["umap_1", "umap_2"]).assign(arm=arm) for arm in order])
types = reps["full"]["classes"]
points.insert(2, "cell_type", np.concatenate([types[reps[arm]["labels"]] for arm in order]))
look = {"hue": "cell_type", "style": "cell_type", "hue_order": types, "style_order": types}
look |= {"palette": sns.color_palette("colorblind", len(types)), "s": 6, "linewidth": 0, "rasterized": True}
fig, axes = plt.subplots(2, 2, figsize=plots.mm(183, 161))
for ax, arm in zip(axes.flat, order):
    sns.scatterplot(points[points["arm"] == arm], x="umap_1", y="umap_2", ax=ax, **look)
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
    ax.set_title("{}\nkNN {value:.2f} ({low:.2f}–{high:.2f})".format(plots.label(arm), **knn.loc[arm]))
    ax.grid(False)
    named = ax.get_legend_handles_labels()
    ax.get_legend().remove()
fig.legend(*named, loc="outside upper center", ncols=4, markerscale=1.6)
plots.save(fig, "04_cells", points, chosen)

# %% [markdown]
# ## Figure 6: the same in four numbers
#
# All without labels, or, for the neighbours, with labels that no weight has seen. *Silhouette*: how much nearer a cell is to its own
# type than to the next, −1 to 1. *ARI* and *NMI*: how well k-means, told the number of types, finds them (ten starts, mean).
# All four on one scaling: every dimension has one variance among the training cells. Bars: 95 %, Wilson's for the neighbours, else
# bootstrap over cells. Look at whether scBERT is to the right of PCA, and how far it is from its own random weights. The table is
# paired, cell by cell, over all pre-trainings (or draws of random weights).

# %% tags=["answer", "table"]
fig, axes = plt.subplots(2, 2, figsize=plots.mm(183, 106), sharey=True)
titles = {"knn_accuracy": "Nearest neighbours, accuracy", "silhouette": "Silhouette of the true types"}
titles |= {"ari": "k-means, ARI", "nmi": "k-means, NMI"}
plots.dots(axes.flat, zero, titles)
plots.save(fig, "04_zero_shot", zero, chosen)
compared = [row for arm in order[1:] for row in representations.against(several[arm], several["pca"][0])]
compared = differences.judged(compared)
compared.to_csv(plots.folder(chosen) / "04_against_pca.csv", index=False, float_format="%.6g")
display(words.show_family(compared, plots.label))
closing = representations.knn_accuracy(*(reps["full"][name] for name in ("cells_closing", "labels", "train", "test")))
Markdown(
    f"**Cell representations**: nearest neighbours name {knn.loc['full', 'value']:.0%} of the test cells right in scBERT's "
    f"representation, {knn.loc['pca', 'value']:.0%} in principal components, {knn.loc['no_pretraining', 'value']:.0%} behind "
    f"random weights. By scBERT's closing token instead of the mean over genes: {closing:.0%}."
)

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, or one of the published runs of `data/runs`, with its specification, its
# log and its predictions, cell by cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
