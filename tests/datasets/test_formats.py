"""The readers, on files in the exact formats of the published ones, small and (slow) at their full size."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue, downloads, formats
from lib.errors import DataError
from lib.experiments import profiles, specs, tasks
from lib.prepare import cells, corpus, embeddings, preprocess, tokenize

ROOT = Path(__file__).resolve().parents[2]
GENES = [f"GENE{i}" for i in range(300)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of downloads and a registry whose entries the test changes; nothing is asked of any server."""
    true = downloads.registry()
    entries = {name: {key: value for key, value in entry.items() if key not in ("sha256", "blob", "bytes", "drive")}
               | {"holds": dict(entry.get("holds", {}))} for name, entry in true.items()}  # fmt: skip
    monkeypatch.setattr(downloads, "registry", lambda: entries)
    monkeypatch.setenv("SCBERT_DATA_DIR", str(tmp_path / "downloads"))
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("SCBERT_OFFLINE", "1")
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads", entries


def counts(n=60, genes=300, seed=0):
    """Sparse counts with a total that differs between cells."""
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(rng.poisson(rng.uniform(0.3, 1.5, (n, 1)), (n, genes)).astype(np.float32))


def log2_normalised(x):
    """log2(1 + counts per 10⁴), written differently from lib.preprocess."""
    dense = x.toarray().astype(np.float64)
    return sp.csr_matrix(np.log2(1 + dense / dense.sum(1, keepdims=True) * 1e4).astype(np.float32))


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
    assert (adata.X != x).nnz == 0 and adata.obs["cell_type"].nunique() == 11
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


@pytest.mark.parametrize("changes, says", [
    ({"cells": 61}, "60 cells, not 61"), ({"genes": 299}, "300 genes, not 299"), ({"n_types": 10}, "11 cell types, not 10"),
    ({"most": 3.0}, "largest value"), ({"scale": "counts", "most": 99}, "not counts"),
])  # fmt: skip
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


def write_macparland(folder, entries, n=80):
    """GEO's files: quoted names, an empty first header field, genes × cells; types in a table by tabs, in another order."""
    x = log2_normalised(counts(n, 300, seed=1))
    names = [f"P{1 + i % 5}TLH_AAAC{i}_1" for i in range(n)]
    table = pd.DataFrame(x.T.toarray(), index=GENES, columns=names)
    table.to_csv(folder / "GSE115469_Data.csv.gz", quoting=2)
    kinds = [f"Hepatocyte_{1 + i % 6}" for i in range(n - 14)] + [f"Other_{i}" for i in range(14)]
    types = pd.DataFrame({"CellName": names, "Sample": "P1TLH", "CellBarcode": "AAAC", "Cluster#": 1, "CellType": kinds})
    types.sample(frac=1, random_state=0).to_csv(folder / "GSE115469_CellClusterType.txt.gz", sep="\t", index=False)
    entries["macparland"]["holds"] = {"cells": n, "genes": 300, "scale": "log2", "most": 22, "n_types": 20,
                                      "n_types_merged": 15}  # fmt: skip
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


def mapped(array):
    """Whether an array's memory is a file's."""
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_the_corpus_holds_the_tokens_of_prepared_cells(place):
    """Counts in an .h5ad, in any order of genes: the memory-mapped tokens are those of prepare and tokenize."""
    x = counts(5000, 300, seed=2)  # more than one block
    path = place[0] / "panglao_human.h5ad"
    adata = anndata.AnnData(x, var=pd.DataFrame(index=GENES), obs=pd.DataFrame(index=np.arange(5000).astype(str)))
    adata.write_h5ad(path)
    genes = tuple([*GENES[250:10:-1], "ABSENT"])
    fingerprint = corpus.build("panglao", genes, min_genes=100)
    store = corpus.read(fingerprint, genes)
    expected = tokenize(preprocess.prepare(adata, genes, min_genes=100))
    assert 0 < len(expected) < 5000 and np.array_equal(store.toarray(), expected)
    assert mapped(store.indices) and mapped(store.data)
    assert corpus.build("panglao", genes, min_genes=100) == fingerprint  # known already
    with pytest.raises(DataError, match="or another order"):
        corpus.read(fingerprint, genes[::-1])
    assert not list((place[0].parent / "corpus").glob(".partial*"))


def test_a_corpus_on_scberts_scale_stays_as_it_is(place):
    x = log2_normalised(counts(200, 300, seed=3))
    path = place[0] / "mine.h5ad"
    anndata.AnnData(x, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    store = corpus.read(corpus.build(str(path), tuple(GENES), min_genes=1), GENES)
    assert np.array_equal(store[:, :-1].toarray(), np.minimum(np.floor(x.toarray()), 5))


def test_a_corpus_that_cannot_be_used_is_refused_and_leaves_nothing(place):
    path = place[0] / "mine.h5ad"
    anndata.AnnData(sp.csc_matrix(counts()), var=pd.DataFrame(index=GENES)).write_h5ad(path)
    with pytest.raises(DataError, match="Store it by cells"):
        corpus.build(str(path), tuple(GENES), min_genes=1)
    mixed = sp.vstack([counts(4096), log2_normalised(counts(100))]).tocsr()
    anndata.AnnData(mixed, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    with pytest.raises(DataError, match="mixed scales"):
        corpus.build(str(path), tuple(GENES), min_genes=1)
    anndata.AnnData(counts(20), var=pd.DataFrame(index=GENES)).write_h5ad(place[0] / "few.h5ad")
    with pytest.raises(DataError, match="no corpus"):
        corpus.build(str(place[0] / "few.h5ad"), tuple(GENES), 299)
    assert not list((place[0].parent / "corpus").iterdir())


@pytest.mark.slow
def test_pretraining_on_a_corpus_and_from_a_checkpoint(place, monkeypatch):
    """A profile's `corpus` and `checkpoint` reach the runs: what is fine-tuned starts from them."""
    import torch

    from lib.experiments import runs, tasks
    from lib.scbert.model import ScBert, ScBertConfig

    profile = profiles.load("smoke")
    genes = list(profile["adata"].var_names)
    source = anndata.AnnData(counts(80, len(genes)), var=pd.DataFrame(index=genes[::-1]))
    source.write_h5ad(place[0] / "mine.h5ad")
    monkeypatch.setattr(corpus, "build", lambda path, names, inner=corpus.build: inner(path, names, min_genes=1))
    profile["pretraining"] |= {"corpus": str(place[0] / "mine.h5ad")}
    full, none = specs.cell_types(profile, ["full", "no_gene2vec"], seeds=[0])
    assert full["pretraining"]["corpus"] == none["pretraining"]["corpus"] and "corpus" not in full
    [run] = runs.complete([full["pretraining"]])
    assert len(run.log) == full["pretraining"]["training"]["epochs"]
    embedding = np.random.default_rng(0).normal(size=(len(genes), profile["size"]["dim"])).astype(np.float32)
    model = ScBert(ScBertConfig(genes=len(genes), **profile["size"]), embedding)
    torch.save({"model_state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, place[0] / "own.pth")
    profile["pretraining"] |= {"checkpoint": str(place[0] / "own.pth")}
    full, none = specs.cell_types(profile, ["full", "no_gene2vec"], seeds=[0])
    assert "checkpoint" not in none["pretraining"]
    with pytest.raises(DataError, match="same order"):  # the stand-in is not the checkpoint's gene embedding
        runs.complete([full["pretraining"]])
    monkeypatch.setattr(tasks, "gene_embedding", lambda *_: embedding)
    [run] = runs.complete([full["pretraining"]])
    stored = torch.load(run.folder / "model.pt", weights_only=True)
    assert torch.equal(stored["model_state_dict"]["token_emb.weight"], model.token_emb.weight)
    assert stored["genes"] == genes


def test_the_external_task_gives_the_trained_models_own_predictions(place):
    """On the very cells that a run was tested on, `external` says what the run said, for both models."""
    from lib.experiments import runs

    profile = profiles.load("smoke")
    trained = specs.cell_types(profile, ["no_gene2vec", "logistic_regression"], seeds=[0])
    wanted = [{"task": "external", "arm": spec["arm"], "seed": 0, "trained": spec, "data": spec["data"]} for spec in trained]
    for run, before in zip(runs.complete(wanted), runs.complete(trained)):
        test = before.predictions["test"]
        assert np.allclose(run.predictions["probabilities"][test], before.predictions["probabilities"], atol=1e-5)
        assert np.array_equal(run.predictions["labels"][test], before.predictions["labels"])


def test_the_vocabulary_is_checked(place):
    path = place[0] / "gene_order.txt"
    path.write_text("\n".join(GENES))
    with pytest.raises(DataError, match="300 symbols, 300 of them different, not 16906"):
        formats.vocabulary()
    place[1]["vocabulary"]["holds"]["genes"] = 300
    assert formats.vocabulary() == GENES


def test_gene2vec_is_read_once_and_missing_genes_are_said(place, capsys):
    vectors = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    lines = [" ".join([name, *map(str, row)]) for name, row in zip(["B", "A", "C", "X"], vectors)]
    (place[0] / "gene2vec_dim_200_iter_9.txt").write_text("\n".join(lines))
    found = embeddings.kept_gene2vec(["A", "LOST", "B"])
    assert np.allclose(found, [vectors[1], np.zeros(5), vectors[0]]) and "lacks 1 of 3 genes (LOST" in capsys.readouterr().out
    [stored] = (place[0].parent / "gene2vec").glob("*.npy")
    assert np.array_equal(embeddings.kept_gene2vec(["A", "LOST", "B"]), np.load(stored))
    (place[0] / "gene2vec_dim_200_iter_9.txt").write_text("A 1 2\nB 3 4\n")  # another file: not the stored one
    assert np.array_equal(embeddings.kept_gene2vec(["A", "LOST", "B"]), [[1, 2], [0, 0], [3, 4]])


def test_a_checkpoint_of_other_sizes_is_refused(place):
    import torch

    from lib.scbert.model import ScBert, ScBertConfig

    tasks.checkpoint.cache_clear()
    model = ScBert(ScBertConfig(genes=20, dim=8, depth=1, heads=2, dim_head=4, features=8), np.ones((20, 8), np.float32))
    torch.save({"model_state_dict": model.state_dict()}, place[0] / "panglao_pretrain.pth")
    with pytest.raises(DataError, match="not scBERT's checkpoint"):
        tasks.checkpoint()
    place[1]["checkpoint"]["holds"] = {"genes": 20, "dim": 8}
    assert corpus.checkpoint_path(tasks.checkpoint()).is_file()
    (place[0] / "page.pth").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        tasks.checkpoint(str(place[0] / "page.pth"))


@pytest.mark.slow
def test_variable_genes_are_chosen_on_training_cells_alone(raw):
    """Changing the test cells' values changes no gene that is chosen; scanpy chooses the same on the training cells."""
    import scanpy

    from lib.prepare import splits

    split = {"test_size": 0.2, "seed": 2022}
    prepared = preprocess.prepare(raw, min_genes=0, library_size="n_counts")
    train, test = splits.holdout(prepared.obs["cell_type"].cat.codes.to_numpy(np.int64), **split)
    chosen = cells._most_variable(prepared, 100, split)
    changed = prepared.copy()
    dense = changed.X.toarray()
    dense[test] = dense[test][:, ::-1]
    changed.X = sp.csr_matrix(dense)
    assert chosen.n_vars == 100 and list(cells._most_variable(changed, 100, split).var_names) == list(chosen.var_names)
    natural = anndata.AnnData(prepared.X[train] * np.log(2), var=prepared.var.copy())
    scanpy.pp.highly_variable_genes(natural, n_top_genes=100)
    assert list(natural.var_names[natural.var["highly_variable"]]) == list(chosen.var_names)
    assert (prepared[:, chosen.var_names].X != chosen.X).nnz == 0
    with pytest.raises(DataError, match="variable_genes is 1000"):
        cells._most_variable(prepared, 1000, split)


def test_macparland_in_the_paper_profile_has_its_own_search(place, monkeypatch):
    monkeypatch.setattr(cells, "prepared", lambda *_: None)
    monkeypatch.setattr(cells, "store", lambda _: "0")
    monkeypatch.setattr(embeddings, "gene2vec_path", lambda: place[0] / "g2v")
    (place[0] / "g2v").write_text("")
    assert profiles.load("paper")["logistic_regression"] == {"C": 0.1}
    liver = profiles.load("paper", dataset="macparland")
    assert liver["logistic_regression"]["C"] == [1, 10, 100, 1000, 10000] and liver["reproduces"] == "macparland"


# At full size, each in a process of its own that prints its time and its peak memory.

MAKE_ZHENG68K = """
import gzip, shutil, anndata, numpy as np, pandas as pd, scipy.sparse as sp
n, genes, detected = 68_450, 16_906, 507
rng = np.random.default_rng(0)
indices = rng.integers(1, 59, (n, detected), dtype=np.int32).cumsum(1, dtype=np.int32)
assert indices.max() < genes
counts = rng.geometric(0.6, (n, detected)).astype(np.float32)
values = np.log2(1 + counts * (1e4 / counts.sum(1, keepdims=True))).astype(np.float32)
x = sp.csr_matrix((values.ravel(), indices.ravel(), np.arange(0, n * detected + 1, detected)), (n, genes))
obs = pd.DataFrame({"celltype": pd.Categorical([f"type {i % 11}" for i in range(n)])}, index=np.arange(n).astype(str))
adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(genes)]))
adata.write_h5ad(folder + "/plain.h5ad")
with open(folder + "/plain.h5ad", "rb") as plain, gzip.open(folder + "/Zheng68K.h5ad.gz", "wb", 1) as packed:
    shutil.copyfileobj(plain, packed, 2**22)
"""

MAKE_MACPARLAND = """
import gzip, random
genes, cells = 20_007, 8_444
random.seed(0)
values = [f"{random.uniform(0.2, 9):.15g}" for _ in range(5000)]
names = [f"P{1 + i % 5}TLH_AAAC{i}_1" for i in range(cells)]
with gzip.open(folder + "/GSE115469_Data.csv.gz", "wt", 1) as file:
    file.write(",".join(['""'] + [f'"{name}"' for name in names]) + "\\n")
    for gene in range(genes):
        row = ["0"] * cells
        for place in random.sample(range(cells), 600):
            row[place] = values[(place * 31 + gene) % 5000]
        file.write(f'"GENE{gene}",' + ",".join(row) + "\\n")
kinds = ["Hepatocyte_1", "Hepatocyte_2", "Hepatocyte_3", "Hepatocyte_4", "Hepatocyte_5", "Hepatocyte_6"] + [f"O{i}" for i in range(14)]
with gzip.open(folder + "/GSE115469_CellClusterType.txt.gz", "wt") as file:
    file.write("CellName\\tSample\\tCellBarcode\\tCluster#\\tCellType\\n")
    file.writelines(f"{name}\\tP1TLH\\tAAAC\\t1\\t{kinds[i % 20]}\\n" for i, name in enumerate(names))
"""

MAKE_PANGLAO = """
import anndata, numpy as np, pandas as pd, scipy.sparse as sp
n, genes, detected = 50_000, 16_906, 507
rng = np.random.default_rng(0)
indices = rng.integers(1, 59, (n, detected), dtype=np.int32).cumsum(1, dtype=np.int32)
counts = rng.geometric(0.6, (n, detected)).astype(np.float32)
x = sp.csr_matrix((counts.ravel(), indices.ravel(), np.arange(0, n * detected + 1, detected)), (n, genes))
var = pd.DataFrame(index=[f"GENE{i}" for i in range(genes)])
anndata.AnnData(x, obs=pd.DataFrame(index=np.arange(n).astype(str)), var=var).write_h5ad(folder + "/panglao_human.h5ad")
"""

READ = """
import sys, json, time, resource, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from lib.datasets import catalogue, downloads
from lib.prepare import corpus
for entry in downloads.registry().values():
    for key in ("sha256", "blob", "bytes"):
        entry.pop(key, None)
downloads.registry()["macparland"]["holds"].pop("after_filter")
begun = time.time()
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({{"shape": list(result.shape), "entries": entries, "seconds": time.time() - begun, "GiB": peak}}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("make, body, shape, entries, most", [
    (MAKE_ZHENG68K, "result = catalogue.load('zheng68k'); entries = result.X.nnz", (68_450, 16_906), 68_450 * 507, 1.4),
    (MAKE_MACPARLAND, "result = catalogue.load('macparland'); entries = result.X.nnz", (8_444, 20_007), 600 * 20_007, 0.9),
    (MAKE_PANGLAO, "names = tuple(f'GENE{i}' for i in range(16_906)); result = corpus.read("
     "corpus.build('panglao', names), names); entries = len(result.bins)", (50_000, 16_907), 50_000 * 507, 1.0),
], ids=["zheng68k", "macparland", "panglao"])  # fmt: skip
def test_full_size(tmp_path, make, body, shape, entries, most):
    """As many cells, genes and values as the published file has (50,000 cells for Panglao); never dense (4.3 GiB, 0.6)."""
    subprocess.run([sys.executable, "-c", f"folder = {str(tmp_path)!r}\n{make}"], check=True)
    environment = os.environ | {"SCBERT_DATA_DIR": str(tmp_path), "SCBERT_CACHE": str(tmp_path), "SCBERT_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", READ.format(body=body), str(ROOT)], env=environment, text=True,
                          stdout=subprocess.PIPE, check=True)  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{tuple(found['shape'])}, {found['entries']:,} values: {found['seconds']:.1f} s, peak {found['GiB']:.2f} GiB")
    assert tuple(found["shape"]) == shape and found["entries"] == entries
    assert found["GiB"] < most
