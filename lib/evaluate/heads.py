"""What scBERT's classification head sees of a cell: which tokens pass its first ReLU."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.evaluate import measures

COLUMNS = ["arm", "protocol", "fraction", "pretraining", "seed", "run", "flagged", "accuracy"]
COLUMNS += [f"{what} {when}" for when in ("before", "after") for what in ("zeros", "detected", "contrast")]


def passing(runs: list) -> pd.DataFrame:
    """What passes the head's ReLU of each run that tells, before and after fine-tuning, beside its accuracy.

    The head turns each gene's state into one number and drops those below zero; all that follows sees the rest. Where zeros
    stay behind and the tokens 1 to 5 pass, it sees which genes are detected; where zeros alone pass, which are not.

    Returns
    -------
    DataFrame
        A row a run, with the columns ``COLUMNS``: ``zeros`` is the share of the genes with token 0 that pass, ``detected`` the
        mean over the tokens 1 to 5 of theirs, ``contrast`` detected less zeros: far from 0 where the two are told apart.
    """
    reasons, rows = measures.flagged(runs), []
    for run in {run.id: run for run in runs if "passing" in run.predictions}.values():
        p, spec = run.predictions, run.spec
        about = {"arm": spec["arm"], "protocol": spec["protocol"], "pretraining": measures.pretraining_of(run)}
        about |= {"fraction": spec["fraction"], "seed": spec["seed"], "run": run.id, "flagged": reasons.get(run.id, "")}
        about["accuracy"] = float(np.mean(p["probabilities"].argmax(1) == p["labels"]))
        for when, shares in zip(("before", "after"), p["passing"].astype(float), strict=True):
            zeros, detected = shares[0], np.nanmean(shares[1:])
            about |= {f"zeros {when}": zeros, f"detected {when}": detected, f"contrast {when}": detected - zeros}
        rows.append(about)
    return pd.DataFrame(rows, columns=COLUMNS)
