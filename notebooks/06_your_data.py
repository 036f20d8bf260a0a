# %% [markdown]
# # 6 · The same question on your cells, and for your model
#
# <!-- badges: python -m lib.readme -->
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/OWNER/REPOSITORY/main?urlpath=lab/tree/notebooks/06_your_data.ipynb)
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/notebooks/06_your_data.ipynb)
# <!-- end of badges -->
#
# **The question.** Does a pre-trained transformer name the types of *your* cells better than logistic regression does?
#
# **What is done here.** Your file is read and checked; scBERT is pre-trained on your training cells and fine-tuned; logistic
# regression learns from the same cells; both are judged on the same held-out fifth. The answer is a sentence with an
# interval. After that, twenty lines show how to put a model of your own beside the two.
#
# ```bash
# ./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type
# ./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type -p group donor_id    # judged on donors not learnt from
# ```
#
# **Caveat.** scBERT here is small and has seen your training cells only, so that this runs anywhere; it is not the model
# that was pre-trained on a million cells. Without `data`, as in this copy if you have not changed it, the cells are the
# profile's own.

# %% tags=["parameters"]
profile = "quick"  # whose model and training: a rung of the ladder, see README
data = None  # path of your file; None: the profile's cells
label = None  # the column with the cell types; None: cell_type or celltype
labels = None  # path of a table that has that column, if the file has none; joined by the cells' names
minutes = 5  # what the runs may take, about; decides how many cells and genes are used
group = None  # a column, such as donor_id, each of whose values is kept on one side of the split
min_genes = None  # cells that show fewer are dropped; None: 200, or no limit where the file holds a selection of genes
min_cells_per_type = None  # types with fewer cells are set aside; None: 10

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
from lib.evaluate import differences, measures, words
from lib.experiments import notes, profiles, runs, specs, yours
from lib.paper import scorecard

plots.style()

# %% [markdown]
# ## The cells, as they were understood
#
# First, what you should know of your file before you believe a number: cells without a type, cells that occur twice, cells and
# types left out and by which limit, labels that look like one, and donors or batches that stand on both sides of the split.

# %%
limits = {"min_genes": min_genes, "min_cells_per_type": min_cells_per_type}
chosen = yours.load(profile, data, label, minutes, labels=labels, group=group, **limits)
print(*(f"- {note}" for note in chosen["notes"] or ["Nothing was left out, and nothing looks amiss."]), sep="\n")

# %% [markdown]
# Then all that was understood. Look at the matrix that was taken (raw counts wherever the file has them) and why not the others,
# at the gene names that were mapped, at the values found (counts, or logarithms and their base), at what is held out, and at how
# many cells and genes fit into the minutes.

# %%
profiles.describe(chosen)

# %% [markdown]
# ## The runs
#
# What is done once is kept, and interrupted runs go on where they stopped. The strength C of logistic regression's penalty
# is chosen by cross-validation on the training cells: should it lie at an end of the range of the profile, the range is
# too narrow for your cells.

# %% tags=["table"]
arms = ["logistic_regression", "full", "majority"]
asked = specs.cell_types(chosen, arms)
below = specs.cell_types(chosen, arms, chosen["fractions"], chosen["few_shot_seeds"])
if data is not None:
    print(notes.about_work(chosen, asked + below), flush=True)
found = runs.complete(asked + below)
done, few = found[: len(asked)], found[len(asked) :]
by_arm = {arm: [run for run in done if run.spec["arm"] == arm] for arm in arms}
ours = measures.table(done)
summary = measures.summarise(ours[ours["metric"].isin(["accuracy", "macro_f1"])], ["arm", "metric"])
summary["mean ± half the 95 % interval over seeds"] = [
    words.show(mean, half) for mean, half in zip(summary["mean"], summary["half_width"])
]
strength = [run.log["C"].iloc[0] for run in by_arm["logistic_regression"]]
print(f"Logistic regression's C by cross-validation, seed by seed: {', '.join(f'{c:g}' for c in strength)}")
summary.assign(arm=summary["arm"].map(plots.label)).pivot(index="arm", columns="metric")[summary.columns[-1]]

# %% [markdown]
# ## Figure: few labels and all labels
#
# Every point is a run; a mean and its interval are drawn where there are three runs or more. Look at whether scBERT's points
# lie above logistic regression's anywhere, above all on the left, where labels are few. Macro-F1 counts every type the same,
# however rare.

# %% tags=["figure"]
fig, axes = plt.subplots(1, 2, figsize=plots.mm(183, 71))
curve = measures.table(few)
for ax, metric in zip(axes, ["accuracy", "macro_f1"]):
    plots.curves(ax, curve, metric, arms)
table = curve[curve["metric"].isin(["accuracy", "macro_f1"])]
each = f"each run, {len(chosen['few_shot_seeds'])} seeds a share"
plots.legend(fig, arms, 3, ours=each, **plots.crosses(table), **plots.means(table, ["arm", "metric", "fraction"]))
plots.save(fig, "06_few_shot", table, chosen)

# %% [markdown]
# ## The answer
#
# The difference on the same test cells, with an interval that covers both the luck of the draw of those cells and that of
# the training. *Ahead* or *behind* is said where it excludes zero and p is below 5 %, *equivalent*
# where the difference lies within 2 points either way by two one-sided tests at 5 %; else it is undecided, which is not *no
# difference*: how large one must be to be seen here stands behind it. Where a `group` is
# kept apart, the interval is over the cells of those held out: how much others would differ from them it does not know.
# Then the same for few labels, as a family of its own: p is adjusted by Holm's method. Both may use as many labels: scBERT keeps a fifth
# of them to end by, logistic regression learns from all. What that is worth on our cells, notebook 02 says.

# %% tags=["answer"]
question = [("logistic_regression", "full", "accuracy", {})]
where = yours.where(chosen, "these" if data is None else "your")
learnt = differences.family([("full", "majority", "accuracy", {})], done).iloc[0].to_dict()
if data is None:  # the profile's own cells: judged as in notebook 01, among the paper's claims
    found = scorecard.family("baseline", done).iloc[0].to_dict()
else:  # a family of one
    found = differences.family(question, done).drop(columns="p_holm").iloc[0].to_dict()
told = [words.describe(found, "logistic regression", "scBERT", where), words.power(found), words.caveat(learnt)]
answer = " ".join(filter(None, told))
shares = [fraction for fraction in chosen["fractions"] if fraction < 1]
if shares:
    asked = [("logistic_regression", "full", "accuracy", {"fraction": share}) for share in shares]
    family = scorecard.family("few_shot", few) if data is None else differences.family(asked, few)
    means = table.query("metric == 'accuracy'").pivot_table(index="fraction", columns="arm", values="value").loc[shares]
    said = [f"{one['logistic_regression']:.2f} against {one['full']:.2f} with {share:.0%}" for share, one in means.iterrows()]
    answer += (
        f"\n\n{words.by_fraction(family, 'logistic regression', 'scBERT')} Mean accuracy: {', '.join(said)} of the labels."
    )
    if bad := measures.flagged([run for run in few if run.spec["fraction"] < 1]):
        answer += f" {len(bad)} of these runs {words.FLAGGED}."
Markdown(f"{answer}\n\n{notes.about_model(chosen)}")

# %% [markdown]
# ## Type by type
#
# Recall: the share of a type's test cells that are named so, the mean over the runs with all labels. Look at the types that you
# care for, and at how many test cells stand behind a number: of ten cells, one is 0.1.

# %%
tested = by_arm["full"][0].predictions
recall = ours[ours["metric"].str.startswith("recall[") & (ours["arm"] != "majority")]
recall = recall.assign(arm=recall["arm"].map(plots.label), type=recall["metric"].str[len("recall[") : -1])
recall = recall.pivot_table(index="type", columns="arm", values="value").round(2)
recall.insert(0, "test cells", pd.Series(tested["classes"][tested["labels"]]).value_counts())
recall.sort_values("test cells", ascending=False)

# %% [markdown]
# ## The other split: donors that were not learnt from
#
# If your file has a column that looks like donors, samples or batches and no `group` was given, the same question is asked again
# with each of its values on one side: that is how a classifier meets the next donor. Look at how much is lost from the first
# row to the second. scBERT is there too if the minutes suffice for both.

# %%
said = "Nothing to add: a group is kept apart already." if group else "No column looks like donors, samples or batches."
if chosen["groups"]:
    other, column = yours.apart(chosen), chosen["groups"][0]
    again = runs.complete(specs.cell_types(other, arms if chosen["time_apart"] else ["logistic_regression", "majority"]))
    print(*(f"- {note}" for note in other["notes"]), sep="\n")
    both = {"cells drawn at random": done, f"each {column} on one side": again}
    parts = [measures.summarise(measures.table(each), ["arm", "metric"]).assign(split=name) for name, each in both.items()]
    told = pd.concat(parts).query("metric == 'accuracy'")
    told["accuracy"] = [words.show(mean, half) for mean, half in zip(told["mean"], told["half_width"])]
    display(told.assign(arm=told["arm"].map(plots.label)).pivot(index="split", columns="arm", values="accuracy").fillna("–"))
    said = f"scBERT is left out, since the minutes would not suffice. With it: `-p group {column} -p minutes {2 * minutes:g}`."
    if chosen["time_apart"]:
        found = differences.family(question, again).drop(columns="p_holm").iloc[0].to_dict()
        learnt = differences.family([("full", "majority", "accuracy", {})], again).iloc[0].to_dict()
        said = words.describe(found, "logistic regression", "scBERT", yours.where(other))
        said += f" {words.power(found)} {words.caveat(learnt)}"
Markdown(said)

# %% [markdown]
# ## Your own model
#
# A model needs `fit(x, labels, seed)`, `predict_proba(x)` and `classes_`. `x` is cells × genes, log2(1 + counts per 10⁴),
# sparse; labels are integers; a `fit` that takes `groups` is told them where a group is kept apart. Here, gradient-boosted
# trees from scikit-learn on forty principal components; put yours in their place. Nothing of it is stored, so it is computed
# at each call.


# %%
class MyModel:
    def fit(self, x, labels, seed):
        from sklearn.decomposition import TruncatedSVD
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.pipeline import make_pipeline

        components = TruncatedSVD(min(40, min(x.shape) - 1), random_state=seed)
        trees = HistGradientBoostingClassifier(max_iter=30, early_stopping=False, random_state=seed)
        self.pipeline = make_pipeline(components, trees).fit(x, labels)
        self.classes_ = self.pipeline.classes_
        return self

    def predict_proba(self, x):
        return self.pipeline.predict_proba(x)


mine = yours.evaluate(MyModel, chosen, "my model")

# %% [markdown]
# Each difference is against your model, on the same cells and seeds. Look at the interval before the number. The three questions
# are one family: their p-values are adjusted by Holm's method.

# %%
accuracy = np.mean([np.mean(r.predictions["labels"] == r.predictions["probabilities"].argmax(1)) for r in mine])
print(f"My model names {accuracy:.1%} of the test cells right.")
words.show_family(differences.family([("my model", arm, "accuracy", {}) for arm in arms], mine + done), plots.label)

# %% [markdown]
# `classifiers.ScBertClassifier` is scBERT in the same form, for code that compares models by itself:
# `ScBertClassifier(chosen["size"], chosen["pretraining"], chosen["finetuning"]).fit(x, labels, seed)`.
#
# ## What to do next

# %%
better = max(["logistic_regression", "full"], key=lambda arm: summary.set_index(["arm", "metric"])["mean"][arm, "accuracy"])
Markdown("\n".join(f"- {step}" for step in notes.next_steps(chosen, by_arm[better][0].id)))

# %% [markdown]
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
