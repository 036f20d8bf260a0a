"""What gene names and labels of a user's file must be; what is refused, and with which remedy."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.datasets import candidates
from lib.errors import DataError

# Label columns that are taken without being named: scverse's usual name and the paper's authors'.
LABEL_COLUMNS = ("cell_type", "celltype")
# Columns of var that hold gene symbols, in scverse, 10x, CELLxGENE, Seurat, monocle and Ensembl's words.
SYMBOL_COLUMNS = (
    "gene_symbols gene_symbol feature_name gene_names gene_name gene_short_name symbol symbols hgnc_symbol external_gene_name "
    "genes gene names name"
).split()
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}")
IDENTIFIERS = {  # what stands where symbols are expected, besides genes of Ensembl
    "Ensembl transcripts": re.compile(r"ENS[A-Z]*T\d{6,}"),
    "RefSeq identifiers": re.compile(r"[NX][MR]_\d+"),
    "HGNC identifiers": re.compile(r"HGNC:\d+$"),
    "probes of arrays": re.compile(r"\S+_[as]t$|ILMN_\d+$|A_\d\d_P\d+$"),
}
BARCODE = re.compile(r"(^|[^A-Za-z])[ACGT]{10,}([^A-Za-z]|$)")
MONTH = "(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?)"
DATE = re.compile(  # as spreadsheets write them: 1-Mar, Mar-01, 2001-03-01 00:00:00, 3/1/2001
    rf"(?:\d{{1,2}}-{MONTH}(-\d+)?|{MONTH}-\d{{1,4}}"
    r"|\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?|\d{1,2}/\d{1,2}/\d{2,4})$",
    re.IGNORECASE,
)
# Genes that nearly every measurement of human or mouse cells holds, whatever the tissue.
UBIQUITOUS = ("ACTB", "B2M", "CD74", "EEF1A1", "FTL", "GAPDH", "MALAT1", "PTPRC", "RPL13", "RPLP0", "RPS3", "TMSB4X", "VIM")
MISSING = ("", "nan", "none", "na", "n/a", "<na>", "null")  # as text, in small letters
# Labels by which annotators and their tools say that a cell has no type; as :func:`means_none` compares them.
NO_TYPE = (
    "unknown|unknowns|unkn?|unassigned|not assigned|unannotated|not annotated|no annotation|unlabell?ed|not labell?ed|no label|"
    "unclassified|not classified|unidentified|undefined|not defined|undetermined|not determined|indeterminate|to be determined|"
    "cannot be determined|tbd|unresolved|unspecified|unclear|uncertain|ambiguous|not available|not applicable|no match|missing|"
    "n ?d|negative|low quality|poor quality|bad quality|low qc|failed qc|qc fail(ed)?|(cell )?debris|dying|dead|not a|"
    "background|empty|empty droplets?|ambient|ambient rna|high mito|mito(chondrial)? high|high mt|mt high|art[ei]facts?|"
    "contaminants?|(\\w+ )?contamination|contaminated|filtered|filtered out|removed|discarded|excluded?"
)
NONE = re.compile(rf"({NO_TYPE})( cells?| cell types?)?( \d+)?|.*\b(doublets?|multiplets?)\b.*")
DOUBTFUL = re.compile(r"misc(ellaneous)?|stressed|.*\b(unknown|unassigned|unclassified|low quality|others?|mixed|debris)\b.*")


def _signs_of_turning(cells, genes):
    """What tells that the names of cells are those of genes, in words, or None."""

    def share(names, pattern):
        return np.mean([bool(pattern.search(name)) for name in names]) if len(names) else 0

    known = [set(names.str.upper()) for names in (cells, genes)]
    signs = {
        "var_names look like cell barcodes": share(genes, BARCODE) > 0.5,
        "obs_names are Ensembl identifiers of genes": share(cells, ENSEMBL) > 0.5,
        "obs_names are gene symbols": len(known[0] & set(UBIQUITOUS)) >= 3 and not known[1] & set(UBIQUITOUS),
    }
    return next((sign for sign, found in signs.items() if found), None)


def is_transposed(cells: pd.Index, genes: pd.Index) -> bool:
    """Whether the names (two indexes of str) tell that it is genes × cells."""
    return _signs_of_turning(cells, genes) is not None


def orientation(cells: pd.Index, genes: pd.Index, where):
    """Refuse a matrix of genes × cells, as its names (two indexes of str) tell."""
    if sign := _signs_of_turning(cells, genes):
        raise DataError(
            f"{where} looks transposed, genes × cells: {sign} (first: obs {cells[0]!r}, var {genes[0]!r}).",
            "Save adata.T instead, which is cells × genes, with the labels in its obs.",
            where,
        )


def gene_names(var: pd.DataFrame, where):
    """Refuse gene names (the index of ``var``) that occur twice or are no symbols."""
    names = var.index.astype(str)
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise DataError(
            f"{len(twice)} gene names of {where} occur more than once ({', '.join(twice[:5])}…).",
            "Sum their columns or keep one of each (adata[:, ~adata.var_names.duplicated()]), then save the file again.",
            where,
        )
    if not_symbols(names)[1] == "numbers":  # identifiers serve as they are
        raise DataError(
            f"The gene names of {where} are numbers, not symbols (first: {names[0]!r}), and var has no column of symbols "
            f"(it has: {', '.join(map(str, var.columns)) or 'none'}).",
            f"Put gene symbols such as CD3E in var_names, or in a column {SYMBOL_COLUMNS[0]!r}.",
            where,
        )


def not_symbols(names) -> tuple[np.ndarray, str | None]:
    """Which names are Ensembl identifiers, and, where more than half of them are none, what they are instead."""
    ensembl = np.array([bool(ENSEMBL.match(name)) for name in names], bool)
    numbers = np.array([name.strip().replace(".", "", 1).isdigit() or not name.strip() for name in names], bool)
    kind = "Ensembl identifiers" if ensembl.mean() > 0.5 else "numbers" if numbers.mean() > 0.5 else None
    others = (
        name for name, pattern in IDENTIFIERS.items() if np.mean([bool(pattern.match(str(one))) for one in names[:2000]]) > 0.5
    )
    return ensembl, kind or next(others, None) if len(names) else None


def like_mouse(names) -> bool:
    """Whether most names are written as Cd3e is: a capital, then small letters."""
    return bool(np.mean([name[:1].isupper() and name[1:].lower() == name[1:] != name[1:].upper() for name in names]) > 0.5)


def vocabulary(names: pd.Index, genes, cells, where):
    """Refuse names (index of str) that miss the vocabulary for a reason that has a remedy.

    Those are: genes in the place of cells (``cells``: their names), another case, mouse genes. Otherwise a poor match is
    reported with the alignment.
    """
    wanted, upper = set(genes), {gene.upper() for gene in genes}
    if not wanted:
        raise DataError(f"The gene vocabulary for {where} has no gene: its file is empty. Give one gene symbol a line.")
    possible = max(1, min(len(names), len(wanted)))
    matched = len(wanted.intersection(names)) / possible
    if matched >= 0.1:
        return
    if len(wanted.intersection(cells)) >= 0.3 * min(len(cells), len(wanted)):
        raise DataError(
            f"{where} looks transposed, genes × cells: its obs_names are genes of the vocabulary (first: {cells[0]!r}). "
            "Save adata.T instead, which is cells × genes."
        )
    anyhow = len(upper.intersection(names.str.upper())) / possible
    if anyhow < 0.3:
        return
    start = f"{matched:.0%} of the gene names of {where} are in the vocabulary, {anyhow:.0%} if case is ignored"
    if like_mouse(names):
        raise DataError(
            f"{start}: they are written as mouse genes are (first: {names[0]!r}). Map them to human orthologs (Ensembl "
            "BioMart), or use the file's own genes (vocabulary: null); if the cells are human, only the case has changed: "
            "adata.var_names = adata.var_names.str.upper()."
        )
    raise DataError(
        f"{start}: the case of the letters was changed (first: {names[0]!r}). Give symbols as HGNC writes them: "
        "adata.var_names = adata.var_names.str.upper(), save for names such as C1orf112."
    )


def means_none(label: str) -> bool:
    """Whether a label says that a cell has no type, whatever its capitals, blanks, hyphens and underscores.

    That is one of ``MISSING`` or of ``NO_TYPE``, also with *cell(s)*, a number or a bracket behind it, one that holds
    the word *doublet* or *multiplet*, and one without a letter or a digit. *Other* and *mixed* are types as far as anyone can
    tell: :func:`doubtful`.

    >>> [means_none(name) for name in ("Unknown_2", "T/B doublet", "-", "low-quality cells", "Unknown T", "other")]
    [True, True, True, True, False, False]
    """
    plain = _plain(label)
    return (
        label.strip().lower() in MISSING
        or not plain
        or any(NONE.fullmatch(one) for one in (plain, _plain(label.split("(")[0])))
    )


def doubtful(label: str) -> bool:
    """Whether a label that is taken for a type may be none, such as *other*.

    >>> [doubtful(name) for name in ("other", "Unknown T", "B cell")]
    [True, True, False]
    """
    return bool(DOUBTFUL.fullmatch(_plain(label)))


def _plain(label):
    return " ".join(re.sub(r"[\W_]+", " ", label.lower()).split())


def alike(names: Sequence[str]) -> list[list[str]]:
    """Those of some labels that differ in capitals, blanks, hyphens, underscores, a plural's s or a sign's form only."""
    found: dict[str, list[str]] = {}
    for name in names:
        words = re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold())
        found.setdefault("".join(word.removesuffix("s") if len(word) > 3 else word for word in words), []).append(name)
    return [together for together in found.values() if len(together) > 1]


def columns(obs: pd.DataFrame) -> str:
    """The names of a table's columns, for messages, without the one that the reader adds."""
    return ", ".join(str(name) for name in obs.columns if name != "library_size") or "none"


def readable(obs: pd.DataFrame, label: str | None, unreadable: dict[str, str], where):
    """Refuse a file whose label column (``label``, or one that is taken without being named) is there but cannot be read."""
    for name in LABEL_COLUMNS if label is None else (label,):
        if name not in obs and (why := unreadable.get(f"obs[{name!r}]")):
            raise DataError(f"The labels obs[{name!r}] of {where} cannot be taken: it {why}.", "Write them anew.", where)


def labels(obs: pd.DataFrame, label: str, where, var_columns=()) -> tuple[pd.Series, dict]:
    """The cell types of a column of ``obs``.

    Returns
    -------
    Series
        Categorical of text, categories sorted; missing where a label is missing or :func:`means_none`.
    dict
        For the card, where there is something to say: ``no_label``, how many cells have each label that means none, *(missing)*
        being nothing or a blank; ``joined``, labels that were taken as one, since only blanks around them differ.

    Raises
    ------
    DataError
        There is no such column, no cell has a label, or it holds a measurement or an identifier.
    """
    if label not in obs:
        raise candidates.missing(obs, label, where, var_columns)
    column = obs[label]
    text = column.astype(str).str.strip()
    spelt = column.astype(str).groupby(text.to_numpy()).unique()
    blank = (column.isna() | (text == "")).to_numpy()
    none = blank | text.map({name: means_none(name) for name in text.unique()}).to_numpy(bool)
    counts = text.mask(blank, "(missing)")[none].value_counts()
    aside = {str(name): int(count) for name, count in counts.items()}
    if none.all():
        said = ", ".join(f"{name} ({count:,})" for name, count in aside.items())
        raise DataError(f"No cell of {where} has a label in {label!r} that names a type: {said}. Name another column.")
    kind = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    numeric = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    different, fractions, has = text[~none].nunique(), False, int((~none).sum())
    if numeric and column[~none].astype(float).max() < 2**53:
        values = column[~none].astype(float)
        fractions = bool((values != values.round()).any())
        if not fractions:  # clusters 0.0, 1.0 … are 0, 1 …
            text[~none] = values.astype(np.int64).astype(str).to_numpy()
    if different > max(has / 2, 10) or (numeric and different > (50 if fractions else 200)):
        others = [name for name in candidates.could_be_labels(obs) if name != label]
        raise DataError(
            f"{label!r} of {where} has {different:,} different values for {has:,} cells "
            f"({', '.join(text[~none].unique()[:3])} …): {'a measurement' if numeric else 'an identifier'}, not a cell type. "
            f"Is the label column right? Columns that could be: {candidates.told(obs, others) or 'none'}."
            + (f" Name one: -p label {shlex.quote(others[0])}" if others else "")
        )
    said = {"no_label": aside} if aside else {}
    if joined := [sorted(map(str, names)) for name, names in spelt.items() if len(names) > 1 and not means_none(name)]:
        said["joined"] = joined
    return text.mask(none).astype("category"), said
