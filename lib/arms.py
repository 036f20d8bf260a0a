"""The arms of the comparison: what each is, and how it is named and drawn. One row an arm, here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a classifier, an ablation of scBERT, a control, or a rule beside the masked task."""

    name: str
    label: str
    colour: str  # of Okabe & Ito's palette, or a shade of it; controls of one kind share one: each has a row of its own
    model: str = ""  # what learns: scBERT, or one of lib.experiments.classifiers; empty where nothing learns cell types
    # Of a classifier: log2(1 + counts per 10⁴), scBERT's bins, whether a gene was detected, the values of counts of which every
    # cell has as many, or how many counts and detected genes a cell has.
    input: Literal["values", "tokens", "detected", "equal_depth", "depth"] = "values"
    penalty: Literal["", "l1", "l2"] = ""  # of logistic regression
    balanced: bool = False  # classes count alike in its loss
    labelled: Literal["all", "as scBERT"] = "all"  # with protocol clean: without the fifth that scBERT's weights are chosen by
    pretrained: bool = False  # scBERT's factors, from here on
    embedding: Literal["own", "random", None] = None  # the profile's gene embedding, random vectors, or none
    trained: Literal["last_block", "all"] = "last_block"  # what is fine-tuned, besides the norm and the head
    blocks: bool = True  # False: the head on the embeddings, without a transformer


def _scbert(name, label, colour, embedding, *factors, **others):
    pretrained, trained = "pretrained" in factors, "all" if "all" in factors else "last_block"
    return Arm(name, label, colour, "scBERT", pretrained=pretrained, embedding=embedding, trained=trained, **others)


_OWN, _RANDOM, _NONE = "scBERT", "scBERT, random vectors", "scBERT, no gene embedding"
_ROWS = (
    Arm("logistic_regression", "Logistic regression (L1)", "#0072B2", "logistic_regression", penalty="l1"),
    Arm("logistic_regression_l2", "Logistic regression (L2)", "#004C7F", "logistic_regression", penalty="l2"),
    Arm("logistic_regression_tokens", "Logistic regression (L1) on tokens", "#4A9BC8", "logistic_regression", "tokens", "l1"),
    Arm(
        "logistic_regression_detected",
        "Logistic regression (L1), detected or not",
        "#4A9BC8",
        "logistic_regression",
        "detected",
        "l1",
    ),
    Arm(
        "logistic_regression_equal_depth",
        "Logistic regression (L1), equal depth",
        "#4A9BC8",
        "logistic_regression",
        "equal_depth",
        "l1",
    ),
    Arm(
        "logistic_regression_balanced",
        "Logistic regression (L1), types weighted alike",
        "#004C7F",
        "logistic_regression",
        penalty="l1",
        balanced=True,
    ),
    Arm(
        "logistic_regression_four_fifths",
        "Logistic regression (L1), labels as scBERT",
        "#4A9BC8",
        "logistic_regression",
        penalty="l1",
        labelled="as scBERT",
    ),
    Arm("nearest_centroid", "Nearest mean cell of a type", "#009E73", "nearest_centroid"),
    Arm("rank_means", "Ranks, projected on types' means", "#009E73", "rank_means"),
    Arm("depth", "Depth alone: counts, detected genes", "#767676", "depth", "depth"),
    Arm("nearest_neighbours", "Nearest neighbours in PCA", "#009E73", "nearest_neighbours"),
    Arm("majority", "Majority class", "#767676", "majority"),
    Arm("stratified_random", "Random, by share", "#949494", "stratified_random"),
    Arm("pca", "PCA", "#009E73", "pca"),
    # scBERT by its factors; the paper's three are full, no_pretraining and no_gene2vec.
    _scbert("full", _OWN, "#D55E00", "own", "pretrained"),
    _scbert("all_trained", f"{_OWN}, all trained", "#D55E00", "own", "pretrained", "all"),
    _scbert("no_pretraining", f"{_OWN}, not pre-trained", "#8F6300", "own"),
    _scbert("no_pretraining_all_trained", f"{_OWN}, not pre-trained, all trained", "#8F6300", "own", "all"),
    _scbert("random_vectors", _RANDOM, "#0072B2", "random", "pretrained"),
    _scbert("random_vectors_all_trained", f"{_RANDOM}, all trained", "#0072B2", "random", "pretrained", "all"),
    _scbert("random_vectors_no_pretraining", f"{_RANDOM}, not pre-trained", "#0072B2", "random"),
    _scbert(
        "random_vectors_no_pretraining_all_trained", f"{_RANDOM}, not pre-trained, all trained", "#0072B2", "random", "all"
    ),
    _scbert("no_gene2vec", _NONE, "#CC79A7", None, "pretrained"),
    _scbert("no_gene2vec_all_trained", f"{_NONE}, all trained", "#CC79A7", None, "pretrained", "all"),
    _scbert("no_gene2vec_no_pretraining", f"{_NONE}, not pre-trained", "#CC79A7", None),
    _scbert("no_gene2vec_no_pretraining_all_trained", f"{_NONE}, not pre-trained, all trained", "#CC79A7", None, "all"),
    _scbert("head_only", "scBERT's head, no transformer", "#8C6D00", "own", blocks=False),
    # Answers to the masked task that need no transformer.
    Arm("most_common_bin", "Cell's most common bin", "#767676"),
    Arm("cell_rule", "Rule: cell's most common visible bin", "#767676"),
    Arm("gene_rule", "Rule: gene's most common bin", "#4A9BC8"),
    Arm("additive", "Rule: both, additive", "#0072B2"),
)
ARMS = {arm.name: arm for arm in _ROWS}

# What brackets every model, from the least informed up.
CONTROLS = (
    "stratified_random",
    "majority",
    "depth",
    "nearest_centroid",
    "rank_means",
    "nearest_neighbours",
    "logistic_regression_detected",
    "logistic_regression_equal_depth",
    "logistic_regression_tokens",
    "logistic_regression_four_fifths",
    "logistic_regression_balanced",
    "logistic_regression_l2",
    "head_only",
)
FACTORIAL = tuple(arm.name for arm in _ROWS if arm.model == "scBERT" and arm.blocks)  # every combination of factors
EMBEDDINGS = {"own": "own gene embedding", "random": "random vectors", None: "no gene embedding"}


def by_factors(pretrained, trained, embedding):
    """The name of the one arm of ``FACTORIAL`` with these factors.

    >>> by_factors(False, "last_block", "own")
    'no_pretraining'
    """
    (found,) = (name for name in FACTORIAL if (pretrained, trained, embedding) == factors(name))
    return found


def factors(name):
    """The factors of an arm of scBERT: (pre-trained, what is trained, gene embedding)."""
    arm = ARMS[name]
    return arm.pretrained, arm.trained, arm.embedding


def label(name):
    """An arm's name for tables and figures; that of a model of the reader's own is what the reader calls it."""
    return ARMS[name].label if name in ARMS else name


def colour(name):
    return ARMS[name].colour
