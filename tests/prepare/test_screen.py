"""Which cells of a file count: labelled, each once, of types that can be learnt and asked; and which columns divide them."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib.datasets import catalogue
from lib.errors import DataError
from lib.prepare import cells, preprocess, screen, selection, splits

SPLIT = {"test_size": 0.2, "seed": 2022}


def some(raw, n=120, **columns):
    """Real cells with columns of obs of their own, as the reader gives a file's."""
    kept = raw[:n]
    obs = pd.DataFrame({"cell_type": kept.obs["cell_type"].astype(str).astype("category"), **columns}, index=kept.obs_names)
    adata = anndata.AnnData(kept.X.copy(), obs=obs, var=kept.var[[]].copy())
    adata.uns["dataset"] = {"values": "counts"}
    return adata


def joined(*parts):
    """Files joined as anndata joins them; names made different."""
    found = anndata.concat(parts, join="outer", index_unique="-", uns_merge="first")
    found.obs["cell_type"] = found.obs["cell_type"].astype("category")
    return found


@pytest.mark.parametrize("change", ["as it is", "shuffled", "genes reordered first", "explicit zeros", "columns out of order"])
def test_repeats_are_kept_once(raw, change):
    """Cells joined twice under other names, however they lie in memory: each is there once, the first."""
    adata, again = some(raw), some(raw)[40:70].copy()
    both = joined(adata, again)
    if change == "shuffled":
        both = both[np.random.RandomState(0).permutation(both.n_obs)].copy()
    if change == "genes reordered first":
        both = both[:, np.random.RandomState(0).permutation(both.n_vars)].copy()
    if change == "explicit zeros":
        x = both.X.tolil()
        both.X = sp.csr_matrix(x)
        extra = sp.csr_matrix((np.zeros(30, np.float32), (np.arange(120, 150), np.zeros(30, int))), shape=both.shape)
        both.X = sp.csr_matrix(
            (
                np.concatenate([both.X.tocoo().data, extra.data]),
                (
                    np.concatenate([both.X.tocoo().row, np.arange(120, 150)]),
                    np.concatenate([both.X.tocoo().col, np.zeros(30, int)]),
                ),
            ),
            shape=both.shape,
        )
    if change == "columns out of order":
        x = both.X.tocsr().copy()
        for cell in range(120, 150):
            row = slice(*x.indptr[cell : cell + 2])
            x.indices[row], x.data[row] = x.indices[row][::-1].copy(), x.data[row][::-1].copy()
        x.has_sorted_indices = False
        both.X = x
    kept, report = screen.once(both, "mine.h5ad")
    assert report == {"repeats": 30, "repeated": 30} and kept.n_obs == 120
    first = both.obs_names[~pd.Series(both.obs_names.str.rsplit("-", n=1).str[0]).duplicated().to_numpy()]
    assert list(kept.obs_names) == list(first)


def test_different_cells_are_all_kept(raw):
    """None of scanpy's cells is twice; two that show few genes may be alike by chance and are no repeats."""
    adata, report = screen.once(some(raw, 700), "mine.h5ad")
    assert report == {} and adata.n_obs == 700
    few = sp.csr_matrix(np.eye(9, 50, dtype=np.float32).repeat(4, 0))
    assert screen.once(anndata.AnnData(few, obs=pd.DataFrame({"cell_type": ["B"] * 36})), "panel.h5ad")[1] == {}


def test_repeats_whose_labels_contradict_each_other_are_refused(raw):
    """With how many, and the first of them by name."""
    adata = some(raw)
    again = adata[:20].copy()
    again.obs["cell_type"] = ["other"] * 5 + list(again.obs["cell_type"].astype(str)[5:])
    with pytest.raises(
        DataError, match=r"20 of 140 cells of mine\.h5ad repeat.*5 of the 20 cells.*contradict.*'.*-1' is 'other'"
    ):
        screen.once(joined(adata, again), "mine.h5ad")


@pytest.mark.parametrize("scale", ["counts", "logarithms"])
@pytest.mark.slow
def test_cells_that_nearly_repeat_another(raw, shared, scale):
    """As processed twice: every tenth count gone, the others up to two more. No other cells are taken for it."""
    for path in [shared / "zheng_sorted.h5ad", shared / "liver.h5ad", *(shared / "corpus").glob("*.h5ad")]:
        adata = anndata.read_h5ad(path)
        adata = adata[:: max(1, adata.n_obs // 600)]
        x = sp.csr_matrix(adata.X, dtype=np.float32)
        assert (screen.nearly_twice(anndata.AnnData(x)) or 0) < 0.01, path
    draw = np.random.RandomState(0)
    again = x[:100].copy()
    again.data += draw.randint(0, 3, again.nnz)
    again.data[draw.rand(again.nnz) < 0.1] = 0
    both = anndata.AnnData(sp.vstack([x, again], format="csr"))
    if scale == "logarithms":
        both.X.data = np.log1p(1e4 * both.X.data / np.repeat(np.asarray(both.X.sum(1)).ravel(), np.diff(both.X.indptr)))
    assert screen.nearly_twice(both, both.n_obs) == pytest.approx(200 / both.n_obs, abs=0.01)
    assert screen.nearly_twice(both[:, :40]) is None


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("{barcode}-{one}", ["…-1", "…-2", "…-3"]),
        ("donor{one}_{barcode}-1", ["donor1_…-1", "donor2_…-1", "donor3_…-1"]),
        ("{barcode}-1-{one}", ["…-1-1", "…-1-2", "…-1-3"]),
        ("s{one}_cell{number}", ["s1_cell…", "s2_cell…", "s3_cell…"]),
        ("{barcode}-1", None),
        ("cell_{number}", None),
        ("{number}", None),
        ("patient{number}x", None),
    ],
)
def test_names_of_cells_that_tell_joined_files(name, kinds):
    draw = np.random.RandomState(1)
    barcodes = ["".join(draw.choice(list("ACGT"), 16)) for _ in range(90)]
    names = [name.format(barcode=barcodes[i], one=1 + i % 3, number=i) for i in range(90)]
    found = screen.from_names(pd.Index(names))
    assert (found is None) == (kinds is None) and (kinds is None or sorted(found.unique()) == kinds)


def test_repeats_of_a_file_are_left_out_on_the_way_to_models(raw, tmp_path, monkeypatch):
    """Before normalising, whoever asks for the file; the published sets are used as they were published."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    both = joined(some(raw), some(raw))
    both.obs.loc[both.obs_names[:7], "cell_type"] = "Dendritic"
    both.obs["cell_type"] = both.obs["cell_type"].astype(str)
    both.obs.iloc[120:127, 0] = "unknown"  # the same cells as the first seven: no label contradicts another
    del both.uns["dataset"]
    both.write_h5ad(tmp_path / "mine.h5ad")
    data = {"dataset": str(tmp_path / "mine.h5ad"), "label": None, "vocabulary": None, "min_genes": 1, "library_size": None}
    prepared = selection.prepared(data)
    report = prepared.uns["alignment"]
    assert prepared.n_obs == 120 and report["repeats"] == 113 and report["no_label"] == {"unknown": 7}


def test_cells_without_a_label_are_counted(raw):
    """As the card counts them, word by word."""
    adata = some(raw)
    adata.obs.loc[adata.obs_names[:9], "cell_type"] = np.nan
    adata.uns["dataset"]["no_label"] = {"Unknown": 6, "doublet": 3}
    kept, report = screen.labelled(adata)
    assert kept.n_obs == 111 and report == {"no_label": {"Unknown": 6, "doublet": 3}} and adata.n_obs == 120
    assert screen.labelled(some(raw))[1] == {}


@pytest.mark.parametrize(
    "values, words",
    [
        (None, "no column 'donor'.*Columns of obs: cell_type"),
        (["a"] * 120, "All cells.*one 'donor', 'a'"),
        (["a"] * 60 + [None] * 4 + ["b"] * 56, "4 of 120 cells.*have no 'donor'.*Fill it in"),
    ],
)
def test_columns_that_cannot_keep_cells_apart(raw, values, words):
    with pytest.raises(DataError, match=words):
        screen.grouped(some(raw, **({} if values is None else {"donor": values})), "donor", "mine.h5ad")


def test_types_of_one_donor_are_set_aside(raw):
    """They could not be on both sides; every type that is left is, and no donor is."""
    adata = some(raw, 700)
    donor = np.random.RandomState(0).choice(list("pqrs"), 700)
    donor[(adata.obs["cell_type"] == "CD34+").to_numpy()] = "q"
    adata.obs["donor"] = donor
    kept, aside = screen.on_both_sides(adata, SPLIT | {"group": "donor"})
    assert (
        aside == {"CD34+": int((adata.obs["cell_type"] == "CD34+").sum())}
        and "CD34+" not in kept.obs["cell_type"].cat.categories
    )
    codes = kept.obs["cell_type"].cat.codes.to_numpy(np.int64)
    train, test = splits.holdout(codes, **SPLIT, group="donor", groups=kept.obs["donor"])
    assert set(codes[train]) == set(codes[test]) == set(codes)
    assert not set(kept.obs["donor"].iloc[train]) & set(kept.obs["donor"].iloc[test])


def test_a_column_that_says_the_type_is_refused(raw):
    """Each type of one library only: which of the two a classifier knows cannot be told."""
    adata = some(raw, 700)
    adata.obs["library"] = adata.obs["cell_type"].astype(str)
    assert not screen.divides(adata, SPLIT, "library")
    with pytest.raises(DataError, match="0 of 10 cell types occur in more than one 'library'.*says what the type is"):
        screen.on_both_sides(adata, SPLIT | {"group": "library"})


@pytest.mark.parametrize(
    "name, values, found",
    [
        ("donor_id", list("abcd") * 30, True),
        ("Donor", list("abcd") * 30, True),
        ("orig.ident", ["run 1", "run 2"] * 60, True),
        ("library_uuid", list("abc") * 40, True),
        ("sample", [1, 2, 3] * 40, True),
        ("patient", [f"p{i}" for i in range(120)], False),
        ("donor_age", list("abcd") * 30, False),
        ("batch", ["one"] * 120, False),
        ("samples_seen", [1, 2, 3] * 40, False),
        ("subject", ["a", "b", None] * 40, False),
    ],
)
def test_columns_that_look_like_groups(raw, name, values, found):
    """By name, and by the number of their values; one value, or one for each cell, divides nothing."""
    assert screen.group_columns(some(raw, **{name: values}).obs) == ([name] if found else [])


def test_the_surest_column_comes_first(raw):
    columns = {"batch": ["x", "y"] * 60, "sample_name": list("abc") * 40, "donor_id": list("pqrs") * 30}
    assert screen.group_columns(some(raw, **columns).obs) == ["donor_id", "sample_name", "batch"]


def test_groups_are_kept_with_the_cells_and_change_what_they_are_known_by(raw, tmp_path, monkeypatch):
    """Without a group all is as it was; with one, the same cells are other cells, since they are divided otherwise."""
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    adata = some(raw, donor=list("abcd") * 30)
    adata.obs["cell_type"] = pd.Categorical(["B", "T", "B", "T", "T", "B", "T", "B"] * 15)
    catalogued = {"dataset": "mine", "label": None, "vocabulary": None, "min_genes": 1, "library_size": None}
    plain, grouped = (selection.prepared(catalogued, split, adata) for split in (SPLIT, SPLIT | {"group": "donor"}))
    names = [cells.store(each) for each in (plain, grouped)]
    assert names[0] != names[1] and cells.read(names[0]).groups is None
    assert list(cells.read(names[1]).groups) == list("abcd") * 30
    plain.uns["alignment"].pop("group", None)
    assert cells.store(plain) == cells.store(preprocess.prepare(adata, min_genes=1)) == names[0]
    assert catalogue.CARDS and "group" not in plain.uns["alignment"]
