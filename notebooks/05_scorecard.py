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
import sys; from pathlib import Path
sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lib" / "runs.py").exists())))

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from lib import plots, profiles, published, runs, stats

plots.style()

# %% [markdown]
# ## The runs
#
# All of notebooks 01 to 04; what they have done is only read here.

# %%
chosen = profiles.load(profile, seeds=seeds, protocol=protocol)
done = runs.complete(profiles.specs(chosen, ["logistic_regression", "full", "no_pretraining", "no_gene2vec"])
                     + profiles.specs(chosen, ["logistic_regression", "full"], chosen["fractions"], chosen["few_shot_seeds"]))
ours = stats.table({run.id: run for run in done}.values())
masked = runs.complete(profiles.masked_specs(chosen))

# %% [markdown]
# ## The claims
#
# Look at the last column, then at the width of our intervals.

# %%
card = published.scorecard(ours, masked, chosen["reproduces"], chosen["few_shot_seeds"])
card.to_csv(plots.folder(chosen) / "05_scorecard.csv", index=False, float_format="%.6g")
claims = card.query("dataset == @chosen['reproduces'] and metric in ['accuracy', 'macro_f1'] and effect_ours == effect_ours and arm != 'full'").copy()
for who in ("paper", "ours"):
    claims[f"difference, {who}"] = [f"{100 * e:+.1f} ({100 * l:+.1f} to {100 * h:+.1f})" for e, l, h in zip(claims[f"effect_{who}"], claims[f"low_{who}"], claims[f"high_{who}"])]
claims.assign(arm=claims["arm"].map(plots.label), minus=claims["reference"].map(plots.label))[["experiment", "arm", "minus", "fraction", "metric", "difference, paper", "difference, ours", "verdict"]].style.hide().set_caption("Differences in points, with 95 % intervals")

# %% [markdown]
# ## Figure: the claims as differences
#
# Each row a claim: the paper's difference (hollow diamond) and ours (filled), with 95 % intervals. Left of the line
# the first-named model is worse.

# %%
fig, ax = plt.subplots(figsize=(9.5, 0.44 * len(claims) + 1.4))
for row, claim in enumerate(claims.iloc[::-1].itertuples()):
    for shift, who, marker, face in ((0.16, "paper", "D", "white"), (-0.16, "ours", "o", None)):
        effect, low, high = (100 * getattr(claim, f"{name}_{who}") for name in ("effect", "low", "high"))
        ax.errorbar(effect, row + shift, xerr=[[max(0, effect - low)], [max(0, high - effect)]] if np.isfinite(low) else None, marker=marker, ms=6, color=plots.colour(claim.arm),
                    mfc=face or plots.colour(claim.arm), capsize=2, lw=1.4, label={"paper": "the paper", "ours": "ours"}[who] if row == 0 else None)
ax.axvline(0, color="#444444", lw=1)
ax.set_yticks(range(len(claims)), [f"{plots.label(c.arm)} − {plots.label(c.reference)}, {c.fraction:.0%}, {plots.METRICS[c.metric].lower()}" for c in claims.iloc[::-1].itertuples()], fontsize=9)
ax.set_xlabel("points (95 % Welch interval over runs)")
ax.grid(True, axis="x")
ax.legend(fontsize=9, loc="best")
plots.save(fig, "05_scorecard_claims", claims[["experiment", "arm", "reference", "fraction", "metric", "effect_paper", "low_paper", "high_paper", "effect_ours", "low_ours", "high_ours", "verdict"]], chosen)

# %% [markdown]
# ## Every published number
#
# `n` is the number of published runs behind a row. *Not run* says what is missing in this profile.

# %%
with pd.option_context("display.max_rows", None, "display.max_colwidth", 60):
    display(card.assign(paper=[stats.show(m, h) for m, h in zip(card["paper"], card["half_width_paper"])], ours=[stats.show(m, h) for m, h in zip(card["ours"], card["half_width_ours"])])[["experiment", "dataset", "arm", "fraction", "metric", "paper", "n_paper", "ours", "n_ours", "verdict"]].style.hide())

# %%
Markdown("Verdicts: " + ", ".join(f"**{name}** {count}" for name, count in card["verdict"].value_counts().items()) + ".")

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %%
pd.Series(done[0].environment | {"packages": ", ".join(f"{k} {v}" for k, v in done[0].environment["packages"].items())})
