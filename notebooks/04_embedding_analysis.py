# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · What has the pre-trained model learnt?
#
# **The paper's claim.** The pre-training task, to fill in the hidden expression of genes, can be done well without
# meaningful representations of genes. Without gene2vec the model gives *one* answer for all hidden genes of a cell,
# the cell's most common bin, and is right as often as that simple rule (its Table 3).
#
# **What is done here.** The masked task on held-out cells, with and without a gene embedding, against that rule. Then
# what the gene and cell representations hold: which genes lie near each other before and after the transformer, and
# whether cells of one type lie closer together than in plain principal components. **Findings stand under each
# figure.**
#
# **Caveat.** In the `quick` profile the model is small and its corpus are 560 cells; the gene embedding is
# `coexpression`, not gene2vec. That a model without a gene embedding can only say one thing for a cell's hidden genes
# is a matter of its architecture and holds at any size.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README

# %%
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lib" / "runs.py").exists())))

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown

from lib import plots, profiles, published, runs, stats
from lib.preprocess import tokenize

plots.style()

# %% [markdown]
# ## The cells

# %%
chosen = profiles.load(profile)
profiles.describe(chosen)

# %% [markdown]
# ## The masked task
#
# Of each test cell 15 % of the expressed genes are targets; nine tenths of those are hidden, and these are scored. A
# cell's *most common bin* is that of its expressed genes, hidden ones included: the rule knows more than a model can,
# and still knows nothing about genes.

# %%
done = runs.complete(profiles.masked_specs(chosen))
card = published.masked_scorecard(done, chosen["reproduces"]).query("dataset == @chosen['reproduces']")
card["ours ± interval"] = [stats.show(mean, half) for mean, half in zip(card["ours"], card["half_width_ours"])]
card.assign(arm=card["arm"].map(plots.label)).set_index(["arm", "metric"])[["ours ± interval", "paper"]]

# %% [markdown]
# ## Figure 1: the paper's Table 3
#
# Mean over the test cells with a 95 % Student interval over cells; diamonds are the paper's (Zheng68K). Without a
# gene embedding a model can give one answer only for all hidden genes of a cell. Look at how often that answer is the
# rule's (right pair), and how much better a model with an embedding does (left pair).

# %%
fig, ax = plt.subplots(figsize=(9, 3.9))
plots.masked_task(ax, card)
plots.save(fig, "04_masked_task", card[["arm", "metric", "ours", "half_width_ours", "paper"]], chosen)

# %%
lines = []
for run in done:
    p, row = run.predictions, card.query("arm == @run.spec['arm'] and metric == 'masked_accuracy'").iloc[0]
    answers = np.mean([len(set(p["predicted"][p["cell"] == cell])) for cell in np.unique(p["cell"])])
    effect, low, high = (100 * row[name] for name in ("effect_ours", "low_ours", "high_ours"))
    lines.append(
        f"- **{plots.label(run.spec['arm'])}**: {effect:+.1f} points against the rule (95 % interval {low:+.1f} "
        f"to {high:+.1f}); {answers:.1f} different answers in a cell on average."
    )
Markdown("\n".join(lines))

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
# pre-trained weights compute some test cells both ways: look at the largest difference, which is rounding, and the time.

# %%
import time

import torch

from lib.model import ScBert

run = next(run for run in done if run.spec["arm"] == "no_gene2vec")
weights = runs.Run(run.spec["pretraining"]).folder / "model.pt"
collapsed = ScBert.from_checkpoint(weights, genes=chosen["adata"].var_names.tolist()).double()
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
# ## Genes: before and after the transformer
#
# For each gene, its ten nearest genes in the embedding that goes in, and in the representation that comes out (the
# mean over all cells). Look at the overlap against chance, and against a transformer with random weights: what passes
# unchanged through random weights was not learnt.

# %%
shown = runs.complete(profiles.representation_specs(chosen))
reps = {run.spec["arm"]: run.predictions for run in shown}
n_genes = len(reps["full"]["genes_in"])
overlap = {
    plots.label(arm): stats.neighbour_overlap(reps[arm]["genes_in"], reps[arm]["genes_out"])
    for arm in ("full", "no_pretraining")
}
pd.Series(overlap | {"by chance": 10 / (n_genes - 1)}, name="share of neighbours in common").round(3).to_frame()

# %% [markdown]
# ## Figure 2: cells
#
# UMAP of the cells as each model represents them (mean over the genes of the last hidden states; for PCA as many
# components as scBERT is wide), no labels used. Look at whether scBERT's islands are purer than PCA's. UMAP distorts
# distances, so the number in each title decides: the share of *test* cells whose ten nearest *training* cells give the
# right type, with the 95 % interval of a proportion.

# %%
from scipy.stats import binomtest

order = ["pca", "full", "no_pretraining", "no_gene2vec"]
fig, axes = plt.subplots(1, 4, figsize=(15, 4.6))
palette = plt.get_cmap("tab20").colors
rows = []
for ax, arm in zip(axes, order):
    r = reps[arm]
    accuracy = stats.knn_accuracy(r["cells"], r["labels"], r["train"], r["test"])
    interval = binomtest(round(accuracy * len(r["test"])), len(r["test"])).proportion_ci(method="wilson")
    closing = (
        stats.knn_accuracy(r["cells_closing"], r["labels"], r["train"], r["test"]) if "cells_closing" in r else np.nan
    )
    rows.append(
        {
            "arm": arm,
            "knn_accuracy": accuracy,
            "low": interval.low,
            "high": interval.high,
            "knn_accuracy_closing_token": closing,
        }
    )
    for k, name in enumerate(r["classes"]):
        ax.scatter(*r["umap"][r["labels"] == k].T, s=7, color=palette[2 * k % 20 + (k >= 10)], label=name)
    ax.set_title(f"{plots.label(arm)}\nkNN {accuracy:.2f} ({interval.low:.2f}–{interval.high:.2f})")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2.5, fontsize=9)
knn = pd.DataFrame(rows)
points = pd.concat(
    [
        pd.DataFrame(reps[arm]["umap"], columns=["umap_1", "umap_2"]).assign(
            cell_type=reps[arm]["classes"][reps[arm]["labels"]], arm=arm
        )
        for arm in order
    ]
)
plots.save(fig, "04_cells", points, chosen)
knn.to_csv(plots.folder(chosen) / "04_knn.csv", index=False, float_format="%.6g")

# %%
best = knn.set_index("arm")["knn_accuracy"]
closing = knn.set_index("arm")["knn_accuracy_closing_token"]["full"]
Markdown(
    f"**Cell representations**: nearest neighbours name {best['full']:.0%} of the test cells right in scBERT's "
    f"representation, {best['pca']:.0%} in principal components, {best['no_pretraining']:.0%} behind random weights. "
    f"By scBERT's closing token instead of the mean over genes: {closing:.0%}."
)

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %%
pd.Series(done[0].environment | {"packages": ", ".join(f"{k} {v}" for k, v in done[0].environment["packages"].items())})
