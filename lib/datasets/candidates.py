"""Columns of a cells' table in words: which could hold the cell types, and which is meant by a name that is not there."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence

import pandas as pd

from lib.errors import DataError

MOST = 200  # types: a column with more different values is no cell type
SHOWN = 8  # columns that a message names
# How names of columns of cell types often go, the surest first.
LIKELY = [re.compile(words, re.IGNORECASE) for words in ("cell.?type|annot|label", "type|cluster|class|leiden|louvain|lineage")]
ADDED = ("library_size", "cell_type")  # the reader's own, where the file has no such column


def could_be_labels(obs: pd.DataFrame) -> list[str]:
    """Columns that could hold cell types, the likeliest first: by their values, of which there are several, with cells each."""
    found = []
    for place, name in enumerate(obs.columns):
        values, kind = obs[name], getattr(obs[name].dtype, "categories", obs[name]).dtype
        different = values.nunique()
        if not 2 <= different <= min(MOST, max(len(obs) / 2, 10)) or pd.api.types.is_bool_dtype(kind) or name == "library_size":
            continue
        numeric = pd.api.types.is_numeric_dtype(kind)
        if numeric and (values.dropna().astype(float) % 1 != 0).any():
            continue
        rank = next((rank for rank, pattern in enumerate(LIKELY) if pattern.search(str(name))), len(LIKELY))
        found.append((numeric, rank, place, str(name)))
    return [name for *_, name in sorted(found)]


def told(obs: pd.DataFrame, names: Sequence[str]) -> str:
    """Some columns in words, each with the number of its values and the most common one.

    >>> told(pd.DataFrame({"kind": ["T", "B", "T"], "site": ["x", "y", "y"]}), ["kind", "site"])
    'kind (2: T, …), site (2: y, …)'
    """
    said = [f"{name} ({obs[name].nunique():,}: {str(obs[name].value_counts().index[0])[:40]}, …)" for name in names[:SHOWN]]
    return ", ".join(said) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def meant(name: str, names: Iterable[str]) -> str | None:
    """Which of some names is meant by one that is not among them: but for capitals, signs, some letters or a part left out.

    >>> meant("cell_type", ["donor", "celltype_fine", "CellType"]), meant("cell_type", ["donor"])
    ('CellType', None)
    """
    plain = {one: re.sub(r"[\W_]+", "", one.casefold()) for one in (name, *names)}
    wanted = plain.pop(name)

    def likeness(one):
        part = min(wanted, one, key=len)
        inside = len(part) >= 4 and part in wanted and part in one
        return difflib.SequenceMatcher(None, wanted, one).ratio() + inside

    best = max(plain, key=lambda one: likeness(plain[one]), default=None)
    return best if best is not None and likeness(plain[best]) > 0.7 else None


def missing(obs: pd.DataFrame, label: str | None, where, var_columns: Iterable[str] = ()) -> DataError:
    """The refusal of cells without the label column (None: without one that is taken unnamed), with what to give instead."""
    said = f"{where} has no label column {'cell_type' if label is None else label!r}."
    if label in var_columns:
        return DataError(said, "It is a column of var: is the matrix transposed, genes × cells? Then save adata.T.", where)
    could = could_be_labels(obs)
    if not could:
        there = ", ".join(map(str, obs.columns.difference(ADDED))) or "none"
        remedy = "If the cell types stand in a CSV or TSV beside the cells' names, give that too: -p labels TABLE"
        said += f" Its columns: {there}{'; none could be cell types' if there != 'none' else ''}."
        return DataError(said, remedy, where)
    if near := meant(label or "cell_type", could):
        could = [near, *(name for name in could if name != near)]
        said += f" Did you mean {near!r}?"
    said += f" Columns that could be: {told(obs, could)}."
    return DataError(said, f"Name the one that holds the cell types: -p label {shlex.quote(could[0])}", where)
