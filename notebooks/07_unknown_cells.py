# %% [markdown]
# # 7 · Do the models know what they do not know?
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/07_unknown_cells.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/07_unknown_cells.ipynb)
# <!-- end of badges -->
#
# **The claim, scBERT's own.** A cell of a type that was not among the training types can be recognised, since the model is
# then unsure: its highest probability is low. The paper that we reproduce does not test it.
#
# <!-- finding: python -m lib.readme -->
# **What we find** in sorted blood cells (`figures/laptop`): Logistic regression names 85 % of the cells right, with a
# mean confidence of 81 %. scBERT names 81 % of the cells right, with a mean confidence of 85 %. Confidence alone does not
# single out a type that was left out of training: area under the curve, the median over the types (and their range),
# Logistic regression (L1) 0.74 (0.41 to 0.86), Nearest neighbours in PCA 0.79 (0.24 to 0.86), scBERT, no gene embedding
# 0.76 (0.43 to 0.86). 0.5 is chance. Left-out types were among the cells of the pre-training, unlabelled.
#
# **What we find** in liver cells (`figures/liver-laptop`): Logistic regression names 93 % of the cells right, with a mean
# confidence of 85 %. scBERT names 93 % of the cells right, with a mean confidence of 95 %. Confidence alone does not
# single out a type that was left out of training: area under the curve, the median over the types (and their range),
# Logistic regression (L1) 0.72 (0.20 to 0.97), Nearest neighbours in PCA 0.71 (0.31 to 0.96), scBERT, no gene embedding
# 0.78 (0.18 to 0.97). 0.5 is chance. Left-out types were among the cells of the pre-training, unlabelled.
# <!-- end of finding -->
#
# **What is done here.** Three tests of the probabilities of scBERT and of logistic regression: whether an answer given with
# 90 % confidence is right in nine cases of ten (calibration); whether confidence drops on cells of a type that was left out
# of training, every type left out once; and, where they are at hand, what the models say of cells measured elsewhere.
#
# **Caveat.** In the `quick` profile several types have few cells, which the intervals show. The left-out type's cells were
# among those that scBERT was *pre-trained* on, without labels, which can only help it.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README
dataset = None  # another data set by its name, such as macparland; None: that of the profile
external = None  # other labelled cells: a data set's name or the path of an .h5ad; None: the profile's, if its file is there

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
from IPython.display import Markdown, display

from lib import plots
from lib.evaluate import calibration, intervals, words
from lib.experiments import profiles, runs, specs

plots.style()

# %% [markdown]
# ## The cells

# %%
chosen = profiles.load(profile, dataset=dataset)
profiles.describe(chosen)

# %% [markdown]
# ## Figure 1: is an answer as often right as it is sure?
#
# The test cells' answers, of all runs of an arm, sorted into ten bins by confidence; a larger point stands for more answers.
# Points below the dotted line are answers that are surer than right. Look at where most of the answers lie.

# %%
arms = ["logistic_regression", "full", "no_gene2vec"]
done = runs.complete(specs.cell_types(chosen, arms))
tables = {}
for arm in arms:
    own = [run.predictions for run in done if run.spec["arm"] == arm]
    sure = np.concatenate([p["probabilities"].max(1) for p in own])
    right = np.concatenate([p["probabilities"].argmax(1) == p["labels"] for p in own])
    tables[arm] = calibration.reliability(sure, right)
tables = pd.concat(tables, names=["arm"]).reset_index("arm")
fig, ax = plt.subplots(figsize=plots.mm(110, 99))
plots.reliability(ax, tables)
plots.save(fig, "07_calibration", tables, chosen)

# %% [markdown]
# The same in numbers, with 95 % intervals by bootstrap over test cells. *Calibration error*: mean distance of confidence
# and accuracy over the bins; *centred*, less what a calibrated model with these confidences would show by chance. *Brier*: mean squared distance of all probabilities to the truth, 0 to 2, which also rewards
# being right. Logistic regression's probabilities are those of one-vs-rest models, scaled to sum to one; a scBERT whose
# weights are chosen by accuracy is not asked to be calibrated.

# %% tags=["table"]
calibrated = calibration.calibration(done)
calibrated.to_csv(plots.folder(chosen) / "07_calibration_error.csv", index=False, float_format="%.6g")
text = [f"{r.value:.3f} ({r.low:.3f} to {r.high:.3f})" for r in calibrated.itertuples()]
shown = calibrated.assign(text=text, arm=calibrated["arm"].map(plots.label))
shown.pivot(index="arm", columns="metric", values="text").rename_axis(index=None, columns=None)

# %% [markdown]
# ## Figure 2: a type that was left out
#
# One type at a time is left out of training; then its cells (number in brackets) and the test cells of the other types are
# ranked by the highest probability that they are given. The area under the ROC curve is the chance that a cell of the
# unknown type is given the lower one; the bar is DeLong's 95 % interval over cells. Look at the types left of the dotted
# line: there the models are *surer* of the unknown cells than of the known ones.

# %% tags=["figure"]
left_out = calibration.unknown(runs.complete(specs.unknown(chosen)))
fig, ax = plt.subplots(figsize=plots.mm(156, 10.1 * left_out["left_out"].nunique() + 26))
plots.unknown(ax, left_out)
plots.save(fig, "07_unknown", left_out, chosen)
left_out.pivot(index="left_out", columns="arm", values="taken_for").rename(columns=plots.label).rename_axis(
    index="left out", columns="most of its cells are taken for"
).fillna("–")

# %% tags=["answer"]
lines = []
for arm, part in left_out.groupby("arm", sort=False):
    mean, half = intervals.confidence_interval(part["auc"])
    chance = [words.verdict({"low": r.low - 0.5, "high": r.high - 0.5}) for r in part.itertuples()]
    over = f"in the mean of {len(part)} types, with Student's 95 % interval over them," if len(part) > 1 else "for one type"
    lines.append(
        f"- **{plots.label(arm)}**: the area under the curve by which confidence tells cells of a type left out of training "
        f"from known ones is {words.show(mean, half, 2)} {over} where 0.5 is chance; better than chance for "
        f"{chance.count('ahead')}, worse for {chance.count('behind')}."
    )
areas = left_out.pivot(index="left_out", columns="arm", values="auc").reindex(columns=["full", "logistic_regression"])
gap = (areas["full"] - areas["logistic_regression"]).dropna()
if len(gap) < 3:  # of which no interval can be had
    lines.append(f"- **scBERT against logistic regression**: too few types to tell, {len(gap)}, were tried with both.")
else:
    mean, half = intervals.confidence_interval(gap)
    said = words.verdict({"low": mean - half, "high": mean + half})
    lines.append(
        f"- **scBERT against logistic regression: {said}**, on the {len(gap)} types that both were tried on: {mean:+.2f} "
        f"({mean - half:+.2f} to {mean + half:+.2f})."
    )
Markdown("\n".join(lines))

# %% [markdown]
# ## Cells from elsewhere
#
# Models trained above, asked about cells of another data set, aligned to the same genes. Types are matched by name;
# types that the models never met should be given low confidence (*area*, as in figure 2). One run a row.

# %%
there = profiles.external(chosen, external)
if there is None:
    display(Markdown("*No other cells are at hand: give `-p external PATH.h5ad`, or see data/README.md for Zheng68K.*"))
else:
    trained = [run.spec for run in done if run.spec["arm"] in arms]
    found = calibration.elsewhere(runs.complete(specs.external(there, trained)))
    found.assign(run="run-" + found["run"]).to_csv(plots.folder(chosen) / "07_elsewhere.csv", index=False, float_format="%.6g")
    report = there["adata"].uns["alignment"]
    cells = f"{there['adata'].n_obs:,} cells of {there['dataset'].rsplit('/')[-1]}"
    display(Markdown(f"{cells}; {report['matched']:,} of {chosen['adata'].n_vars:,} genes matched."))
    accuracy = [f"{r.accuracy:.3f} ({r.low:.3f} to {r.high:.3f})" for r in found.itertuples()]
    display(
        found.assign(arm=found["arm"].map(plots.label), accuracy=accuracy)
        .drop(columns=["low", "high", "run"])
        .round(2)
        .style.hide()
    )

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
