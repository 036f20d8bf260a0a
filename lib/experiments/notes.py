"""What the reader should know of his file before he believes a number, and of the runs and the answer, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData

from lib.datasets import checks
from lib.experiments import classifiers, tasks
from lib.experiments.names import code_hash, run_id
from lib.prepare import screen, splits


def about_cells(chosen: dict, read: AnnData, whole: AnnData) -> list[str]:
    """Which cells, labels and types were left out or are doubtful.

    Parameters
    ----------
    chosen : dict
        As :func:`lib.experiments.profiles.load` gives it.
    read, whole : AnnData
        The file's cells, and those that can be used.
    """
    report, base, said = chosen["adata"].uns["alignment"], chosen["data"], list(read.uns["dataset"].get("warnings", []))
    if none := report.get("no_label"):
        words = ", ".join(f"{name} ({count:,})" for name, count in none.items())
        said.append(f"{sum(none.values()):,} of {read.n_obs:,} cells have no cell type and are set aside: {words}.")
    joined = [" and ".join(map(repr, names)) for names in read.uns["dataset"].get("joined", [])]
    said += [f"{names} differ by blanks around them only and are taken as one type." for names in joined]
    counts = read.obs["cell_type"].value_counts()
    for names in checks.alike(list(read.obs["cell_type"].cat.categories)):
        words = " and ".join(f"{name!r} ({counts[name]:,} cells)" for name in names)
        said.append(
            f"{words} differ in capitals, blanks or a plural only, and are taken as different types. If they are one, name "
            "them so."
        )
    if vague := [name for name in chosen["adata"].obs["cell_type"].cat.categories if checks.doubtful(str(name))]:
        words = ", ".join(f"{name} ({counts[name]:,})" for name in vague)
        said.append(f"Taken for types, though they may be none: {words}. If so, give these cells no label.")
    if repeats := report.get("repeats"):
        said.append(
            f"{repeats:,} of {read.n_obs:,} cells repeat another cell, value for value, under another name; each is used once. "
            "On both sides of the split they would have been known by heart."
        )
    if (share := screen.nearly_twice(whole) or 0) > 0.01:
        said.append(
            f"About {share:.0%} of the cells nearly repeat another cell: both show the same genes, rare ones too, with "
            "slightly other values, as where reads were processed twice. On both sides of the split they are known by heart, "
            "and the scores are too good. Keep one of each, or both on one side (-p group)."
        )
    if dropped := report["dropped_cells"]:
        types = ", ".join(f"{count:,} {name}" for name, count in report["dropped"].items())
        said.append(
            f"{dropped:,} cells show fewer than {report['min_genes']} genes and are dropped ({types}); "
            "-p min_genes N sets another limit."
        )
    if rare := report.get("set_aside"):
        words = ", ".join(f"{name} ({count})" for name, count in rare.items())
        said.append(
            f"Types with fewer than {base['min_cells_per_type']} cells are set aside: {words}; -p min_cells_per_type N sets "
            "another limit."
        )
    return said


def about_groups(whole: AnnData, seen: Sequence[str], groups: Sequence[str], split: dict) -> list[str]:
    """What columns that look like groups (``seen``), and those of them that can be kept apart (``groups``), mean.

    Where there are none, what the cells' names say of it; ``split`` is the profile's.
    """
    said = []
    if groups:
        number = whole.obs[groups[0]].nunique()
        said.append(
            f"{groups[0]!r} ({number} values) looks as if it says whose a cell is, or of which preparation. Cells of one are "
            "alike for more reasons than their type, and here they are on both sides of the split. To be judged on cells of "
            f"others, as you will want: -p group {groups[0]}."
            + (f" It looks so too of {', '.join(map(repr, groups[1:]))}." if groups[1:] else "")
        )
    for column in screen.group_columns(whole.obs, missing=True):
        none = int(whole.obs[column].isna().sum())
        said.append(
            f"{column!r} looks as if it says whose a cell is, but {none:,} of {whole.n_obs:,} cells have none: fill it in to "
            f"keep its values apart (-p group {column})."
        )
    if not seen and (around := screen.from_names(whole.obs_names)) is not None:
        said.append(_about_names(whole, around, split))
    return said + [
        f"{column!r} looks as if it says of which preparation a cell is, and nearly every type has one of its values only: "
        "what tells types apart here may tell preparations apart, and no split of these cells can show which."
        for column in seen
        if column not in groups
    ]


def _about_names(whole, around, split):
    """That the cells' names tell files that were joined, and how to keep these apart."""
    said = ", ".join(around.unique()[:4]) + (" …" if around.nunique() > 4 else "")
    said = f"The cells' names are of {around.nunique()} kinds ({said}), as of samples or lanes that were joined. "
    if not screen.divides(AnnData(obs=whole.obs.assign(kind=around.to_numpy())), split, "kind"):
        return said + "Nearly every type has one of them only: what tells types apart here may tell preparations apart."
    return said + (
        "Cells of one are alike for more reasons than their type, and here they are on both sides of the split. To keep them "
        "apart, write what tells them into a column, such as adata.obs['sample'], and give -p group sample."
    )


def about_sides(chosen: dict) -> list[str]:
    """What it costs to keep a group apart: types that cannot be asked for, and cells that scBERT is not trained on."""
    adata, split, said = chosen["adata"], chosen["split"], []
    if not (column := split.get("group")):
        return []
    if aside := adata.uns["alignment"]["one_sided"]:
        words = ", ".join(f"{name} ({count:,})" for name, count in aside.items())
        said.append(
            f"With each {column!r} on one side, these types would be on one side only, where they cannot be learnt or are not "
            f"asked for; they are set aside: {words}."
        )
    if chosen["protocol"] == "clean":
        labels, groups = adata.obs["cell_type"].cat.codes.to_numpy(np.int64), adata.obs[column].to_numpy(str)
        train, _ = splits.holdout(labels, **split, groups=groups)
        _, select = classifiers.chosen_by(train, 0, labels, groups)
        several = len(set(groups[train])) > 1
        which = f"are whole {column!r} too." if several else f"are of the same {column!r} as the others: there is but one."
        share = f"{len(select):,} ({len(select) / len(train):.0%})"
        said.append(f"Of {len(train):,} labelled cells, {share} tell when scBERT's training ends, and {which}")
    return said


def about_time(plan: dict) -> list[str]:
    """Whether the runs take longer than was asked for."""
    if plan["minutes"] <= plan["asked"]:
        return []
    return [f"The runs take about {plan['minutes']:.3g} minutes here, not {plan['asked']:g}: {plan['because']}."]


def about_work(chosen: dict, specs: Sequence[dict]) -> str:
    """How long runs over a reader's cells take about, how many they are, and of how many cells × genes.

    Parameters
    ----------
    chosen : dict
        As :func:`lib.experiments.yours.load` gives it for ``data``.
    specs : sequence of dict
        Of :mod:`lib.experiments.specs`; pre-trainings that they need are counted too.
    """
    code, plan, (n_cells, n_genes), (cells, genes) = code_hash(), chosen["plan"], chosen["adata"].shape, chosen["could_be"]
    number = len({run_id(one, code) for spec in specs for one in (spec, *tasks.dependencies(spec))})
    minutes = f"About {plan['minutes']:.2g} minutes" if plan["minutes"] >= 1 else "Less than a minute"
    apart = f", and those of the split by {chosen['groups'][0]!r} after them" if chosen["time_apart"] else ""
    return (
        f"{minutes} if none is stored: {number} runs{apart}; {n_cells:,} of {cells:,} cells × {n_genes:,} of {genes:,} genes."
    )


def about_model(chosen: dict) -> str:
    """Which scBERT an answer is about, where it is pre-trained on the training cells alone."""
    size, before = chosen["size"], chosen["pretraining"]
    if before.get("corpus") or before.get("checkpoint"):
        return ""
    whose = "your own" if "asked" in chosen else "these"
    return (
        f"This scBERT ({size['dim']} wide, {size['depth']} layers) was pre-trained on {whose} training cells alone. It is not "
        "the published scBERT (200 wide, 6 layers), which was pre-trained on a million cells: how well that one would do is "
        "not asked here."
    )


def next_steps(chosen: dict, run: str) -> list[str]:
    """What to do after the answer; ``run`` is the identifier of the one to name other cells by."""
    if "asked" not in chosen:
        return ["Your own cells: `./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type`."]
    plan, (cells, genes), said = chosen["plan"], chosen["could_be"], []
    if plan["cells"] < cells or plan["genes"] < genes:
        used = f"{plan['cells']:,} of {cells:,} cells, {plan['genes']:,} of {genes:,} genes"
        said.append(f"More of your cells and genes (here: {used}): `-p minutes {4 * plan['asked']:g}`.")
    said += [f"Judged on values of {one!r} that were not learnt from: `-p group {one}`." for one in chosen["groups"][:1]]
    return [*said, f"Name other cells: `.venv/bin/python -m lib.predict other_cells.h5ad --model {run}`."]
