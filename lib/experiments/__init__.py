"""A profile (one YAML file of ``ladder``) in; finished runs out, each a folder named by its specification's hash.

Read: schema (what a profile may say), profiles (a rung of the ladder and its cells), specs (the runs it asks for),
baselines and classifiers (what fits and predicts), tasks (what a run computes), store (a run on disk: whole, known by its
hash, never done twice), archive (published runs), progress (one bar over many), runs (many at once), yours (a profile for
the reader's own cells and model).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["archive", "baselines", "classifiers", "profiles", "progress", "runs", "schema", "specs", "store", "tasks", "yours"],
)
