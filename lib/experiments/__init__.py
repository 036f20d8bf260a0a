"""A profile (one YAML file of ``ladder``) in; finished runs out, each a folder named by its specification's hash.

Read: schema (what a profile may say), profiles (a rung of the ladder and its cells), specs (the runs it asks for), baselines
and classifiers (what fits and predicts), tasks (what a run computes), names (what a run is named by), store (a run on disk,
and what the store promises), archive (published runs), cluster (runs on Dask), progress (one bar over many), runs (many at
once), inventory (what lies in a store), exchange (runs from elsewhere), namers (a run or checkpoint that names cells),
predicting (a file's cells named by it), yours (a profile for the reader's own cells and model), notes (what he should know
of them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    "archive baselines classifiers cluster exchange inventory namers names notes predicting profiles progress".split()
    + "runs schema specs store tasks yours".split(),
)
