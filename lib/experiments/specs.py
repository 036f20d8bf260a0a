"""The specifications of the runs that a profile asks for: plain values. Describing a run opens, fetches and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from lib.arms import ARMS, CONTROLS, FACTORIAL, by_factors
from lib.errors import DataError

Names, Specs = Sequence[str], list[dict]


def cell_types(
    profile: dict,
    arms: Names,
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] | None = None,
    crossed: bool | None = None,
) -> Specs:
    """Specifications of cell-type runs: arms × fractions × seeds, the same subset of cells for every arm.

    Arms that are pre-trained are fine-tuned with every seed from each of the profile's pre-trainings; not ``crossed`` (default:
    what the profile says, or crossed), from one of them, in turn.
    """
    crossed = profile.get("crossed", True) if crossed is None else crossed
    known = [name for name, what in ARMS.items() if what.model not in ("", "pca")]
    if unknown := [arm for arm in arms if arm not in known]:
        raise DataError(f"There is no arm {unknown[0]!r}. Arms: {', '.join(known)}.")
    if uncounted := [arm for arm in arms if not _to_be_had(profile, arm)]:
        raise DataError(f"{uncounted[0]} needs counts, but these cells' values are normalised. Leave it out, or give counts.")
    found = []
    for arm, fraction, seed in product(arms, fractions, profile["seeds"] if seeds is None else seeds):
        before = _pretrainings(profile, arm)
        chosen = before if crossed else [before[seed % len(before)]]
        found += [_one(profile, arm, float(fraction), int(seed), each) for each in chosen]
    return found


def _pretrainings(profile, arm):
    """Seeds of the pre-trainings that an arm begins from; a checkpoint's weights are one."""
    if not ARMS[arm].pretrained:
        return [None]
    seeds = profile["pretraining"]["seeds"]
    return seeds[:1] if profile["pretraining"].get("checkpoint") and ARMS[arm].embedding == "own" else seeds


def few_shot(profile: dict) -> Specs:
    """Specifications of logistic regression and scBERT by the fraction of labels, the same subset of cells for both.

    Where scBERT keeps a fifth of its labels to end by (protocol *clean*), logistic regression is asked of the other four fifths
    too, so that what is the model's can be told from what is the labels'.
    """
    same = ["logistic_regression_four_fifths"] if profile["protocol"] == "clean" else []
    arms = ["logistic_regression", "full", "majority", *same]
    return cell_types(profile, arms, profile["fractions"], profile["few_shot_seeds"])


def masked(profile: dict, arms: Names = ("full", "no_gene2vec")) -> Specs:
    """Specifications of the masked task on held-out cells, for each pre-training; the same genes are hidden in all."""
    return [_base(profile, "masked", arm, before) | {"seed": 0} for arm in arms for before in _pretrainings(profile, arm)]


def representations(profile: dict, arms: Names = ("pca", "full", "no_pretraining", "no_gene2vec")) -> Specs:
    """Specifications of cell and gene representations, for each pre-training, and for as many draws of random weights."""
    found = []
    for arm in arms:
        draws = profile["pretraining"]["seeds"] if ARMS[arm].model == "scBERT" and not ARMS[arm].pretrained else [0]
        found += [
            _base(profile, "representations", arm, before) | {"seed": draw}
            for draw in draws
            for before in _pretrainings(profile, arm)
        ]
    return found


def controls(profile: dict, arms: Names = CONTROLS) -> Specs:
    """Specifications of the controls; ``controls`` of the profile, where there, thins their seeds and searches for C.

    Without those at equal depth where the cells' counts are unknown, as :func:`lib.experiments.profiles.describe` says.
    """
    arms = [arm for arm in arms if _to_be_had(profile, arm)]
    thin = profile.get("controls", {})
    settings = {"logistic_regression": thin.get("logistic_regression", profile["logistic_regression"])}
    return cell_types(profile | settings, arms, seeds=_thinned(profile, thin.get("seeds")))


def _to_be_had(profile, arm):
    return arm not in ARMS or ARMS[arm].input != "equal_depth" or "equal_depth" in profile["adata"].layers


def _thinned(profile, seeds):
    """Those of ``seeds`` that the profile's runs have, so that runs stay paired; all of them where there are none."""
    return [seed for seed in profile["seeds"] if seed in (seeds or [])] or profile["seeds"]


def other_protocol(profile: dict, arms: Names = ("full",)) -> Specs:
    """Specifications of scBERT, or of other arms of it, under the protocol that is not the profile's own.

    ``other_protocol`` of the profile names it, the ``seeds`` that it is run for, and its ``finetuning`` where that differs.
    """
    other = profile["other_protocol"]
    return cell_types(profile | other, arms, seeds=_thinned(profile, other.get("seeds")), crossed=False)


def tuning(profile: dict) -> Specs:
    """Specifications of the trials by which settings were chosen: as many for scBERT as for logistic regression.

    ``tuning`` of the profile lists values of each setting; every combination is a trial, for scBERT one with each of its
    ``seeds`` (default: the first of the profile's), from one pre-training each. Trials learn from four fifths of the training
    cells and are scored on the last fifth: no cell that is reported is looked at.
    """
    found, given, first = [], profile.get("tuning", {}), profile["seeds"][:1]
    for arm, seeds in (("full", given.get("seeds", first)), ("logistic_regression", first)):
        grid = given.get(arm, {})
        for values, seed in product(product(*grid.values()), seeds) if grid else []:
            [spec] = cell_types(profile, [arm], seeds=[seed], crossed=False)
            chosen = {key: value for key, value in zip(grid, values) if value is not None}
            training = spec["training"] | chosen
            if "max_lr" in chosen:
                training["ends"] = training["ends"] | {"max_lr": training.pop("max_lr")}
            found.append(spec | {"training": training, "held_out": "tuning"})
    return found


def repeated(profile: dict) -> Specs:
    """Specifications of the same comparison on many stratified splits, each split with a seed of its own.

    ``repeated`` of the profile says how many ``splits``, the ``logistic_regression`` on them (default: the profile's),
    and which arm stands for ``scbert`` on how many of them.
    """
    chosen = {"splits": 20, "scbert": "full", "scbert_splits": 5} | profile.get("repeated", {})
    cheap = profile | {"logistic_regression": chosen.get("logistic_regression", profile["logistic_regression"])}
    found = []
    for k in range(chosen["splits"]):
        split = {"split": profile["split"] | {"seed": k}}
        arms = ["logistic_regression", "logistic_regression_l2", "nearest_neighbours", "majority"]
        found += cell_types(cheap | split, arms, seeds=[k])
        if k < chosen["scbert_splits"]:
            found += cell_types(profile | split, [chosen["scbert"]], seeds=[k], crossed=False)
    return found


def factorial(profile: dict) -> Specs:
    """Specifications of all arms of ``FACTORIAL``, on the same subsets of cells.

    ``factorial`` of the profile, where there, thins them: a ``fraction`` of the labels, the ``seeds`` of those arms that are
    not the paper's, and arms to do ``without``.
    """
    thin = profile.get("factorial", {})
    fraction, seeds = thin.get("fraction", 1.0), _thinned(profile, thin.get("seeds"))
    found = []
    for arm in (name for name in FACTORIAL if name not in thin.get("without", [])):
        whole = arm in ("full", "no_pretraining", "no_gene2vec") and fraction == 1  # these are run anyway
        found += cell_types(profile, [arm], [fraction], profile["seeds"] if whole else seeds, crossed=None if whole else False)
    return found


def pretraining_effect(profile: dict) -> Specs:
    """Specifications of pre-training's effect by the fraction of labels, on the subsets of the few-shot experiment.

    ``pretraining_effect`` of the profile, where there, thins their ``fractions`` and ``seeds``.
    """
    thin = profile.get("pretraining_effect", {})
    fractions = [fraction for fraction in profile["fractions"] if fraction in thin.get("fractions", profile["fractions"])]
    seeds = [seed for seed in profile["few_shot_seeds"] if seed in thin.get("seeds", profile["few_shot_seeds"])]
    seeds = seeds or profile["few_shot_seeds"]
    return cell_types(profile, ["full", "no_pretraining"], fractions or profile["fractions"], seeds)


def few_labels(profile: dict) -> dict[str, Specs]:
    """Specifications of what is not pre-trained, with a gene embedding and without, on few labels, by protocol.

    Under the profile's protocol, beside logistic regression. Where that is the authors' ten epochs, which are few steps of
    few cells, also to the plateau of ``other_protocol``, but for arms that are ``slow``. ``few_labels`` of the profile, where
    there, says of which ``fraction``, which ``seeds``, and which fewer seeds of an arm that is ``slow``.
    """
    thin = profile.get("few_labels", {})
    seeds, slow = thin.get("seeds", profile["few_shot_seeds"]), thin.get("slow", {})
    at, bare = [thin.get("fraction", 0.1)], ["no_gene2vec_no_pretraining", "no_pretraining"]
    found = {profile["protocol"]: cell_types(profile, ["logistic_regression", "majority"], at, seeds)}
    found[profile["protocol"]] += [spec for arm in bare for spec in cell_types(profile, [arm], at, slow.get(arm, seeds))]
    if profile["protocol"] == "paper":
        other = profile | profile["other_protocol"]
        same = "logistic_regression_four_fifths"  # from the labels that scBERT then learns from
        found[other["protocol"]] = cell_types(other, [same, *(arm for arm in bare if arm not in slow)], at, seeds)
    return found


def corpora(profile: dict) -> dict[str, Specs]:
    """Specifications of scBERT without a gene embedding, pre-trained on each of the profile's ``corpora``, by their names.

    A corpus is named by its content: published runs need none of its files.
    """
    return {
        name: cell_types(profile | {"pretraining": profile["pretraining"] | {"corpus": given}}, ["no_gene2vec"])
        for name, given in profile.get("corpora", {}).items()
    }


def unknown(profile: dict, arms: Names = ("logistic_regression", "nearest_neighbours", "no_gene2vec", "full")) -> Specs:
    """Specifications of classifiers from which one cell type was left out, every type once.

    ``unknown`` of the profile, where there, says on how many of the types, the most common first, an arm is tried.
    Logistic regression has the C of ``repeated``.
    """
    types = profile["adata"].obs["cell_type"].value_counts().index.tolist()
    thin = profile.get("unknown", {})
    quick = profile.get("repeated", {}).get("logistic_regression", profile["logistic_regression"])
    cheap = profile | {"logistic_regression": quick}
    return [
        spec | {"left_out": str(name)}
        for arm in arms
        for name in types[: thin.get(arm)]
        for spec in cell_types(cheap, [arm], seeds=profile["seeds"][:1], crossed=False)
    ]


def external(there: dict, trained: Sequence[dict]) -> Specs:
    """What the classifiers of these specifications say of the cells that :func:`lib.experiments.profiles.external` gives."""
    if deep := [spec["arm"] for spec in trained if "depths" in spec]:
        raise DataError(f"{deep[0]} looks at how deeply cells were sequenced, which differs elsewhere by itself. Leave it out.")
    other = {"task": "external", "data": {key: there[key] for key in ("dataset", "fingerprint")}}
    return [other | {key: spec[key] for key in ("arm", "seed", "fraction")} | {"trained": spec} for spec in trained]


def probe(profile: dict, trained: Sequence[dict]) -> Specs:
    """What these say of the profile's ``probe``, other labelled cells named by their content: published runs need no file."""
    given = profile.get("probe")
    return external({"dataset": given["name"], "fingerprint": given["fingerprint"]}, trained) if given else []


def asked(profile: dict) -> Specs:
    """Specifications of what notebooks 01 to 08 ask for of a profile, but for cells from elsewhere and what runs depend on."""
    arms = ["logistic_regression", "full", "majority", "no_pretraining", "no_gene2vec", "no_gene2vec_no_pretraining"]
    return [
        *cell_types(profile, arms),
        *few_shot(profile),
        *controls(profile),
        *other_protocol(profile, ("full", "no_gene2vec", "no_gene2vec_no_pretraining")),
        *repeated(profile),
        *tuning(profile),
        *factorial(profile),
        *pretraining_effect(profile),
        *(spec for each in few_labels(profile).values() for spec in each),
        *(spec for each in corpora(profile).values() for spec in each),
        *masked(profile),
        *representations(profile),
        *unknown(profile),
    ]


def _base(profile, task, arm, seed=None):
    """What all specifications of an arm have in common; ``seed``: of its pre-training, where it has one."""
    what = ARMS[arm]
    data = {"dataset": profile["data"]["dataset"], "fingerprint": profile["fingerprint"]}
    spec = {"task": task, "arm": arm, "model": what.model, "data": data, "split": profile["split"]}
    if what.input != "values":
        spec["input"] = what.input
    if what.input in ("depth", "equal_depth"):
        spec["depths"] = profile["depths"]
    if what.labelled != "all":
        spec["labelled"] = what.labelled
    if what.model == "pca":
        spec["size"] = {"dim": profile["size"]["dim"]}
    if what.model == "scBERT":
        spec["size"] = profile["size"] | ({} if what.blocks else {"depth": 0})
        spec["gene_embedding"] = profile["gene_embedding"] if what.embedding == "own" else what.embedding
        if spec["gene_embedding"] == "gene2vec":
            spec["gene2vec"] = profile["gene2vec"]  # the file's hash: another file, other runs
        if task != "pretraining" and what.pretrained:
            training = {key: value for key, value in profile["pretraining"].items() if key != "seeds"}
            given, tokens_of = training.pop("checkpoint", None), training.pop("corpus", None)
            named = by_factors(True, "last_block", what.embedding)  # one pre-training for all arms that begin with it
            before = _base(profile, "pretraining", named) | {"seed": seed, "training": training}
            if given and what.embedding == "own":  # a checkpoint's weights were trained with its gene embedding
                before |= {"checkpoint": given, "training": {}}
            elif tokens_of:  # an empty cell is none
                before["corpus"] = {"file": tokens_of, "min_genes": max(1, profile["data"]["min_genes"])}
            spec["pretraining"] = before
    return spec


def _one(profile, arm, fraction, seed, before):
    spec = _base(profile, "cell_types", arm, before) | {"fraction": fraction, "seed": seed, "protocol": profile["protocol"]}
    if spec["model"] == "logistic_regression":
        spec["training"] = profile["logistic_regression"] | {"penalty": ARMS[arm].penalty}
        spec["training"] |= {"class_weight": "balanced"} if ARMS[arm].balanced else {}
    if spec["model"] == "scBERT":
        spec["training"] = profile["finetuning"] | {"trained": ARMS[arm].trained}
    return spec
