"""Pre-training corpora: the tokens of prepared cells, on the disk."""

import pickle
import shutil
import signal
import subprocess
import sys
import time

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from lib.datasets import stored
from lib.errors import DataError
from lib.prepare import corpus, preprocess, shards, tokenize
from lib.scbert.training import feed, in_batches
from lib.settings import ROOT
from tests.making import asked_in_blocks, counts, log2_normalised

GENES = [f"GENE{i}" for i in range(300)]


def dense(store):
    """The tokens of all cells as an array."""
    return store[np.arange(store.shape[0])].toarray()


def made(cells, seed=0, **kwargs):
    names = [f"cell{seed}-{i}" for i in range(cells)]
    return anndata.AnnData(counts(cells, 300, seed), var=pd.DataFrame(index=GENES), obs=pd.DataFrame(index=names), **kwargs)


def expected(adata, min_genes=1):
    return tokenize(preprocess.prepare(adata, GENES, min_genes=min_genes))


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
    genes = (*GENES[250:10:-1], "ABSENT")
    store = corpus.tokens(path, genes, min_genes=100)
    whole = tokenize(preprocess.prepare(adata, genes, min_genes=100))
    assert 0 < len(whole) < 5000 and np.array_equal(dense(store), whole) and store.shape == whole.shape
    assert all(map(mapped, store.places)) and np.array_equal(store.count_nonzero(), (whole > 0).sum(1))
    some = np.random.default_rng(0).permutation(len(whole))[:700]
    assert np.array_equal(store[some].toarray(), whole[some]) and store[some[:0]].shape == (0, 242)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "write", lambda *_: pytest.fail("written again"))
        assert np.array_equal(dense(corpus.tokens(path, genes, min_genes=100)), whole)
    turned = corpus.tokens(path, genes[::-1], min_genes=100)  # of other genes, or cells, it is another
    assert np.array_equal(dense(turned)[:, :-1], whole[:, -2::-1])
    assert corpus.tokens(path, genes, min_genes=1).shape[0] > len(whole)


def test_a_corpus_on_scberts_scale_stays_as_it_is(place):
    x = log2_normalised(counts(200, 300, seed=3))
    path = place[0] / "mine.h5ad"
    anndata.AnnData(x, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    store = corpus.tokens(path, GENES, min_genes=1)
    assert np.array_equal(dense(store)[:, :-1], np.minimum(np.floor(x.toarray()), 5))


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of two blocks of 16 cells."""
    monkeypatch.setattr(stored, "BLOCK", 16)
    monkeypatch.setattr(corpus, "SHARD", 2)


def written(monkeypatch):
    """The list that fills with the first cell of every shard that is written."""
    found, really = [], shards.write

    def write(stem, *rest):
        found.append(int(stem.name))
        really(stem, *rest)

    monkeypatch.setattr(shards, "write", write)
    return found


@pytest.mark.parametrize("name", ["0000000032.counts.npy", "0000000032.places.npy", "shards.json"])
def test_what_is_damaged_is_written_again_alone(place, name, capsys, small_shards, monkeypatch):
    """Whichever file has one bit changed, is cut short or gone: its shard is written again, the others stay."""
    path = place[0] / "mine.h5ad"
    made(100).write_h5ad(path)
    whole = dense(corpus.tokens(path, GENES, min_genes=1))
    assert np.array_equal(whole, expected(made(100)))
    [kept] = (place[0].parent / "corpus").glob(f"*/{name}")
    content, found = kept.read_bytes(), written(monkeypatch)
    for damaged in (content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], content[:-4], None):
        kept.unlink() if damaged is None else kept.write_bytes(damaged)
        found.clear()
        assert np.array_equal(dense(corpus.tokens(path, GENES, min_genes=1)), whole)
        assert found == ([32] if name.endswith("npy") else [])
        assert "is damaged: it is written again" in capsys.readouterr().err or (damaged is None and not found)


def test_building_goes_on_where_it_was_interrupted(place, small_shards, monkeypatch):
    """Ended after any number of shards: what is sealed stays, what was being written is written again."""
    path = place[0] / "mine.h5ad"
    made(150).write_h5ad(path)
    really = shards.seal
    for number in range(1, 10, 2):  # of the seals of five shards
        sealed = []

        def seal(path, number=number, sealed=sealed):
            sealed.append(path)
            if len(sealed) == number:
                raise KeyboardInterrupt
            really(path)

        with monkeypatch.context() as patch:
            patch.setattr(shards, "seal", seal)
            with pytest.raises(KeyboardInterrupt):
                corpus.tokens(path, GENES, min_genes=1)
        with monkeypatch.context() as patch:
            found = written(patch)
            assert np.array_equal(dense(corpus.tokens(path, GENES, min_genes=1)), expected(made(150)))
        assert found == [0, 32, 64, 96, 128][(number - 1) // 2 :]
        shutil.rmtree(place[0].parent / "corpus")


@pytest.mark.slow
def test_a_killed_build_goes_on(place):
    """A real process is killed with SIGKILL while it builds: what was sealed then is not touched, and the corpus is whole."""
    path = place[0] / "mine.h5ad"
    made(4000).write_h5ad(path)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lib.datasets import stored; from lib.prepare import corpus; "
        f"stored.BLOCK, corpus.SHARD = 16, 2; corpus.tokens({str(path)!r}, {GENES!r}, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(seals := list(place[0].parent.glob("corpus/*/[!.]*.sha256"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and len(seals) < 250
    before = {seal: seal.stat().st_mtime_ns for seal in seals}
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    untouched = [seal for seal, at in before.items() if seal.stat().st_mtime_ns == at]
    assert len(untouched) >= len(before) - 1  # of the shard under way one half may have been sealed
    files = sorted(place[0].parent.glob("corpus/*/*.counts.npy"))
    store = shards.Shards([file.with_name(file.name.split(".")[0]) for file in files], len(GENES) + 1)
    assert np.array_equal(dense(store), expected(made(4000)))


FORMS = {
    "h5ad": lambda adata, path: adata.write_h5ad(path),
    "zarr": lambda adata, path: adata.write_zarr(path),
    "dense.zarr": lambda adata, path: dense_zarr(adata, path),
    "h5": lambda adata, path: ten_x(adata, path),
}


def dense_zarr(adata, path):
    adata = adata.copy()
    adata.X = adata.X.toarray()
    adata.write_zarr(path)


def ten_x(adata, path):
    """As cellranger writes it: genes × cells by columns, two genes of one symbol, and an antibody."""
    x = sp.csc_matrix(sp.hstack([adata.X, sp.csr_matrix(np.full((adata.n_obs, 2), 7, np.float32))]).T, dtype=np.int32)
    x = x.tolil()
    x[0, :] = 0
    symbols = [*adata.var_names, "GENE0", "CD3"]  # the counts of GENE0 are those of its second gene
    with h5py.File(path, "w") as file:
        held = file.create_group("matrix")
        x = sp.csc_matrix(x)
        for name, values in {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": x.shape}.items():
            held[name] = np.asarray(values)
        held["barcodes"] = np.array(adata.obs_names, "S")
        held["features/id"] = np.array([f"ENSG{i:011d}" for i in range(len(symbols) - 1)] + ["CD3"], "S")
        held["features/name"] = np.array(symbols, "S")
        held["features/feature_type"] = np.array(["Gene Expression"] * (len(symbols) - 1) + ["Antibody Capture"], "S")


@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_comes_in_many_forms(place, form, small_shards):
    """Counts in .h5ad, .zarr and cellranger's .h5, whose genes of one symbol are summed and whose antibodies are left out."""
    adata, path = made(100), place[0] / f"mine.{form}"
    FORMS[form](adata, path)
    if form == "h5":
        adata.X = sp.csr_matrix(np.hstack([np.full((100, 1), 7, np.float32), adata.X.toarray()[:, 1:]]))
    assert np.array_equal(dense(corpus.tokens(path, GENES, min_genes=1)), expected(adata))


def test_a_folder_of_files_is_one_corpus(place, small_shards, monkeypatch):
    """Its cells are those of all files; its name is that of what is in them, whatever they are called; a file that is added
    leaves what was built of the others as it is."""
    folder = place[0] / "many"
    folder.mkdir()
    for seed, form in enumerate(("h5ad", "zarr", "h5ad")):
        FORMS[form](made(40 + seed, seed), folder / f"part{seed}.{form}")
    store, name = corpus.tokens(folder, GENES, min_genes=1), corpus.content(folder)
    whole = np.concatenate([expected(made(40 + seed, seed)) for seed in range(3)])
    assert store.shape == (123, 301)
    assert sorted(map(bytes, dense(store))) == sorted(map(bytes, whole))
    assert corpus.content(sorted(folder.iterdir())) == name != corpus.content(folder / "part0.h5ad")
    (folder / "part0.h5ad").rename(folder / "renamed.h5ad")
    found = written(monkeypatch)
    assert np.array_equal(dense(corpus.tokens(folder, GENES, min_genes=1)), dense(store)) and corpus.content(folder) == name
    assert found == []
    made(20, 9).write_h5ad(folder / "more.h5ad")
    assert corpus.tokens(folder, GENES, min_genes=1).shape[0] == 143 and found == [0]
    shutil.copy(folder / "more.h5ad", folder / "again.h5ad")
    with pytest.raises(DataError, match="are the same cells: leave one out"):
        corpus.tokens(folder, GENES, min_genes=1)


@pytest.mark.parametrize("name", ["missing.h5ad", "empty", "broken.zarr", "broken.h5"])
def test_what_is_no_corpus_is_refused(place, name):
    """With its path, and what to do."""
    path = place[0] / name
    if name.endswith(".h5"):
        path.write_bytes(b"not HDF5")
    elif name != "missing.h5ad":
        path.mkdir()
    with pytest.raises(DataError, match=rf"{name}.*(Give|Put|Copy)"):
        corpus.tokens(path, GENES, min_genes=1)


def test_cells_without_a_token_are_cells(tmp_path):
    """Also where one stands at the very end of a file of whole pages, and in a shard without any token."""
    x = np.zeros((3, 2001), np.uint8)
    x[1, : (4096 - 128) // 2] = 3  # numpy's header takes 128 bytes
    for name, cells in {"first": x, "second": x[:1], "third": x[:0]}.items():
        shards.write(tmp_path / name, [sp.csr_matrix(cells)], 2000)
    assert (tmp_path / "first.places.npy").stat().st_size == 4096
    store = shards.Shards([tmp_path / name for name in ("first", "third", "second")], 2001)
    assert np.array_equal(dense(store), np.concatenate([x, x[:1]])) and not store[np.array([2, 3, 0])].nnz


@pytest.mark.parametrize("elsewhere", [False, True])
def test_batches_of_a_corpus_are_fed_as_those_of_a_matrix_are(place, small_shards, elsewhere):
    """Each cell once, in the order asked for, from shards of several files; another process maps the files itself."""
    for seed in range(2):
        made(50, seed).write_h5ad(place[0] / f"part{seed}.h5ad")
    store = corpus.tokens([place[0] / "part0.h5ad", place[0] / "part1.h5ad"], GENES, min_genes=1)
    order, whole = np.random.default_rng(0).permutation(100), dense(store)
    if elsewhere:
        assert len(pickle.dumps(store)) < 2000
        store = pickle.loads(pickle.dumps(store))
    batches = list(feed(store, in_batches(order, 32), torch.device("cpu")))
    assert np.array_equal(np.concatenate([cells.numpy() for cells, _ in batches]), order)
    assert np.array_equal(np.concatenate([shown.numpy() for _, shown in batches]), whole[order])


@pytest.mark.slow
def test_real_files_are_one_corpus(shared, place):
    """Eleven files with genes of their own: each cell's tokens are those of its file alone, prepared whole."""
    genes = (shared / "gene_order.txt").read_text().split()
    store = corpus.tokens(shared / "corpus", genes)
    assert store.shape[1] == 16_907 and 11_000 < store.shape[0] <= 11_562
    path = shared / "corpus" / "kang_ctrl.h5ad"
    own = tokenize(preprocess.prepare(anndata.read_h5ad(path), genes))
    first = next(i for i in range(store.shape[0]) if np.array_equal(store[np.array([i])].toarray()[0], own[0]))
    assert np.array_equal(store[np.arange(first, first + len(own))].toarray(), own)


def test_a_corpus_that_cannot_be_used_is_refused_and_leaves_nothing(place):
    path = place[0] / "mine.h5ad"
    anndata.AnnData(sp.csc_matrix(counts()), var=pd.DataFrame(index=GENES)).write_h5ad(path)
    with pytest.raises(DataError, match="Store it by cells"):
        corpus.tokens(path, GENES, min_genes=1)
    mixed = sp.vstack([counts(4096), log2_normalised(counts(100))]).tocsr()
    anndata.AnnData(mixed, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    with pytest.raises(DataError, match="mixed scales"):
        corpus.tokens(path, GENES, min_genes=1)
    anndata.AnnData(counts(20), var=pd.DataFrame(index=GENES)).write_h5ad(place[0] / "few.h5ad")
    with pytest.raises(DataError, match="no corpus"):
        corpus.tokens(place[0] / "few.h5ad", GENES, 299)
    assert not [left for left in (place[0].parent / "corpus").iterdir() if left.is_dir()]


def test_a_block_without_a_cell_to_keep_is_passed_over(place, monkeypatch):
    """Cells rich in genes of which the vocabulary has few, alone in their block, are left out like others."""
    monkeypatch.setattr(stored, "BLOCK", 50)
    x = counts(150, 300, seed=4).tolil()
    x[50:100, :200] = 0  # what is left of them lies outside the vocabulary
    path = place[0] / "mine.h5ad"
    adata = anndata.AnnData(x.tocsr(), var=pd.DataFrame(index=GENES))
    adata.write_h5ad(path)
    genes = tuple(GENES[:200])
    store = corpus.tokens(path, genes, min_genes=20)
    assert np.array_equal(dense(store), tokenize(preprocess.prepare(adata, genes, min_genes=20))) and store.shape[0] == 100


def test_no_more_than_a_block_is_read_at_once(place, monkeypatch):
    """Whatever the size: the matrix is asked for in blocks of cells, and nothing makes it dense."""
    for name, x in (("sparse", counts(100, 300)), ("dense", counts(100, 300).toarray())):
        anndata.AnnData(x, var=pd.DataFrame(index=GENES)).write_h5ad(place[0] / f"{name}.h5ad")
    asked = asked_in_blocks(monkeypatch, 32)
    for name in ("sparse", "dense"):
        corpus.tokens(place[0] / f"{name}.h5ad", GENES, min_genes=1)
    assert asked == [(0, 32), (32, 64), (64, 96), (96, 128)] * 2
