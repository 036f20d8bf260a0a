# %% [markdown]
# # 5 · Every published number beside ours
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/05_scorecard.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/05_scorecard.ipynb)
# <!-- end of badges -->
#
# **What this is.** One row for each number in `data/published/`, the authors' own, with ours where this profile has
# it, both intervals, the runs behind ours, and a verdict by a fixed rule. Above it, the paper's claims as differences;
# below it, the authors' printed statistics computed again, what was done differently, and errata.
#
# <!-- finding: python -m lib.readme -->
# **What we find** in sorted blood cells (`figures/laptop`): Of the paper's 14 comparisons that these runs can be asked, 9
# cannot say, 2 paper's size excluded, 2 no interval and 1 same. *Cannot say* is not *no*: the detectable size stands
# beside it.
#
# **What we find** in liver cells (`figures/liver-laptop`): The paper has no comparison on such cells that ours could be
# set beside.
# <!-- end of finding -->
#
# **The rule.** Data and model of this profile are not the paper's, so values are not judged, differences are. The
# difference of an arm to its reference (logistic regression's to scBERT; every other arm's to the pre-trained scBERT) is, in a
# word, *ahead* or *behind* where its 95 % interval excludes zero (ours: and p, adjusted by Holm's method within its family, is
# below 0.05), else *equivalent* or *undecided*, and has *no interval* where there is only one run. The verdict is *same* where
# both are ahead, both behind or both equivalent within 2 points, *opposite* for ahead against behind; else *paper's size excluded*
# where ours − theirs, with the uncertainty of both, leaves zero out; else *cannot say*, with the true difference that four of five
# such experiments would show. From fewer than three runs of ours nothing is shown. scBERT itself is the *reference*: each comparison
# has one row.
#
# **The families.** Our differences are judged in three, each a claim of the paper: logistic regression against scBERT with all
# labels; scBERT without pre-training and without gene embedding against scBERT; logistic regression against scBERT with few
# labels. Each has both scores, with all labels on the hard pair too where the cells have it, and is adjusted for itself. Notebooks 01, 03 and 02 take their answers from these very rows.
#
# **The intervals.** The paper's are Welch's, over runs that share one split: more is not published. Ours are paired, and cover the
# choice of test cells (bootstrap), of fine-tuning seeds and of pre-trainings (two levels of a crossed design). Beside the verdict stand Holm's p
# within the family, and the p of two one-sided tests that the difference is smaller than 2 points: small, it
# supports "no meaningful difference", *equivalent*, which a wide interval around zero does not.
#
# **Caveat.** "Cannot say" often means too few cells or runs, not that the paper is wrong.

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
from IPython.display import Markdown

from lib import plots
from lib.evaluate import measures, words
from lib.experiments import profiles, runs, specs
from lib.paper import errata, scorecard

plots.style()

# %% [markdown]
# ## The runs
#
# All of notebooks 01 to 04; what they have done is only read here.

# %%
chosen = profiles.load(profile, dataset=dataset, seeds=seeds, protocol=protocol)
done = runs.complete(
    specs.cell_types(chosen, ["logistic_regression", "full", "no_pretraining", "no_gene2vec"])
    + specs.cell_types(
        chosen, ["logistic_regression", "full"], [f for f in chosen["fractions"] if f < 1], chosen["few_shot_seeds"]
    )
)
ours = measures.table({run.id: run for run in done}.values())
masked = runs.complete(specs.masked(chosen))

# %% [markdown]
# ## The claims
#
# Look at the verdicts, then at the width of our intervals.

# %% tags=["table"]
card = scorecard.scorecard(ours, masked, chosen["reproduces"], scorecard.families(done))
card.to_csv(plots.folder(chosen) / "05_scorecard.csv", index=False, float_format="%.6g")
claims = scorecard.claims(card, chosen["reproduces"])
shown = pd.DataFrame({"claim": [plots.claim(row) for row in claims.to_dict("records")]})
shown["verdict"] = [scorecard.told(row) for row in claims.to_dict("records")]
for who in ("paper", "ours"):
    shown[f"difference, {who}"] = [
        f"{words.points(row, who=who)}: {row[f'verdict_{who}']}" for row in claims.to_dict("records")
    ]
shown["p, Holm"], shown["p, equivalence"] = claims["p_holm"].to_numpy(), claims["p_equivalence"].to_numpy()
none = "The paper has no comparison on such cells that ours could be set beside: there is no claim to judge, and no figure."
table = shown.style.hide().format(precision=2).set_caption("Differences in points, with 95 % intervals")
table if len(claims) else Markdown(none)

# %% [markdown]
# ## Figure: the claims as differences
#
# Each row a claim: the paper's difference (hollow diamond) and ours (filled), with 95 % intervals. Left of the line
# the first-named model is worse.

# %% tags=["figure"]
sides = [f"{name}_{who}" for who in ("paper", "ours") for name in ("effect", "low", "high")]
columns = ["experiment", "arm", "reference", "fraction", "metric", *sides, "n_ours", "verdict_paper", "verdict_ours", "verdict"]
if len(claims):
    fig, ax = plt.subplots(figsize=plots.mm(174, 8.05 * max(len(claims), 4) + 26))
    plots.differences(ax, claims)
    plots.save(fig, "05_scorecard_claims", claims[columns], chosen)
else:
    claims[columns].to_csv(plots.folder(chosen) / "05_scorecard_claims.csv", index=False)
    print(none)

# %% [markdown]
# ## Every published number
#
# `n` is the number of runs behind a number. *Not run* says what is missing in this profile. `runs` begins with the
# first of our runs: each is the folder of that name below `data/cache/runs`; `05_scorecard.csv` has all their ids.

# %%
whole = card.copy()
for who in ("paper", "ours"):
    whole[who] = [words.show(mean, half) for mean, half in zip(card[who], card[f"half_width_{who}"])]
columns = ["experiment", "dataset", "arm", "fraction", "metric", "paper", "n_paper", "ours", "n_ours", "verdict"]
whole["runs"] = [f"{ids.split()[0][:8]}…" if ids else "" for ids in card["runs"].fillna("")]  # all ids: in the CSV
whole[[*columns, "runs"]].style.hide().format(precision=2)

# %% tags=["answer"]
told = [f"{count} *{name}*" for name, count in claims["verdict"].value_counts().items()]
beside = int(((card["n_ours"] > 0) & card["paper"].notna()).sum())
Markdown(
    f"**Of the paper's {len(claims)} comparisons that these runs can be asked: {', '.join(told) or 'none'}.** "
    f"Of its {len(card)} published numbers {beside} have one of ours beside them; of the others the table above says why not."
)

# %% [markdown]
# ## The authors' printed statistics, computed again
#
# Their formulas on their published runs. *Printed* is what their notebook shows, *computed again* what the formula
# gives, *better practice* Student's half width or Welch's p on the same runs. Look at the rows that are not the same.

# %%
again = errata.regenerated()
again.to_csv(plots.folder(chosen) / "05_printed.csv", index=False, float_format="%.6g")
again = again.rename(columns={"regenerated": "computed again", "ours": "better practice"})
columns = ["arm", "reference", "metric", "statistic", "printed", "computed again", "same", "better practice"]
formats = dict.fromkeys(("printed", "computed again", "better practice"), "{:.4g}")
again[columns].style.hide().format(formats).apply(
    lambda row: ["font-weight: bold" if not row["same"] else ""] * len(row), axis=1
)

# %% [markdown]
# ## Errata
#
# What a reader of the published numbers should know, computed from those numbers.

# %%
Markdown("\n".join(f"- {sentence}" for sentence in errata.errata()))

# %% [markdown]
# ## What was done differently
#
# Four versions of the same experiment. AU is the authors' repository (clinicalml/sc-foundation-eval @1332b34), SB
# scBERT's (TencentAILabHealthcare/scBERT @262fd4b); "–" where the question does not arise or was not looked up.

# %%
errata.deviations().style.hide().set_properties(**{"text-align": "left", "white-space": "normal"})

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, or one of the published runs of `data/runs`, with its specification, its
# log and its predictions, cell by cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
