"""Stored predictions in; numbers with intervals, verdicts and sentences out. Knows arrays and tables, never a model.

Read: measures (scores), intervals (of means, shares and splits), differences (two arms on the same cells, families of
questions), ensembles (an arm's runs as one), controls (is the bench sound), words (the one place that says ahead, behind,
equivalent, undecided), then masked, calibration, representations, heads (what the classification head sees): one question each.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    "calibration controls differences ensembles heads intervals masked measures representations words".split(),
    {"intervals": ["confidence_interval"]},
)
