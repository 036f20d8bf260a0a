"""Which columns are genes, and what they are called, by their values."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue, checks, genes
from lib.errors import DataError
from lib.prepare import selection
from tests.making import CELLS, FILE, GENES, MARKERS, good

IDS = [f"ENSG{i:011d}" for i in range(GENES)]


def renamed(names):
    a = good()
    return anndata.AnnData(a.X, obs=a.obs, var=pd.DataFrame(index=names))


def test_identifiers_alone_serve_as_they_are(tmp_path):
    """Without a vocabulary nobody needs symbols: the file is taken, and the report says what its genes are."""
    renamed([f"{one}.3" for one in IDS]).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert (adata.X != good().X).nnz == 0 and adata.var_names[2] == "ENSG00000000002.3"
    assert "Ensembl identifiers, for which the file has no symbols" in adata.uns["dataset"]["report"]["gene names"]


def asked(path, vocabulary):
    (path.parent / "genes.txt").write_text("\n".join(vocabulary))
    data = {"dataset": str(path), "label": None, "vocabulary": path.parent / "genes.txt", "min_genes": 1, "library_size": None}
    return selection.prepared(data)


def test_identifiers_are_mapped_where_a_vocabulary_is_asked_for(place, tmp_path):
    """By HGNC's table; two identifiers of one symbol are summed; without the table it is said how to get symbols."""
    renamed([f"{one}.3" for one in IDS]).write_h5ad(tmp_path / FILE)
    with pytest.raises(DataError, match="Ensembl identifiers .*HGNC's table.*cannot be had.*gene_symbols"):
        asked(tmp_path / FILE, MARKERS)
    names = [*MARKERS[:-1], MARKERS[0]]
    table = pd.DataFrame({"hgnc_id": "HGNC:1", "symbol": names, "ensembl_gene_id": IDS})
    table.to_csv(place[0] / place[1]["hgnc"]["file"], sep="\t", index=False)
    adata = asked(tmp_path / FILE, MARKERS)
    assert adata.uns["alignment"]["matched"] == GENES - 1
    assert "30 Ensembl identifiers mapped to symbols by HGNC" in adata.uns["dataset"]["report"]["gene names"]
    x = good().X.toarray().astype(np.float64)
    x[:, 0] += x[:, -1]
    wanted = np.log2(1 + 1e4 * x[:, 0] / x[:, : GENES - 1].sum(1))
    assert np.allclose(adata.X[:, 0].toarray().ravel(), wanted, atol=1e-4)


def test_dots_are_matched_with_hyphens_of_a_vocabulary(tmp_path):
    """One by one, where R's dots are not plain from the names alone, and none that matches as it is."""
    names = [*MARKERS[:-3], "ERV3.1", "NKX2.1", "AC000123.1"]
    renamed([*names[:-1], "A-B"]).write_h5ad(tmp_path / FILE)
    adata = asked(tmp_path / FILE, [*MARKERS[:-3], "ERV3-1", "NKX2-1", "AC000123.1"])
    assert adata.uns["alignment"]["missing"] == ["AC000123.1"]
    assert "2 match with - for . (ERV3.1)" in adata.uns["dataset"]["report"]["gene names"]


def test_dots_of_clones_stay(tmp_path):
    """R writes RP11-34P13.7 as RP11.34P13.7: the last dot is the clone's own."""
    names = [*MARKERS[:-5], "HLA.DRA", "RP11.34P13.7", "AC000123.1", "HLA.DQB1.AS1", "MT.ND3"]
    renamed(names).write_h5ad(tmp_path / FILE)
    wanted = ["HLA-DRA", "RP11-34P13.7", "AC000123.1", "HLA-DQB1-AS1", "MT-ND3"]
    assert list(catalogue.load(tmp_path / FILE).var_names[-5:]) == wanted


@pytest.mark.parametrize("human", ["GRCh38_", "hg19_", "GRCh38______"])
def test_of_a_mixture_of_species_the_human_genes_are_taken(tmp_path, human):
    names = [human + name for name in MARKERS]
    x = sp.hstack([good().X, good().X[:, :9]], format="csr")
    var = pd.DataFrame(index=[*names, *(f"mm10_{name.capitalize()}" for name in MARKERS[:9])])
    anndata.AnnData(x, obs=good().obs, var=var).write_h5ad(tmp_path / FILE)
    adata = catalogue.load(tmp_path / FILE)
    assert list(adata.var_names) == MARKERS and (adata.X != good().X).nnz == 0
    assert "9 mouse genes beside human ones" in adata.uns["dataset"]["report"]["genes measured"]


def test_no_gene_is_taken_for_something_else(raw, shared):
    """scBERT's vocabulary and all genes of real files: all are genes, and none of their names is called no symbol."""
    names = {*(shared / "gene_order.txt").read_text().split(), *raw.var_names}
    for path in shared.glob("*.h5ad"):
        names |= set(anndata.read_h5ad(path, backed="r").var_names)
    names = sorted(name for name in names if not checks.ENSEMBL.match(name))
    is_gene, aside = genes.of_kinds(pd.DataFrame(index=names))
    assert is_gene.all() and aside == {}
    assert [name for name in names if genes.NO_SYMBOL.match(name) or genes.GENOME.match(name)] == []


def test_columns_that_hold_no_symbols_are_not_taken(tmp_path):
    """Chromosomes, kinds of genes, proteins, transcripts, descriptions: the identifiers stay."""
    a = renamed(IDS)
    a.var["chromosome"], a.var["gene_type"] = "chr1", "protein_coding"
    a.var["name"] = [f"NM_{i:06d}.2" for i in range(GENES)]
    a.var["protein"] = [f"P{i:05d}" for i in range(10000, 10000 + GENES)]
    a.var["description"] = [f"zinc finger protein {i} [source: HGNC]" for i in range(GENES)]
    a.write_h5ad(tmp_path / FILE)
    assert list(catalogue.load(tmp_path / FILE).var_names) == IDS
    assert len(catalogue.load(tmp_path / FILE)) == CELLS
