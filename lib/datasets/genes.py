"""Which columns of a matrix are genes, and their symbols: told from the values, wherever a file keeps them."""

from __future__ import annotations

import re

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.datasets import checks, downloads
from lib.datasets.scale import BASE, LINEAR
from lib.errors import DataError

# What is measured beside genes, by the words of a column such as 10x Genomics' feature_types, and by the names themselves.
TYPE_COLUMNS = "featuretypes featuretype featurebiotype modality type assay featureclass".split()  # small letters alone
EXPRESSION = r"^(gene[ _-]?expression|genes?|gex|rna|mrna|sc-?rna|expression|transcripts?|transcriptome)$"
KINDS = {
    "antibodies": (
        r"antibod|\badts?\b|^proteins?$|^prot$|protein[ _-]?(?:expression|panel|capture)|surface|\bcite",
        r".*[_.\s-]TotalSeq[_.-]?[A-D]?\b.*|(.*[\W_])?anti[-_ ](human|mouse|rat)([\W_].*)?$"
        r"|^(Hu|HuMs|HuMsRt|MsRt|Isotype)[._-]\S+|^(ADT|adt|CITE|cite|AB|PROT|prot)[_-]\S+|.*[_.-](ADT|PROT|Prot|prot|Ab|ab|TS[ABC])$",
    ),
    "hashtags": (r"hashtag|multiplex|\bhto\b|\bcmo\b", r"^(HTO|CMO|Hashtag|hashtag)[_. -]?\d.*|.*[_-](HTO|hashtag)[_-]?\d+$"),
    "peaks": (
        r"peak|atac|chromatin|interval|accessib",
        r"^((GRC[hm]\d+|hg\d+|mm\d+)_+)?(chr\w+|\d{1,2}|[XY]|(GL|KI)\d+\S*)[:_-][\d,]+[:_-][\d,]+([:_|(\s].*)?$"
        r"|^chr\w+\.\d+\.\d+$|^chr\w+[:_](bin|peak|tile)?_?\d+$|^(?i:peak|interval|region|window|tile|bin)[_.-]\d+$",
    ),
    "guides": (r"crispr|guide", r"^sg(RNA)?[_-]\S+"),
    "spike-ins": (r"spike|\bercc\b", r"^(gSpikein_)?ERCC[-._]\d{5}$|^SIRV\d+$"),
    "control probes": (
        r"control|codeword|blank|deprecated",
        r"^(NegPrb|NegControl|Negative|BLANK|Blank|UnassignedCodeword|DeprecatedCodeword|antisense|Intergenic_Region)\w*[_-]\S*"
        r"|^(NegPrb|Negative|SystemControl|FalseCode|Custom)\d+$",
    ),
    "custom features": (r"^custom$", r"(?!)"),
    "reads of no gene": (  # as HTSeq and STAR count them
        r"(?!)",
        r"^__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)$|^N_(unmapped|multimapping|noFeature|ambiguous)$",
    ),
}
GENOME = re.compile(
    r"^(GRCh3[78]|hg19|hg38|GRCm3[89]|mm10|mm39|mm9|[Hh]uman|[Mm]ouse|[Hh](?:omo_|\.)sapiens|[Mm](?:us_|\.)musculus)(_+|-)(?=\S)"
)
MOUSE = re.compile(r"GRCm|mm|[Mm]ouse|[Mm](us|\.)")
IDENTIFIER = r"(ENS[A-Z]*G\d{6,}(?:\.\d+)?)"
BIOTYPE = (
    r"(?:[_|:;,](?:protein_coding|lncRNA|lincRNA|antisense|\w*pseudogene|(?:mi|sn|sno|r|misc_)RNA|(?:IG|TR)_\w_gene|TEC))?"
)
ID_AND_SYMBOL = re.compile(rf"^(?:{IDENTIFIER}[_|:;,/\s-]+(\S+?){BIOTYPE}|(\S+?)[_|:;,/\s(\[-]+{IDENTIFIER}[)\]]?)$")
ENTREZ = re.compile(r"^(?:(\d+)[_|](?=\D)(\S+)|(\S*[A-Za-z]\S*?)\|(\d+))$")  # 7157_TP53, TP53|7157
QUOTED = re.compile(r"""^b?(["'])(.+)\1$""")
NO_SYMBOL = re.compile(r"(ENS[A-Z]*[GTP]\d{6,}|[NX][MRPC]_\d+|HGNC:\d+|CCDS\d+|uc\d{3}\w+\.\d|chr\S+|\S+_at)(\.\d+)?$")
SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9.@/_-]{0,24}(\(\S+\))?$")
R_DOTS = re.compile(r"^(HLA|MT|NKX\d)\.[A-Z0-9]")
CLONE = re.compile(r"^(?:([A-Z]{2}\d{6})|(\w+)\.(\S+))\.(\d{1,2})$")  # AC000123.1, RP11.34P13.7: the last dot is their own
UNIPROT = re.compile(r"[OPQ]\d[A-Z\d]{3}\d$|[A-NR-Z]\d([A-Z][A-Z\d]{2}\d){1,2}$")


def of_kinds(var: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """Which features are genes (bool array), and how many there are of each other kind (dict)."""
    names = pd.Series(var.index.astype(str))
    kind = np.full(len(names), "", dtype=object)
    for column in var.columns:
        if re.sub("[^a-z]", "", str(column).lower()) not in TYPE_COLUMNS:
            continue
        stated = var[column].astype(str).str.strip().str.lower().reset_index(drop=True)
        if stated.str.match(r"proteins?$|prot$").any() and not stated.str.match(EXPRESSION).any():
            continue  # of proteins beside other kinds of genes, not beside expression
        for name, (words, _) in KINDS.items():
            kind[stated.str.contains(words, regex=True).to_numpy() & (kind == "")] = name
        if stated.str.match(r"(?:gene[ _-]?)?expression$|gex$").any():  # then whatever else is stated is measured otherwise
            other = ~stated.str.match(EXPRESSION) & ~stated.isin(checks.MISSING)
            kind[other.to_numpy() & (kind == "")] = "features of other kinds"
    for name, (_, pattern) in KINDS.items():
        kind[names.str.match(pattern).to_numpy(bool) & (kind == "")] = name
    prefixes = names.str.extract(GENOME)[0]
    mouse = prefixes.fillna("").str.match(MOUSE).to_numpy(bool)
    if mouse.any() and (prefixes.notna() & ~mouse).any():  # a mixture of two species
        kind[mouse & (kind == "")] = "mouse genes beside human ones"
    counted = pd.Series(kind[kind != ""], dtype=object).value_counts()
    return kind == "", {str(name): int(count) for name, count in counted.items()}


def refuse_none(aside: dict[str, int], names, where):
    """Refuse a file in which nothing is a gene."""
    most = max(aside, key=aside.get)
    what = {"peaks": "genomic intervals (peaks of accessible chromatin)"}.get(most, most)
    raise DataError(
        f"{where} holds no genes: its {sum(aside.values()):,} features are {what} (first: {names[0]!r}).",
        "Give the matrix of gene expression"
        + ("; gene activities made of peaks are no counts of RNA." if most == "peaks" else "."),
        where,
    )


def symbols(x: sp.csr_matrix, var: pd.DataFrame, scale: str) -> tuple[sp.csr_matrix, pd.DataFrame, str | None]:
    """Gene symbols in place of identifiers, wherever the file has them.

    Parameters
    ----------
    x : CSR matrix, cells × genes
    var : DataFrame
    scale : str
        Of ``x``: columns that come to bear one symbol are summed, as counts.

    Returns
    -------
    (CSR matrix, DataFrame, str or None)
        The matrix and its genes, and in words what was done or found.
    """
    notes = []
    names, changed = _plain(var.index.astype(str), notes)
    ensembl, kind = checks.not_symbols(names)
    columns = _symbol_columns(var) if kind else []
    if columns:
        found = pd.Series("", index=range(len(names)))
        for column in columns:  # joined files have a column each: where one is empty, the next may not be
            values = _cleaned(var[column])
            found = found.where(found != "", values)
        unnamed = (found == "").to_numpy()
        plain = names.str.replace(r"(?<=\d)\.\d+$", "", regex=True) if kind.startswith("Ensembl") else names
        names, changed = pd.Index(np.where(unnamed, plain, found.to_numpy())), True
        where = " and ".join(f"var[{str(column)!r}]" for column in columns[:3])
        notes.append(f"{int((~unnamed).sum()):,} {kind} mapped to symbols by {where}")
        if unnamed.any():
            notes.append(f"{int(unnamed.sum()):,} without a symbol kept")
    elif kind and kind != "numbers":
        notes.append(f"{kind}, for which the file has no symbols: used as they are")
    elif ensembl.any() and kind is None:
        notes.append(f"symbols; {int(ensembl.sum()):,} Ensembl identifiers among them kept")
    if checks.like_mouse(names):
        notes.append("most are written as mouse genes are (Cd3e)")
    dates = names.str.match(checks.DATE)
    if dates.any():
        notes.append(
            f"{int(dates.sum()):,} gene names are dates ({', '.join(names[dates][:4])}), as spreadsheets make of MARCH1, "
            "SEPT2 or DEC1: which gene each was is lost, so they match none"
        )
        repeats = pd.Series(names).groupby(names).cumcount()  # MARCH1 and MARC1 are both 1-Mar
        names = names.where(~dates | (repeats == 0), names + " (" + repeats.add(1).astype(str) + ")")
    if changed and not names.is_unique:
        notes.append(f"{len(names) - names.nunique():,} columns summed into those of the same symbol")
        x, var, names = summed(x, var, names, scale)
    return x, var.set_axis(names.rename(None)), "; ".join(notes) or None


def _plain(names, notes):
    """Names without blanks, a genome's prefix, an identifier beside the symbol, or R's dots; and whether any changed."""
    stripped = names.str.strip()
    changed = not stripped.equals(names)
    names = stripped
    quoted = np.asarray(names.str.match(QUOTED), bool)
    if quoted.mean() > 0.5:
        notes.append(f"quotes were taken off {int(quoted.sum()):,} names such as {names[int(np.argmax(quoted))]!r}")
        names, changed = names.str.replace(QUOTED, r"\2", regex=True), True
    both = names.str.extract(ID_AND_SYMBOL)
    if both.notna().any(axis=1).mean() <= 0.5 and names.str.match(ENTREZ).mean() > 0.9:
        both = names.str.extract(ENTREZ)
    symbol = both[1].where(both[1].notna(), both[2])
    if symbol.notna().mean() > 0.5 and symbol.nunique() > 0.5 * len(symbol):
        useless = symbol.isna() | symbol.str.lower().isin(checks.MISSING)
        notes.append(f"{int((~useless).sum()):,} symbols taken out of names such as {names[int(np.argmax(~useless))]!r}")
        names, changed = pd.Index(np.where(useless, both[0].fillna(both[3]).fillna(pd.Series(names)), symbol)), True
    genome = np.asarray(names.str.match(GENOME), bool)
    if genome.mean() > 0.5:
        notes.append(f"the genome's name was taken off {int(genome.sum()):,} names such as {names[int(np.argmax(genome))]!r}")
        names, changed = names.str.replace(GENOME, "", regex=True), True
    if names.str.match(R_DOTS).any() and not names.str.contains("-", regex=False).any():
        clones = names.str.replace(CLONE, lambda m: f"{m[1] or f'{m[2]}-{m[3]}'}.{m[4]}", regex=True)
        turned = clones.where(names.str.match(CLONE), names.str.replace(".", "-", regex=False))
        different = turned != names
        first = next(name for name in names if R_DOTS.match(name))
        notes.append(f"{int(different.sum()):,} names match with - for . ({first}), which R writes so")
        names, changed = turned, True
    return names, changed


def _cleaned(values):
    """A column of symbols as text, in the order of its rows; empty where it has none."""
    text = pd.Series(values.astype(object).where(values.notna(), "").astype(str).str.strip().to_numpy())
    return text.where(~(text.str.lower().isin(checks.MISSING) | text.str.match(NO_SYMBOL)), "")


def _symbol_columns(var):
    """The columns of ``var`` that hold symbols, by their values; those of a known name, and with more symbols, first."""
    known = {name: place for place, name in enumerate(checks.SYMBOL_COLUMNS)}
    found = []
    for column in var.columns:
        values = _cleaned(var[column])
        there = values[values != ""]
        name = re.sub(r"[-_.]?\d+$", "", str(column).lower())
        if len(there) < 0.3 * len(values) or there.nunique() <= 0.5 * len(there) or pd.api.types.is_numeric_dtype(var[column]):
            continue
        like = there.str.match(SYMBOL).mean()
        if there.str.match(UNIPROT).mean() > 0.5:
            continue
        varied = there.str.contains(r"\d", regex=True).mean()
        if like > 0.9 and (name in known or varied > 0.2) and checks.not_symbols(there)[1] is None:
            found.append((known.get(name, len(known)), -len(there), str(column), column))
    found.sort(key=lambda one: one[:3])
    return [one[3] for one in found if one[0] == found[0][0] or one[0] < len(known)]


def summed(x, var, names, scale):
    """Sum, on the scale that is linear in counts, the columns that bear one name."""
    codes, unique = pd.factorize(names)
    route = sp.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))
    linear = x.astype(np.float64)
    linear.data = LINEAR[scale](linear.data)
    added = sp.csr_matrix(linear @ route)
    if scale != "counts":
        added.data = np.log1p(added.data) / np.log(BASE[scale])
    added.sort_indices()
    return added.astype(np.float32), var[~names.duplicated()], pd.Index(unique)


def hgnc() -> dict[str, str]:
    """Symbols by Ensembl identifier: HGNC's table, downloaded and verified (dict)."""
    path = downloads.fetch("hgnc")
    try:
        table = pd.read_csv(path, sep="\t", usecols=["symbol", "ensembl_gene_id"], dtype=str).dropna()
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} is not HGNC's table of genes ({error}).", "Delete it: it is then downloaded again.", path
        ) from error
    table = table.drop_duplicates("ensembl_gene_id")
    return dict(zip(table["ensembl_gene_id"], table["symbol"]))


def to_vocabulary(adata, vocabulary, where):
    """Cells whose genes are named as a vocabulary names them, where that can be done; see :func:`checks.vocabulary` else.

    Parameters
    ----------
    adata : AnnData
        As :func:`lib.datasets.load` gives it; it is not changed.
    vocabulary : sequence of str
    where : str or path
        For messages.

    Returns
    -------
    AnnData
        ``uns["dataset"]["gene_names"]`` says what was done. Names that match already stay.

    Raises
    ------
    DataError
        What :func:`checks.vocabulary` refuses; Ensembl identifiers, where HGNC's table cannot be had.
    """
    names, wanted, notes = adata.var_names.astype(str), set(vocabulary), []
    outside = ~names.isin(wanted)
    ensembl = checks.not_symbols(names)[0] & outside
    new = names
    if ensembl.mean() > 0.5:
        try:
            table = hgnc()
        except DataError as error:
            raise DataError(
                f"The genes of {where} are Ensembl identifiers (first: {names[0]!r}), the vocabulary's are symbols, and HGNC's "
                f"table of both cannot be had: {error.what}",
                f"{error.remedy} Or put symbols into a column 'gene_symbols' of var, or use the file's own genes (vocabulary: "
                "null).",
                where,
            ) from error
        plain = names.str.replace(r"\.\d+$", "", regex=True)
        new = pd.Index([table.get(one, one) for one in plain])
        notes.append(f"{int((new != plain).sum()):,} Ensembl identifiers mapped to symbols by HGNC's table of 2026-07-07")
    dashed = new.str.replace(".", "-", regex=False)
    dots = ~new.isin(wanted) & dashed.isin(wanted) & ~dashed.isin(new)
    if dots.any():
        new = new.where(~dots, dashed)
        notes.append(f"{int(dots.sum()):,} match with - for . ({names[dots][0]})")
    checks.vocabulary(new, vocabulary, adata.obs_names.astype(str), where)
    if not notes:
        return adata
    scale = adata.uns.get("dataset", {}).get("values", "counts")
    x, var, unique = summed(sp.csr_matrix(adata.X), adata.var, new, scale) if not new.is_unique else (adata.X, adata.var, new)
    named = anndata.AnnData(x, obs=adata.obs, var=var.set_axis(unique))
    card = dict(adata.uns["dataset"])
    card["gene_names"] = "; ".join([*filter(None, [card.get("gene_names")]), *notes])
    if "report" in card:
        card["report"] = card["report"] | {"gene names": card["gene_names"]}
    named.uns["dataset"] = card
    return named
