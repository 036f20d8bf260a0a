"""Which cells of a file count: those with a label, each once, of types that can be both learnt and asked; and their groups."""

from __future__ import annotations

import hashlib
import re

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import checks
from lib.errors import DataError
from lib.prepare import splits

DETECTED = 10  # genes: two cells that show fewer may be alike by chance
# Columns of obs that say whose or of which preparation a cell is, without capitals and signs; what divides most surely first.
GROUPS = (
    "donor patient subject individual participant person projid mouse animal specimen biosample sample suspension hash batch "
    "library origident replicate pool capture channel lane run plate gemgroup gem experiment expt study dataset cohort gsm srr "
    "multi site center centre laboratory lab chemistry technology assay"
).split()
BARCODE = r"[ACGTN]{8,}(?:[-_+.]?[ACGTN]{8,})*"
NAMES = "uuid identifier id ids name names number no label code".split()  # may stand behind such a word


def labelled(adata: anndata.AnnData) -> tuple[anndata.AnnData, dict]:
    """The cells that have a label; and how many had none, for each word that says so (``no_label``)."""
    none = adata.obs["cell_type"].isna().to_numpy()
    if not none.any():
        return adata, {}
    told = adata.uns["dataset"].get("no_label", {"(missing)": int(none.sum())})
    return adata[~none].copy(), {"no_label": dict(told)}


def once(adata: anndata.AnnData, where) -> tuple[anndata.AnnData, dict]:
    """Each cell once, the first: of cells that have the same value for every gene, whatever their names.

    Returns
    -------
    AnnData
    dict
        Where there are repeats: ``repeats``, how many cells were left out, and ``repeated``, how many different cells they are.

    Raises
    ------
    DataError
        Repeats of one cell have different labels.
    """
    x = adata.X.copy()
    x.eliminate_zeros()
    x.sort_indices()
    rows = [slice(*x.indptr[cell : cell + 2]) for cell in range(x.shape[0])]
    enough = np.diff(x.indptr) >= DETECTED
    hashed = [
        hashlib.sha256(x.indices[row].tobytes() + b" " + x.data[row].tobytes()).digest() if many else cell
        for cell, (row, many) in enumerate(zip(rows, enough))
    ]
    code, _ = pd.factorize(np.array(hashed, object))
    again = pd.Series(code).duplicated().to_numpy()
    if not again.any():
        return adata, {}
    several = np.isin(code, code[again])
    report = {"repeats": int(again.sum()), "repeated": len(np.unique(code[again]))}
    if "cell_type" in adata.obs:
        kinds = adata.obs["cell_type"].astype(str)[several].groupby(code[several]).unique()
        if contradicting := [names for names in kinds if len(names) > 1]:
            first = np.flatnonzero(code == kinds.index[[len(names) > 1 for names in kinds]][0])
            named = ", ".join(f"{adata.obs_names[cell]!r} is {adata.obs['cell_type'].iloc[cell]!r}" for cell in first[:3])
            raise DataError(
                f"{report['repeats']:,} of {adata.n_obs:,} cells of {where} repeat another cell, value for value, and "
                f"{len(contradicting):,} of the {report['repeated']:,} cells that occur more than once have labels that "
                f"contradict each other (first: {named}). Find out which label is right, or drop these cells."
            )
    return adata[~again].copy(), report


def nearly_twice(adata: anndata.AnnData, looked: int = 500, alike: float = 0.65) -> float | None:
    """The share of cells that another cell nearly repeats, as where reads were processed twice; None where too few genes tell.

    Two such cells show the same genes, also of those that a fifth of the cells show at most: of these genes, shown by
    either, ``alike`` or more are shown by both. Of different cells of one type it is a quarter, a half at most.

    Parameters
    ----------
    adata : AnnData
        Without exact repeats; on any scale.
    looked : int
        So many cells, drawn at random, are compared with all.
    """
    shown = sp.csr_matrix((adata.X > 0).astype(np.float32))
    shown = shown[:, np.asarray(shown.mean(0)).ravel() <= 0.2]
    number, others = np.diff(shown.indptr), sp.csr_matrix(shown.T)
    rows = np.flatnonzero(number >= 2 * DETECTED)
    if len(rows) < 2 * DETECTED:
        return None
    rows = np.random.RandomState(0).permutation(rows)[:looked]
    found = 0
    for some in np.array_split(rows, max(1, len(rows) // 50)):
        both = (shown[some] @ others).tocoo()
        either = number[some][both.row] + number[both.col] - both.data
        again = (both.data >= alike * either) & (some[both.row] != both.col)
        found += len(np.unique(both.row[again]))
    return found / len(rows)


def from_names(names: pd.Index) -> pd.Series | None:
    """What stands around the barcodes, or before the running numbers, in cells' names: as files are told that were joined.

    None where it does not divide the cells, as :func:`group_columns` asks of a column.

    >>> list(from_names(pd.Index([f"{one}_ACGTACGTACGT-1" for one in "aab" * 5])))[:3]
    ['a_…-1', 'a_…-1', 'b_…-1']
    """
    text = pd.Series(names.astype(str), index=names)
    barcodes = text.str.contains(BARCODE, regex=True)
    around = (
        text.str.replace(BARCODE, "…", n=1, regex=True) if barcodes.mean() > 0.9 else text.str.replace(r"\d+$", "…", regex=True)
    )
    return around if 2 <= around.nunique() <= len(around) / 5 and around.str.contains("…").mean() > 0.9 else None


def grouped(adata: anndata.AnnData, column: str, where) -> anndata.AnnData:
    """The same with ``obs[column]`` as text; refused where it cannot keep cells apart."""
    if column not in adata.obs:
        there = checks.columns(adata.obs)
        raise DataError(f"{where} has no column {column!r} to keep groups of cells apart by. Columns of obs: {there}.")
    values = adata.obs[column]
    missing = (values.isna() | (values.astype(str).str.strip() == "")).to_numpy()
    if missing.any():
        raise DataError(
            f"{int(missing.sum()):,} of {adata.n_obs:,} cells of {where} have no {column!r} (first: "
            f"{adata.obs_names[missing][0]!r}), so that it is not known which to keep apart. Fill it in, or drop these cells."
        )
    if values.nunique() < 2:
        raise DataError(
            f"All cells of {where} have one {column!r}, {values.astype(str).iloc[0]!r}: there is nothing to keep apart. "
            "Name another column, or leave group out."
        )
    adata.obs[column] = values.astype(str)
    return adata


def on_both_sides(adata: anndata.AnnData, split: dict) -> tuple[anndata.AnnData, dict]:
    """Without types that whole groups held out leave on one side only: they could not be learnt, or would not be asked.

    Returns
    -------
    AnnData
    dict
        Their cells, type by type.

    Raises
    ------
    DataError
        Fewer than two types are left.
    """
    column, aside = split["group"], {}
    counts = pd.crosstab(adata.obs["cell_type"], adata.obs[column].astype(str))
    alone = counts.index[(counts > 0).sum(axis=1) < 2]
    while True:
        if len(counts) - len(alone) < 2:
            several = int(((counts > 0).sum(axis=1) > 1).sum())
            raise DataError(
                f"{several} of {len(counts)} cell types occur in more than one {column!r}, and {len(counts) - len(alone)} can "
                f"stand on both sides when whole groups are held out; two are needed. In these cells {column!r} says what the "
                "type is, or nearly so: no split can tell the two apart. Name another column, or leave group out."
            )
        aside |= {str(name): int(counts.loc[name].sum()) for name in alone}
        counts = counts.drop(index=alone)
        if len(alone):
            adata = adata[~adata.obs["cell_type"].isin(alone)].copy()
            adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
        codes = adata.obs["cell_type"].cat.codes.to_numpy(np.int64)
        sides = splits.holdout(codes, **split, groups=adata.obs[column].to_numpy(str))
        train, test = (set(adata.obs["cell_type"].iloc[side]) for side in sides)
        alone = pd.Index(sorted(train ^ test))
        if not len(alone):
            return adata, aside


def group_columns(obs: pd.DataFrame, missing: bool = False) -> list[str]:
    """Columns that look as if they say whose or of which preparation a cell is, by name and values; the surest first.

    A column counts if it has from two values up to one for each five cells, none missing; with ``missing``, some missing.
    """
    found = []
    for column in obs:
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(column))] or [""]
        while len(words) > 1 and words[-1] in NAMES:
            words.pop()
        whole = re.sub(rf"(?<=.)({'|'.join(NAMES)})$", "", "".join(words))
        whole = next((one for one in (whole, whole[:-1], whole[:-2]) if one in GROUPS), whole)  # donors, batches
        whose = whole if whole in GROUPS or words[0] in ("n", "num", "number", "count") else words[-1]
        values = obs[column]
        if whose in GROUPS and values.isna().any() == missing and 2 <= values.nunique() <= len(obs) / 5:
            found.append((GROUPS.index(whose), values.nunique(), str(column)))
    return [name for *_, name in sorted(found)]


def divides(adata: anndata.AnnData, split: dict, column: str) -> bool:
    """Whether two types at least stand on both sides of a split that keeps the groups of a column apart."""
    try:
        on_both_sides(adata, split | {"group": column})
    except DataError:
        return False
    return True
