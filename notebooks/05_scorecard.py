# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Every published number beside ours
#
# **What this is.** One row for each number in `data/published/`, the authors' own, with ours where this profile has
# it, both intervals, and a verdict by a fixed rule. Above it, the paper's claims as differences.
#
# **The rule.** Data and model of this profile are not the paper's, so values are not judged, differences are. The
# difference of an arm to its reference (logistic regression's to scBERT; every other arm's to the pre-trained scBERT)
# has a direction: **+** or **−** where its 95 % interval excludes zero, **≈** where it covers zero, **?** where
# there is only one run. The verdict is *same* where ours and the paper's direction agree, *opposite* for + against −,
# *ours undecided* where only the paper's excludes zero, *paper undecided* where only ours does.
#
# **Caveat.** The intervals here are Welch's, over runs that share one split: they leave out the sampling of the test
# cells, which notebooks 01 to 03 add. "Ours undecided" often means too few cells, not that the paper is wrong.

# %% tags=["parameters"]
profile = "quick"  # a rung of the ladder, see README
seeds = None  # e.g. [0, 1, 2]; None: those of the profile
protocol = None  # "paper" or "clean"; None: that of the profile

# %%
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lib" / "runs.py").exists())))

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown

from lib import plots, profiles, published, runs, stats

plots.style()

# %% [markdown]
# ## The runs
#
# All of notebooks 01 to 04; what they have done is only read here.

# %%
chosen = profiles.load(profile, seeds=seeds, protocol=protocol)
done = runs.complete(
    profiles.specs(chosen, ["logistic_regression", "full", "no_pretraining", "no_gene2vec"])
    + profiles.specs(chosen, ["logistic_regression", "full"], chosen["fractions"], chosen["few_shot_seeds"])
)
ours = stats.table({run.id: run for run in done}.values())
masked = runs.complete(profiles.masked_specs(chosen))

# %% [markdown]
# ## The claims
#
# Look at the last column, then at the width of our intervals.

# %%
card = published.scorecard(ours, masked, chosen["reproduces"], chosen["few_shot_seeds"])
card.to_csv(plots.folder(chosen) / "05_scorecard.csv", index=False, float_format="%.6g")
claims = published.claims(card, chosen["reproduces"])
shown = claims.assign(arm=claims["arm"].map(plots.label), minus=claims["reference"].map(plots.label))
for who in ("paper", "ours"):
    columns = (100 * claims[f"{name}_{who}"] for name in ("effect", "low", "high"))
    shown[f"difference, {who}"] = [f"{effect:+.1f} ({low:+.1f} to {high:+.1f})" for effect, low, high in zip(*columns)]
columns = ["experiment", "arm", "minus", "fraction", "metric", "difference, paper", "difference, ours", "verdict"]
shown[columns].style.hide().format(precision=2).set_caption("Differences in points, with 95 % intervals")

# %% [markdown]
# ## Figure: the claims as differences
#
# Each row a claim: the paper's difference (hollow diamond) and ours (filled), with 95 % intervals. Left of the line
# the first-named model is worse.

# %%
fig, ax = plt.subplots(figsize=(9.5, 0.44 * len(claims) + 1.4))
plots.differences(ax, claims)
sides = [f"{name}_{who}" for who in ("paper", "ours") for name in ("effect", "low", "high")]
plots.save(
    fig,
    "05_scorecard_claims",
    claims[["experiment", "arm", "reference", "fraction", "metric", *sides, "verdict"]],
    chosen,
)

# %% [markdown]
# ## Every published number
#
# `n` is the number of published runs behind a row. *Not run* says what is missing in this profile.

# %%
whole = card.copy()
for who in ("paper", "ours"):
    whole[who] = [stats.show(mean, half) for mean, half in zip(card[who], card[f"half_width_{who}"])]
columns = ["experiment", "dataset", "arm", "fraction", "metric", "paper", "n_paper", "ours", "n_ours", "verdict"]
whole[columns].style.hide().format(precision=2)

# %%
Markdown(
    "Verdicts: " + ", ".join(f"**{name}** {count}" for name, count in card["verdict"].value_counts().items()) + "."
)

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %%
pd.Series(done[0].environment | {"packages": ", ".join(f"{k} {v}" for k, v in done[0].environment["packages"].items())})
