# %% [markdown]
# # 6 · The same question on your cells, and for your model
#
# **The question.** Does a pre-trained transformer name the types of *your* cells better than logistic regression does?
#
# **What is done here.** Your .h5ad file is read, checked and aligned; scBERT is pre-trained on your training cells and
# fine-tuned; logistic regression learns from the same cells; both are judged on the same held-out fifth. The answer is
# a sentence with an interval. After that, twenty lines show how to put a model of your own beside the two.
#
# ```bash
# ./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type
# ```
#
# **Caveat.** scBERT here is small and has seen your training cells only, so that this runs anywhere; it is not the model
# that was pre-trained on a million cells. Without `data`, as in this copy if you have not changed it, the cells are the
# profile's own.

# %% tags=["parameters"]
profile = "quick"  # whose model and training: a rung of the ladder, see README
data = None  # path of an .h5ad file; None: the profile's cells
label = None  # the column of obs with the cell types; None: cell_type or celltype
minutes = 10  # what the runs may take, about; decides how many cells and genes are used

# %%
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "lib" / "arms.py").exists())))

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from lib import plots
from lib.evaluate import differences, measures, words
from lib.experiments import profiles, runs, specs, yours

plots.style()

# %% [markdown]
# ## The cells, as they were understood
#
# Look at the matrix that was taken (raw counts wherever the file has them) and why not the others, at the gene names that
# were mapped, at the values found (counts, or logarithms and their base), at the cells dropped, at the types that were set
# aside because they have fewer than ten cells, and at how many cells and genes fit into the minutes.

# %%
chosen = yours.load(profile, data, label, minutes)
profiles.describe(chosen)

# %% [markdown]
# ## The runs
#
# What is done once is kept, and interrupted runs go on where they stopped. The strength C of logistic regression's penalty
# is chosen by cross-validation on the training cells: should it lie at an end of the range of the profile, the range is
# too narrow for your cells.

# %% tags=["table"]
arms = ["logistic_regression", "full", "majority"]
done = runs.complete(specs.cell_types(chosen, arms))
few = runs.complete(specs.cell_types(chosen, arms, chosen["fractions"], chosen["few_shot_seeds"]))
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
# Every point is a run. Look at whether scBERT's curve lies above logistic regression's anywhere, above all on the left,
# where labels are few. Macro-F1 counts every type the same, however rare.

# %% tags=["figure"]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.9))
curve = measures.table(few)
for ax, metric in zip(axes, ["accuracy", "macro_f1"]):
    plots.curves(ax, curve, metric, arms)
plots.legend(fig, arms, ours="each run", mean="mean, 95 % Student interval")
table = curve[curve["metric"].isin(["accuracy", "macro_f1"])]
plots.save(fig, "06_few_shot", table, chosen)

# %% [markdown]
# ## The answer
#
# The difference on the same test cells, with an interval that covers both the luck of the draw of those cells and that of
# the training. *Ahead* or *behind* is said where it excludes zero and p is below 5 %, *equivalent*
# where the difference lies within 2 points either way by two one-sided tests at 5 %; else it is undecided.

# %% tags=["answer"]
found = differences.family([("logistic_regression", "full", "accuracy", {})], done).iloc[0].to_dict()
which = f"On {'these' if data is None else 'your'} {chosen['adata'].n_obs:,} cells"
learnt = differences.family([("full", "majority", "accuracy", {})], done).iloc[0].to_dict()
Markdown(f"{words.describe(found, 'logistic regression', 'scBERT', which)} {words.caveat(learnt)}")

# %% [markdown]
# ## Your own model
#
# A model needs `fit(x, labels, seed)`, `predict_proba(x)` and `classes_`. `x` is cells × genes, log2(1 + counts per 10⁴),
# sparse; labels are integers. Here, gradient-boosted trees from scikit-learn on forty principal components; put yours in
# their place. Nothing of it is stored, so it is computed at each call.


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


mine = yours.evaluate(MyModel, chosen, "my model", seeds=chosen["seeds"][:2])

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
# ## Where these numbers come from
#
# Every run above is a folder below `data/cache/runs`, with its specification, its log and its predictions, cell by
# cell. This is the environment of the first one.

# %% tags=["environment"]
profiles.environment(done[0])
