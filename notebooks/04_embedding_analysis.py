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
import sys; from pathlib import Path
sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lib" / "runs.py").exists())))

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from lib import plots, profiles, published, runs, stats

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
masked = pd.concat([pd.DataFrame({key: run.predictions[key] for key in ("cell", "gene", "target", "predicted", "most_common_bin")}).assign(arm=run.spec["arm"]) for run in done])
masked["right"], masked["rule_right"] = masked["predicted"] == masked["target"], masked["most_common_bin"] == masked["target"]
masked["says_rule"] = masked["predicted"] == masked["most_common_bin"]
per_cell = masked.groupby(["arm", "cell"])[["right", "rule_right", "says_rule"]].mean().reset_index()
rows = []
for arm in ("no_gene2vec", "full"):
    part, known = per_cell.query("arm == @arm"), published.masked().query("dataset == 'zheng68k' and gene_embedding == @embedding" if (embedding := {"full": "gene2vec"}.get(arm, "none")) else "").iloc[0]
    for column, name, theirs in (("right", "accuracy", known["masked_accuracy"]), ("rule_right", "accuracy of the most common bin", known["accuracy_of_most_common_bin"]), ("says_rule", "share of answers that are the most common bin", known["fraction_predicting_most_common_bin"])):
        mean, half_width = stats.confidence_interval(part[column])
        rows.append({"arm": arm, "metric": name, "mean": mean, "half_width": half_width, "paper": theirs})
table3 = pd.DataFrame(rows)
table3.assign(arm=table3["arm"].map(plots.label), ours=[stats.show(m, h) for m, h in zip(table3["mean"], table3["half_width"])]).set_index(["arm", "metric"])[["ours", "paper"]]

# %% [markdown]
# ## Figure 1: the paper's Table 3
#
# Mean over the test cells with a 95 % Student interval over cells; diamonds are the paper's (Zheng68K). Without a
# gene embedding a model can give one answer only for all hidden genes of a cell. Look at how often that answer is the
# rule's (right pair), and how much better a model with an embedding does (left pair).

# %%
names = ["accuracy", "accuracy of the most common bin", "share of answers that are the most common bin"]
fig, ax = plt.subplots(figsize=(9, 3.9))
for i, name in enumerate(names):
    for shift, arm in ((-0.2, "full"), (0.2, "no_gene2vec")):
        row = table3.query("arm == @arm and metric == @name").iloc[0]
        ax.bar(i + shift, row["mean"], 0.36, color=plots.colour(arm), alpha=0.85, yerr=row["half_width"], capsize=3, label=plots.label(arm) if i == 0 else None)
        ax.scatter(i + shift, row["paper"], marker="D", s=40, facecolor="white", edgecolor="#222222", zorder=3, label="the paper" if i == 0 and arm == "no_gene2vec" else None)
ax.set_xticks(range(3), ["Accuracy on\nhidden genes", "Accuracy of saying the\ncell's most common bin", "Share of answers that are\nthe most common bin"])
ax.set_ylim(0, 1.05)
ax.legend(fontsize=9, ncols=3, loc="upper left")
plots.save(fig, "04_masked_task", table3, chosen)

# %%
wide = per_cell.assign(excess=per_cell["right"] - per_cell["rule_right"]).groupby("arm")["excess"].apply(stats.confidence_interval)
answers = masked.groupby(["arm", "cell"])["predicted"].nunique().groupby("arm").mean()
Markdown("\n".join(f"- **{plots.label(arm)}**: {100 * wide[arm][0]:+.1f} ± {100 * wide[arm][1]:.1f} points against the rule; {answers[arm]:.1f} different answers in a cell on average." for arm in ("full", "no_gene2vec")))

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
overlap = pd.DataFrame([{"model": plots.label(arm), "overlap": stats.neighbour_overlap(reps[arm]["genes_in"], reps[arm]["genes_out"]), "by chance": 10 / (n_genes - 1)} for arm in ("full", "no_pretraining")])
overlap

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
    closing = stats.knn_accuracy(r["cells_closing"], r["labels"], r["train"], r["test"]) if "cells_closing" in r else np.nan
    rows.append({"arm": arm, "knn_accuracy": accuracy, "low": interval.low, "high": interval.high, "knn_accuracy_closing_token": closing})
    for k, name in enumerate(r["classes"]):
        ax.scatter(*r["umap"][r["labels"] == k].T, s=7, color=palette[2 * k % 20 + (k >= 10)], label=name)
    ax.set_title(f"{plots.label(arm)}\nkNN {accuracy:.2f} ({interval.low:.2f}–{interval.high:.2f})")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2.5, fontsize=9)
knn = pd.DataFrame(rows)
points = pd.concat([pd.DataFrame(reps[arm]["umap"], columns=["umap_1", "umap_2"]).assign(cell_type=reps[arm]["classes"][reps[arm]["labels"]], arm=arm) for arm in order])
plots.save(fig, "04_cells", points, chosen)
knn.to_csv(plots.folder(chosen) / "04_knn.csv", index=False, float_format="%.6g")

# %%
best = knn.set_index("arm")["knn_accuracy"]
Markdown(f"**Cell representations**: nearest neighbours name {best['full']:.0%} of the test cells right in scBERT's representation, {best['pca']:.0%} in principal components, {best['no_pretraining']:.0%} behind random weights. By the closing token instead of the mean over genes: {knn.set_index('arm')['knn_accuracy_closing_token']['full']:.0%}.")

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %%
pd.Series(done[0].environment | {"packages": ", ".join(f"{k} {v}" for k, v in done[0].environment["packages"].items())})
