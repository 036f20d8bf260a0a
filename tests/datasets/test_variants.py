"""Further files of each kind of test_reading: other words, formats and writers; the counts come out, or the cause is told."""

import io
import tarfile

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from lib.datasets import catalogue, checks
from lib.errors import DataError
from lib.prepare import screen

FILE = "cells.h5ad"


@pytest.fixture(scope="module")
def real(raw):
    """80 real cells as counts, of two types."""
    obs = raw.obs[raw.obs["cell_type"].isin(["CD19+ B", "Dendritic"])].groupby("cell_type", observed=True).head(40)
    obs = obs[["cell_type"]].astype(str)
    return anndata.AnnData(raw[obs.index].X.copy(), obs=obs, var=pd.DataFrame(index=raw.var_names))


def of(real, x, **more):
    return anndata.AnnData(x, obs=real.obs.copy(), var=real.var.copy(), **more)


def per(real, total):
    """Counts per so many, of a cell's genes."""
    x = real.X.toarray().astype(np.float64)
    return x * total / x.sum(1, keepdims=True)


ASIDE = {
    "antibodies": ["CD3_TSA", "anti-human CD14", "Hu.CD4", "CD8.ADT", "C0034_anti-human_CD3", "CD19_TotalSeqC"],
    "hashtags": ["TotalSeqB-HTO3", "hashtag-5", "CMO301"],
    "peaks": ["chr5.100.200", "peak_17", "Interval_3", "chr1:1,000-1,500", "chr1_bin7", "chr1:100-200|CD3E", "hg38_chr1-1-2"],
    "spike-ins": ["ERCC.00003", "gSpikein_ERCC-00004", "SIRV1"],
    "control probes": ["NegControlCodeword_0500", "NegPrb3", "SystemControl12", "Intergenic_Region_1", "Blank-4"],
    "reads of no gene": ["__no_feature", "N_multimapping"],
}


@pytest.mark.parametrize("kind", ASIDE)
def test_features_that_are_no_genes_by_their_names(real, tmp_path, kind):
    x = sp.hstack([real.X, np.full((real.n_obs, len(ASIDE[kind])), 9, np.float32)], format="csr")
    var = pd.DataFrame(index=[*real.var_names, *ASIDE[kind]])
    anndata.AnnData(x, obs=real.obs, var=var).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert adata.uns["dataset"]["set_aside"] == {kind: len(ASIDE[kind])} and (adata.X != real.X).nnz == 0


@pytest.mark.parametrize(
    "column, words, aside",
    [
        ("Feature.Type", ("Peaks", "Gene Expression"), 9),
        ("feature_types", ("Surface Protein", "Gene Expression"), 9),
        ("feature_types", ("protein_expression", "gene_expression"), 9),
        ("modality", ("Antigen Capture", "Gene Expression"), 9),
        ("type", ("protein", "lncRNA"), 0),
        ("feature_type", ("protein_coding", "lncRNA"), 0),
    ],
)
def test_a_column_of_kinds(real, tmp_path, column, words, aside):
    """Whatever its capitals and signs; proteins beside RNA of other kinds are genes."""
    var = pd.DataFrame({column: [words[0]] * 9 + [words[1]] * (real.n_vars - 9)}, index=real.var_names)
    anndata.AnnData(real.X, obs=real.obs, var=var).write_h5ad(tmp_path / FILE)
    assert catalogue.load(tmp_path / FILE).n_vars == real.n_vars - aside


NAMES = {
    "identifier in brackets": lambda i, name: f"{name} (ENSG{i:011d})",
    "identifier behind": lambda i, name: f"{name}[ENSG{i:011d}.2]",
    "a tab": lambda i, name: f"ENSG{i:011d}\t{name}",
    "a biotype": lambda i, name: f"ENSG{i:011d}_{name}_protein_coding",
    "Entrez": lambda i, name: f"{name}|{i + 1}",
    "Entrez before": lambda i, name: f"{i + 1}_{name}",
    "a species": lambda i, name: f"homo_sapiens_{name}",
    "a species in capitals": lambda i, name: f"Human_{name}",
    "quotes": lambda i, name: f'"{name}"',
    "bytes": lambda i, name: f"b'{name}'",
}


@pytest.mark.parametrize("way", NAMES)
def test_symbols_inside_names(real, tmp_path, way):
    var = pd.DataFrame(index=[NAMES[way](i, name) for i, name in enumerate(real.var_names)])
    anndata.AnnData(real.X, obs=real.obs, var=var).write_h5ad(tmp_path / FILE)
    assert list(catalogue.load(tmp_path / FILE).var_names) == list(real.var_names)


@pytest.mark.parametrize("name", ["ENST{:011d}", "NM_{:06d}", "HGNC:{}", "{}_at", "ILMN_{}"])
def test_other_identifiers(real, tmp_path, name):
    """With symbols beside them these are taken, without they serve as they are, and that is said."""
    index = [name.format(i) for i in range(real.n_vars)]
    for columns in ({}, {"any": real.var_names.to_numpy()}):
        anndata.AnnData(real.X, obs=real.obs, var=pd.DataFrame(columns, index=index)).write_h5ad(tmp_path / FILE)
        adata = catalogue.load(tmp_path / FILE)
        assert list(adata.var_names) == (list(real.var_names) if columns else index)
        assert ("mapped" if columns else "used as they are") in adata.uns["dataset"]["report"]["gene names"]


@pytest.mark.parametrize("scale", [np.log1p, lambda x: np.log2(1 + x), lambda x: np.log10(1 + x)])
def test_logarithms_of_counts_that_nobody_normalised(real, tmp_path, scale):
    of(real, scale(real.X.toarray().astype(np.float64)).astype(np.float32)).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert (adata.X != real.X).nnz == 0 and adata.uns["dataset"]["values"] == "counts"
    assert "divided by no total: turned back into counts" in adata.uns["dataset"]["matrix"]


@pytest.mark.parametrize("change, words", [(np.sqrt, "square roots of counts"), (lambda x: x + 1, "something was added")])
def test_changed_counts_are_refused(real, tmp_path, change, words):
    of(real, change(real.X.toarray())).write_h5ad(tmp_path / FILE)
    with pytest.raises(DataError, match=words):
        catalogue.load(tmp_path / FILE)


def test_a_few_fractions_are_not_rounded_away(real, tmp_path):
    x = real.X.copy()
    x.data[::500] += 0.4
    of(real, x).write_h5ad(tmp_path / FILE)
    assert np.allclose(catalogue.load(tmp_path / FILE).X.data, x.data)


def test_a_part_of_the_counts_is_not_taken_for_them(real, tmp_path):
    """Spliced molecules beside logarithms of all; alone they are taken."""
    half = (real.X.toarray() // 2).astype(int)
    for x, taken in ((np.log1p(per(real, 1e4)).astype(np.float32), "X"), (real.X.toarray() - 0.5, "layers['spliced']")):
        of(real, x, layers={"spliced": half}).write_h5ad(tmp_path / FILE)
        assert catalogue.load(tmp_path / FILE).uns["dataset"]["matrix"].startswith(taken)


@pytest.mark.parametrize("base", [np.e, 2, 10])
def test_logarithms_of_one_decimal(real, tmp_path, base):
    """Told by the cells' sums, as far as rounding lets them be equal; of a selection of genes, refused for the rounding."""
    x = np.round(np.log1p(per(real, 1e4)) / np.log(base), 1).astype(np.float32)
    of(real, x).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert adata.uns["dataset"]["values"] == {np.e: "ln", 2: "log2", 10: "log10"}[base]
    assert "every cell's sum is" in adata.uns["dataset"]["library_size_from"]
    sums = np.power(base, adata.X.toarray().astype(np.float64)).sum(1) - adata.n_vars
    assert np.allclose(adata.obs["library_size"], sums, rtol=1e-5)  # each cell is divided by its own sum
    of(real, x)[:, ::3].copy().write_h5ad(tmp_path / FILE)
    with pytest.raises(DataError, match="rounded to one decimal"):
        catalogue.load(tmp_path / FILE)


def test_sums_of_many_cells_are_asked_about(shared, tmp_path):
    """Pseudobulk: rows that show more genes than a cell can. Cells of the same file are not asked about."""
    cells = anndata.read_h5ad(shared / "zheng_sorted.h5ad")
    kinds = cells.obs["cell_type"].astype(str)
    number = np.arange(cells.n_obs) % 6
    code, names = pd.factorize(kinds + "/" + number.astype(str))
    sums = sp.csr_matrix((np.ones(len(code)), (code, np.arange(len(code))))) @ cells.X
    obs = pd.DataFrame({"cell_type": [name.split("/")[0] for name in names]}, index=names)
    shown = np.asarray((sums > 0).mean(0)).ravel() > 0.3
    anndata.AnnData(sp.csr_matrix(sums[:, shown], dtype=np.float32), obs=obs, var=cells.var[[]][shown]).write_h5ad(
        tmp_path / FILE
    )
    assert ["pseudobulk" in said for said in catalogue.load(tmp_path / FILE).uns["dataset"]["warnings"]] == [True]
    cells[::20].copy().write_h5ad(tmp_path / FILE)
    assert catalogue.load(tmp_path / FILE).uns["dataset"]["warnings"] == []


def test_cells_of_two_totals(real, tmp_path):
    """Joined files, normalised to 10⁴ and 10⁶: each cell is divided by its own sum, not all by one."""
    x = np.where((np.arange(real.n_obs) % 2 == 0)[:, None], per(real, 1e4), per(real, 1e6))
    of(real, np.log1p(x).astype(np.float32)).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert "10,000 or 1,000,000" in adata.uns["dataset"]["library_size_from"] and adata.obs["library_size"].isna().all()


def test_labels_that_stand_elsewhere_or_cannot_be_read(real, tmp_path):
    """In a table of obsm, or as R's factor; a column of another length is named as the reason, and one of records left out."""
    bare = anndata.AnnData(real.X, obs=real.obs[[]], var=real.var, obsm={"labels": real.obs})
    bare.write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert list(adata.obs["cell_type"]) == list(real.obs["cell_type"])
    assert adata.uns["dataset"]["report"]["labels from"] == "'cell_type' of obsm['labels']"
    real.write_h5ad(tmp_path / FILE)
    kinds = pd.Categorical(real.obs["cell_type"])
    with h5py.File(tmp_path / FILE, "r+") as file:
        del file["obs/cell_type"]
        file["obs/cell_type/levels"], file["obs/cell_type/values"] = np.array(kinds.categories, "S"), kinds.codes + 1
        file["obs/records"] = np.zeros(real.n_obs, [("a", "f4"), ("b", "i4")])
    adata = catalogue.load(tmp_path / FILE)
    assert (
        list(adata.obs["cell_type"]) == list(real.obs["cell_type"]) and "obs['records']" in adata.uns["dataset"]["unreadable"]
    )
    with h5py.File(tmp_path / FILE, "r+") as file:
        del file["obs/cell_type"]
        file["obs/cell_type"] = np.zeros(3)
    with pytest.raises(DataError, match=r"labels obs\['cell_type'\] .* 3 entries for 80 rows"):
        catalogue.load(tmp_path / FILE)


TEXT = {
    "R's write.table": lambda frame, path: frame.T.to_csv(path, sep=" "),
    "a comment above": lambda frame, path: path.write_text("# ours\n" + frame.to_csv()),
    "Latin-1": lambda frame, path: frame.assign(town="Köln").to_csv(path, encoding="latin-1"),
    "measures beside genes": lambda frame, path: frame.assign(nCount_RNA=frame.sum(axis=1), **{"percent.mt": 0.7}).to_csv(path),
    "decimal commas": lambda frame, path: frame.astype(float).map(lambda x: f"{x:.1f}".replace(".", ",")).to_csv(path, sep=";"),
    "a column of symbols": lambda frame, path: frame.T.reset_index(names="gene").rename(lambda i: f"ENSG{i:011d}").to_csv(path),
}


@pytest.mark.parametrize("way", TEXT)
def test_tables_of_text(real, tmp_path, way):
    """Labels beside them, in a table without a header."""
    TEXT[way](pd.DataFrame(real.X.toarray().astype(int), index=real.obs_names, columns=real.var_names), tmp_path / "cells.csv")
    real.obs.to_csv(tmp_path / "labels.csv", header=False)
    adata = catalogue.load(tmp_path / "cells.csv", labels=tmp_path / "labels.csv", label="1")
    assert list(adata.var_names) == list(real.var_names) and (adata.X != real.X).nnz == 0
    assert list(adata.obs["cell_type"]) == list(real.obs["cell_type"])


@pytest.mark.parametrize("named", ["not at all", "by their types"])
def test_tables_of_text_whose_cells_have_no_names(real, tmp_path, named):
    """A first column of counts is a gene; one of types is the labels."""
    frame = pd.DataFrame(real.X.toarray().astype(int), columns=real.var_names)
    kinds = real.obs["cell_type"].to_numpy()
    frame.insert(0 if named == "by their types" else frame.shape[1], "cell_type", kinds)
    frame.to_csv(tmp_path / "cells.csv", index=False)
    adata = catalogue.load(tmp_path / "cells.csv")
    assert list(adata.var_names) == list(real.var_names) and (adata.X != real.X).nnz == 0
    assert list(adata.obs["cell_type"]) == list(kinds)


def test_labels_in_the_place_of_the_names(real, tmp_path):
    obs = pd.DataFrame(index=pd.Index(real.obs["cell_type"].to_numpy(), name="cell_type"))
    anndata.AnnData(real.X, obs=obs, var=real.var).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE, "cell_type")
    assert list(adata.obs["cell_type"]) == list(real.obs["cell_type"])
    assert adata.uns["dataset"]["report"]["labels from"] == "'cell_type' of the cells' names"


def test_what_is_not_whole(real, tmp_path):
    """A table cut in a line, a store that lacks a file, parts of a 10x folder that do not belong together."""
    frame = pd.DataFrame(real.X.toarray().astype(int), index=real.obs_names, columns=real.var_names)
    (tmp_path / "a.csv").write_text(frame.to_csv()[:-600])
    real.write_zarr(tmp_path / "a.zarr")
    next(path for path in (tmp_path / "a.zarr" / "X" / "data").rglob("*") if path.is_file() and path.name[0].isdigit()).unlink()
    folder = tmp_path / "outs" / "filtered"
    folder.mkdir(parents=True)
    scipy.io.mmwrite(folder / "matrix.mtx", real.X.T.astype(int))
    (folder / "barcodes.tsv").write_text("\n".join(real.obs_names[:50]))
    (folder / "genes.tsv").write_text("\n".join(real.var_names))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x"), io.BytesIO())
    for name, words in {
        "a.csv": f"is truncated: its last line, {real.obs_names[-1]!r}",
        "a.zarr": "1 of the 1 files of /X/data are missing",
        "outs/filtered": "do not belong together: matrix.mtx is 765 × 80, barcodes.tsv has 50 lines",
        "outs": "there are: filtered",
        "a.tar": "a tar archive. Unpack it",
    }.items():
        with pytest.raises(DataError) as refusal:
            catalogue.load(tmp_path / name)
        assert words in str(refusal.value), refusal.value


def test_words_for_no_type_for_one_type_and_for_donors(real):
    none = "unclear|UNK|ND|TBD|to be determined|unknown cell type|exclude|Ambient RNA|RBC contamination"
    none += "|Unassigned (low confidence)"
    assert [name for name in none.split("|") if not checks.means_none(name)] == []
    assert [name for name in ("other", "Unknown T", "Mixed") if checks.means_none(name) or not checks.doubtful(name)] == []
    assert checks.alike(["B cell", "B cells", "CD4⁺ T", "CD4+ T", "NK"]) == [["B cell", "B cells"], ["CD4⁺ T", "CD4+ T"]]
    columns = "seq_batch 10X_run hash.ID pool suspension_uuid PatientNumber Batches donors cohort Site MULTI_ID assay GSM"
    for name in columns.split():
        obs = real.obs.assign(**{name: list("abcd") * 20})
        assert screen.group_columns(obs) == [name]
        obs.iloc[0, -1] = None
        assert screen.group_columns(obs) == [] and screen.group_columns(obs, missing=True) == [name]
    assert screen.group_columns(real.obs.assign(sample_type=list("ab") * 40, n_donor=list("ab") * 40)) == []
