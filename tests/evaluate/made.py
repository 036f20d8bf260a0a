"""Runs made by hand, whose right answers are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd


def run(arm, labels, predicted, seed=0, classes=None, sure=1.0, **spec):
    """A finished run with these answers, each given with the probability ``sure`` (one number, or one for each cell)."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    classes = np.array([f"type {k}" for k in range(max(labels.max(), predicted.max()) + 1)] if classes is None else classes)
    sure = np.broadcast_to(sure, labels.shape)[:, None]
    others = (1 - sure) / max(1, len(classes) - 1)
    probabilities = np.where(np.eye(len(classes), dtype=bool)[predicted], sure, others)
    predictions = {"labels": labels, "probabilities": probabilities, "classes": classes}
    predictions |= {"test": np.arange(len(labels)), "train": np.arange(4 * len(labels))}
    spec = {"arm": arm, "seed": seed, "fraction": 1.0, "split": {"seed": 0}, "protocol": "paper", "model": arm} | spec
    identity = f"{arm}-{seed}-{spec['split']['seed']}-{spec['fraction']}-{spec['protocol']}"
    return SimpleNamespace(id=identity, spec=spec, predictions=predictions, log=pd.DataFrame())


def right_on(arm, right, seed=0, **spec):
    """A run that names these of its cells right; all are of type 0, and what is not right is called type 1."""
    right = np.asarray(right, bool)
    return run(arm, np.zeros(len(right), int), np.where(right, 0, 1), seed, **spec)


def answers(rng, labels, accuracy):
    """Answers of four types, of which about this share is right."""
    wrong = (labels + rng.integers(1, 4, len(labels))) % 4
    return np.where(rng.random(len(labels)) < accuracy, labels, wrong)
