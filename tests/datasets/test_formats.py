"""The published files' readers, on files in their exact formats, small."""

import gzip
import os
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue, downloads, formats
from lib.errors import DataError
from lib.prepare import preprocess, selection, tokenize
from tests.making import asked_in_blocks, counts, forbid_dense, log2_normalised

GENES = [f"GENE{i}" for i in range(300)]


def write_zheng68k(folder, entries, x=None, **changes):
    x = log2_normalised(counts()) if x is None else x
    labels = pd.Categorical([f"type {i % 11}" for i in range(x.shape[0])])
    obs = pd.DataFrame({"celltype": labels}, index=[f"AAAC{i}-1" for i in range(x.shape[0])])
    anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(folder / "plain.h5ad")
    (folder / "Zheng68K.h5ad.gz").write_bytes(gzip.compress((folder / "plain.h5ad").read_bytes()))
    entries["zheng68k"]["holds"] = {"cells": 60, "genes": 300, "scale": "log2", "most": 13.3, "n_types": 11} | changes
    return x


@pytest.mark.parametrize("dense", [False, True])
def test_zheng68k_is_used_as_it_was_normalised(place, dense):
    x = log2_normalised(counts())
    write_zheng68k(*place, x.toarray() if dense else x)
    adata = catalogue.load("zheng68k")
    assert (x != adata.X).nnz == 0 and adata.obs["cell_type"].nunique() == 11
    prepared = preprocess.prepare(adata, GENES[::-1], min_genes=1)
    assert np.array_equal(prepared.X.toarray(), x.toarray()[:, ::-1])  # bit by bit: no value moves over a bin's edge
    assert prepared.uns["alignment"]["values"] == "log2"


def test_zheng68k_values_on_a_bins_edge_stay_in_their_bin(place):
    """A cell of 10,000 counts has values of exactly log2(1 + 1) = 1; normalising anew could push it to 0.9999999."""
    x = np.where(counts(60, 300).toarray() > 0, 1.0, 0.0).astype(np.float32)
    x[:, 0] = 3.3
    write_zheng68k(*place, sp.csr_matrix(x))
    tokens = tokenize(preprocess.prepare(catalogue.load("zheng68k"), min_genes=1))
    assert set(np.unique(tokens[:, 1:])) == {0, 1}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"cells": 61}, "60 cells, not 61"),
        ({"genes": 299}, "300 genes, not 299"),
        ({"n_types": 10}, "11 cell types, not 10"),
        ({"most": 3.0}, "largest value"),
        ({"scale": "counts", "most": 99}, "not counts"),
    ],
)
def test_zheng68k_that_is_not_what_was_published_is_refused(place, changes, says):
    write_zheng68k(*place, **changes)
    with pytest.raises(DataError, match=f"not the published zheng68k.*{says}"):
        catalogue.load("zheng68k")


def test_zheng68k_counts_in_place_of_logarithms_are_refused(place):
    write_zheng68k(*place, counts())
    with pytest.raises(DataError, match="whole numbers only"):
        catalogue.load("zheng68k")


@pytest.mark.parametrize("length", [100, -5])
def test_a_truncated_gzip_is_refused_and_leaves_nothing(place, length):
    write_zheng68k(*place)
    path = place[0] / "Zheng68K.h5ad.gz"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="cannot be unpacked"):
        catalogue.load("zheng68k")
    assert not (place[0] / "Zheng68K.h5ad").exists()


def test_what_was_unpacked_is_unpacked_again_if_anything_of_it_changed(place):
    """One bit, as long and with the same time; or another file was packed, by a clock that was set back."""
    x = write_zheng68k(*place)
    catalogue.load("zheng68k")
    plain, before = place[0] / "Zheng68K.h5ad", (place[0] / "Zheng68K.h5ad").read_bytes()
    at, times = before.index(x.data[:4].tobytes()), plain.stat()
    plain.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    os.utime(plain, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (x != catalogue.load("zheng68k").X).nnz == 0 and plain.read_bytes() == before
    other = write_zheng68k(*place, log2_normalised(counts(seed=1)))
    os.utime(place[0] / "Zheng68K.h5ad.gz", (1e9, 1e9))
    assert (other != catalogue.load("zheng68k").X).nnz == 0


@pytest.mark.parametrize("length", [0, 3])
def test_a_gzip_of_some_bytes_is_refused(place, length):
    write_zheng68k(*place)
    (place[0] / "Zheng68K.h5ad.gz").write_bytes(bytes(length))
    with pytest.raises(
        DataError, match="Zheng68K.h5ad.gz (cannot be unpacked|is not the file that was published: it is empty)"
    ):
        catalogue.load("zheng68k")


def write_macparland(folder, entries, n=80):
    """GEO's files: quoted names, an empty first header field, genes × cells; types in a table by tabs, in another order."""
    x = log2_normalised(counts(n, 300, seed=1))
    names = [f"P{1 + i % 5}TLH_AAAC{i}_1" for i in range(n)]
    table = pd.DataFrame(x.T.toarray(), index=GENES, columns=names)
    table.to_csv(folder / "GSE115469_Data.csv.gz", quoting=2)
    kinds = [f"Hepatocyte_{1 + i % 6}" for i in range(n - 14)] + [f"Other_{i}" for i in range(14)]
    types = pd.DataFrame({"CellName": names, "Sample": "P1TLH", "CellBarcode": "AAAC", "Cluster#": 1, "CellType": kinds})
    types.sample(frac=1, random_state=0).to_csv(folder / "GSE115469_CellClusterType.txt.gz", sep="\t", index=False)
    entries["macparland"]["holds"] = {
        "cells": n,
        "genes": 300,
        "scale": "log2",
        "most": 22,
        "n_types": 20,
        "n_types_merged": 15,
    }
    return x, names, kinds


def test_macparland_by_cell_name_with_and_without_merging(place):
    x, names, kinds = write_macparland(*place)
    merged, unmerged = catalogue.load("macparland"), catalogue.load("macparland_unmerged")
    for adata in (merged, unmerged):
        assert np.allclose(adata.X.toarray(), x.toarray(), rtol=1e-6) and adata.X.dtype == np.float32
        assert list(adata.obs_names) == names and list(adata.var_names) == GENES
    assert list(unmerged.obs["cell_type"]) == kinds
    assert list(merged.obs["cell_type"]) == ["Hepatocyte" if kind.startswith("Hepatocyte_") else kind for kind in kinds]
    prepared = preprocess.prepare(merged, GENES[:200], min_genes=1)  # already normalised: fewer genes change no value
    assert np.array_equal(prepared.X.toarray(), merged.X[:, :200].toarray())


def test_macparland_counts_of_types_are_checked(place):
    write_macparland(*place)
    place[1]["macparland"]["holds"]["after_filter"] = {"cells": 78, "types": {"Hepatocyte": 66, "Other_3": 1}}
    catalogue.load("macparland")
    place[1]["macparland"]["holds"]["after_filter"]["types"]["Hepatocyte"] = 60
    with pytest.raises(DataError, match="66 cells of Hepatocyte, not 60 to 62"):
        catalogue.load("macparland")


def test_macparland_without_a_cells_type_is_refused(place):
    write_macparland(*place)
    path = place[0] / "GSE115469_CellClusterType.txt.gz"
    pd.read_csv(path, sep="\t").iloc[1:].to_csv(path, sep="\t", index=False)
    with pytest.raises(DataError, match="1 have no type"):
        catalogue.load("macparland")


def test_macparland_damaged_or_of_another_form_is_refused(place):
    write_macparland(*place)
    path = place[0] / "GSE115469_Data.csv.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a gzipped CSV"):
        catalogue.load("macparland")
    path.write_bytes(gzip.compress(b'"","a","b"\n"GENE0",1.5,oops\n'))
    with pytest.raises(DataError, match="cannot be read as a gzipped CSV"):
        catalogue.load("macparland")


def test_the_vocabulary_is_checked(place):
    path = place[0] / "gene_order.txt"
    path.write_text("\n".join(GENES))
    with pytest.raises(DataError, match="300 symbols, 300 of them different, not 16906"):
        formats.vocabulary()
    place[1]["vocabulary"]["holds"]["genes"] = 300
    assert formats.vocabulary() == GENES


def test_an_empty_vocabulary_is_said(place):
    """scBERT's, with what to do; one of the reader's own, by what it is for."""
    path = place[0] / "gene_order.txt"
    path.write_text("")
    with pytest.raises(DataError, match="gene_order.txt is not the file that was published: it is empty. Delete it"):
        formats.vocabulary()
    data = {"dataset": "pbmc68k_reduced", "label": None, "vocabulary": str(path), "min_genes": 0, "library_size": None}
    with pytest.raises(DataError, match="vocabulary for pbmc68k_reduced has no gene: its file is empty. Give one gene symbol"):
        selection.prepared(data)


@pytest.mark.parametrize("dense", [False, True])
def test_zheng68k_is_read_in_blocks(place, monkeypatch, dense):
    """Whatever the size: the matrix is asked for in blocks of cells, and nothing makes it dense."""
    x = log2_normalised(counts())
    write_zheng68k(*place, x.toarray() if dense else x)
    asked = asked_in_blocks(monkeypatch, 16)
    adata = catalogue.load("zheng68k")
    assert asked == [(0, 16), (16, 32), (32, 48), (48, 64)] and (x != adata.X).nnz == 0


def test_macparland_is_read_by_lines(place, monkeypatch):
    """Whatever the size: one gene's line of the table is text or numbers at a time, the rest is sparse."""
    write_macparland(*place)
    lines = []

    class Lines:
        def __init__(self, *given, **named):
            self.file = opened(*given, **named)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __iter__(self):
            return self

        def __next__(self):
            lines.append(next(self.file))
            return lines[-1]

    opened = gzip.open
    forbid_dense(monkeypatch)
    monkeypatch.setattr(gzip, "open", Lines)
    assert catalogue.load("macparland").shape == (80, 300) and len(lines) == 301


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zheng_sorted", "liver"])
def test_rs_objects_are_read_as_r_holds_them(shared, monkeypatch, tmp_path, name):
    """The very files that are downloaded, against what reading them in another way gave: values, genes, cells, types."""
    file = downloads.registry()[name]["file"]
    shutil.copy(shared / "downloads" / file, tmp_path / file)
    monkeypatch.setenv("SCBERT_DATA_DIR", str(tmp_path))
    found, wanted = catalogue.load(name), anndata.read_h5ad(shared / f"{name}.h5ad")
    assert found.shape == wanted.shape and (found.X != wanted.X).nnz == 0 and found.X.format == "csr"
    assert found.var_names.equals(wanted.var_names) and found.obs_names.equals(wanted.obs_names)
    label = "cell_type" if "cell_type" in wanted.obs else "celltype"
    assert (found.obs["cell_type"].astype(str) == wanted.obs[label].astype(str)).all()
    assert found.uns["dataset"]["values"] == "counts"


@pytest.mark.parametrize(
    "name, says", [("zheng_sorted", "fastTopics' pbmc_facs"), ("liver", "CuratedAtlasQueryR's sample_sce_obj")]
)
def test_a_foreign_r_file_is_refused(place, name, says):
    folder, entries = place
    (folder / entries[name]["file"]).write_bytes(b"RDX3 and then something else")
    with pytest.raises(DataError, match=f"is not {says}"):
        catalogue.load(name)
