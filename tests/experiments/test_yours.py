"""Notebook 06's parts: a file sized to the machine, an answer in a sentence, and anyone's model beside ours."""

import functools

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib import settings
from lib.errors import DataError
from lib.evaluate import differences, measures, words
from lib.experiments import classifiers, inventory, notes, profiles, runs, specs, yours
from lib.prepare import cells


@pytest.fixture(autouse=True, scope="module")
def the_machine_is_timed_once():
    """A step of each size of model: it would take most of each test's time."""
    measured = functools.cache(lambda size, really=yours._seconds_a_token: really({"size": dict(size)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yours, "_seconds_a_token", lambda profile: measured(tuple(profile["size"].items())))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "cache"))
    cells.read.cache_clear()
    return tmp_path


@pytest.fixture
def file(cache):
    """A real file: 300 of scanpy's cells as counts, two of its types made rare."""
    from lib.datasets import catalogue

    adata = catalogue.load("pbmc68k_reduced")
    order = np.argsort(adata.obs["cell_type"].cat.codes.to_numpy(), kind="stable")
    adata = adata[np.sort(order[:: len(order) // 300])].copy()
    del adata.obs["n_counts"], adata.uns["dataset"]
    adata.obs = adata.obs[["cell_type"]].rename(columns={"cell_type": "1"})  # a name that YAML would read as a number
    path = cache / "mine.h5ad"
    adata.write_h5ad(path)
    return path, adata


def test_profile_for_a_file(file):
    """Rare types are set aside and counted, sizes fit and are remembered, genes come from the file."""
    path, adata = file
    chosen = yours.load("smoke", path, "1", minutes=5)
    counts = adata.obs["1"].value_counts()
    rare = {name: count for name, count in counts.items() if count < yours.MIN_CELLS}
    assert rare and chosen["adata"].uns["alignment"]["set_aside"] == rare
    assert chosen["adata"].n_obs == sum(count for count in counts if count >= yours.MIN_CELLS)
    assert set(chosen["adata"].var_names) <= set(adata.var_names)
    assert chosen["name"] == "mine-smoke" and chosen["reproduces"] is None
    assert "sizing" in chosen["adata"].uns and all(f * 0.7 * chosen["adata"].n_obs >= 50 or f == 1 for f in chosen["fractions"])
    again = yours.load("smoke", path, "1", minutes=5)
    assert again["fingerprint"] == chosen["fingerprint"]


def test_another_data_set_in_a_profile(file):
    """An override of ``dataset``: other cells, a folder of figures of its own, what the profile says for that data set."""
    adata = file[1].copy()
    adata.obs["n_counts"], adata.obs["cell_type"] = np.asarray(adata.X.sum(1)).ravel(), adata.obs["1"]
    path = file[0].with_name("others.h5ad")
    adata.write_h5ad(path)
    chosen = profiles.load("smoke", dataset=str(path))
    assert chosen["name"] == "others-smoke" == profiles.figures("smoke", str(path)) and chosen["data"]["dataset"] == str(path)
    assert set(chosen["adata"].obs_names) <= set(adata.obs_names)
    assert profiles.load("smoke")["name"] == "smoke"
    paper = profiles.read("paper")
    assert all(paper["for_dataset"][name]["reproduces"] == name for name in ("macparland", "macparland_unmerged"))


def test_less_time_fewer_cells(file, monkeypatch):
    """Little time: fewer cells and genes, ten cells of each type and otherwise in proportion; more time: all of them."""
    path, _ = file
    monkeypatch.setattr(yours, "_seconds_a_token", lambda profile: 1e-3)
    monkeypatch.setattr(yours, "SIZES", [(200, 700), (150, 400), (120, 300)])
    little, much = (yours.load("smoke", path, "1", minutes=m)["adata"] for m in (0.01, 1e6))
    types, all_types = (a.obs["cell_type"].value_counts() for a in (little, much))
    assert little.shape == (120, 300) and much.shape == (200, 700)
    assert little.uns["alignment"]["set_aside"] == much.uns["alignment"]["set_aside"] and set(types.index) == set(
        all_types.index
    )
    assert types.min() == yours.MIN_CELLS
    free = types[types > yours.MIN_CELLS]
    assert (free - free.sum() / all_types[free.index].sum() * all_types[free.index]).abs().max() <= 1.5


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"minutes": 0}, "minutes is 0"),
        ({"minutes": "ten"}, "minutes is 'ten'. Give a number"),
        ({"minutes": True}, "minutes is True. Give a number"),
        ({"min_genes": "many"}, "min_genes is 'many'. Give a number"),
        ({"min_genes": 2.5}, "min_genes is 2.5. Give a number"),
        ({"min_genes": 2000}, "all 350 were dropped.*none has 2000.*-p min_genes N"),
        ({"min_genes": 340}, r"\d+ of 350 cells were dropped, since they show fewer than 340 genes.*-p min_genes N"),
        ({"min_cells_per_type": 1}, "min_cells_per_type is 1. Give 2 or more"),
        ({"min_cells_per_type": 150}, r"0 of 10 cell types have 150 cells or more.*-p min_cells_per_type N; now 150"),
        ({"group": "donor"}, "no column 'donor' to keep groups of cells apart by"),
        ({"label": "kind"}, "no label column 'kind'"),
        ({"data": "nowhere.h5ad"}, "no file at that path"),
    ],
)
def test_refusals(file, arguments, words):
    """What cannot be used is named."""
    with pytest.raises(DataError, match=words):
        yours.load(**({"profile": "smoke", "data": file[0], "label": "1", "minutes": 5} | arguments))


def test_one_common_type_is_refused(file):
    """A column with a value for nearly every cell is no cell type."""
    path, adata = file
    adata.obs["id"] = adata.obs_names
    adata.write_h5ad(path)
    with pytest.raises(DataError, match="Is the label column right"):
        yours.load("smoke", path, "id", minutes=5)


def test_empty_cells_and_the_matrix_are_reported(file):
    """A panel of genes with empty cells, counts in a layer: the cells are dropped by type, the table says what was taken."""
    import anndata

    path, adata = file
    counts = adata.X.toarray()
    counts[[3, 8]] = 0
    scaled = anndata.AnnData(np.float32((counts - counts.mean(0)) / (counts.std(0) + 1)), obs=adata.obs, var=adata.var)
    scaled.layers["counts"] = sp.csr_matrix(counts)
    scaled.write_h5ad(path)
    chosen = yours.load("smoke", path, "1", minutes=5)
    report = chosen["adata"].uns["alignment"]
    assert (
        report["dropped_cells"] == 2
        and report["dropped"] == adata.obs["1"].iloc[[3, 8]].value_counts()[lambda n: n > 0].to_dict()
    )
    table = profiles.describe(chosen).data[""]
    assert table["matrix"].startswith("layers['counts']: raw counts (") and "are negative" in table["matrix"]
    assert "gene names" not in table and table["values found"] == "counts"


def test_a_model_that_learnt_nothing_is_said():
    """The answer gets a caveat unless scBERT is ahead of the majority class for certain."""
    assert words.caveat({"low": 0.1, "high": 0.3}) == ""
    for low in (-0.2, 0.0):
        assert "not shown to be ahead of the majority class" in words.caveat(
            {"low": low, "high": 0.3}
        ) and "quick" in words.caveat({"low": low, "high": 0.3})


@pytest.mark.parametrize(
    "low, high, said",
    [
        (0.01, 0.05, "On your 99 cells logistic regression is ahead of scBERT**: +3.0 points of accuracy"),
        (-0.05, -0.01, "On your 99 cells logistic regression is behind scBERT**: -3.0 points"),
        (-0.01, 0.05, "it is undecided whether logistic regression or scBERT is ahead"),
    ],
)
def test_the_answer(low, high, said):
    """Who is ahead follows the interval, and the interval is in the sentence."""
    text = words.describe(
        {"difference": (low + high) / 2, "low": low, "high": high, "p": 0.04, "n_cells": 20, "n_seeds": 3},
        "logistic regression",
        "scBERT",
        "On your 99 cells",
    )
    assert said in text and f"{100 * low:+.1f} to {100 * high:+.1f}" in text


def test_evaluate_is_the_stored_run(cache):
    """Our logistic regression, brought as if it were a stranger's, gives the probabilities of the stored runs."""
    chosen = profiles.load("smoke")
    stored = runs.complete(specs.cell_types(chosen, ["logistic_regression", "majority"]))
    settings = chosen["logistic_regression"]
    mine = yours.evaluate(lambda: classifiers.LogisticRegression(**settings), chosen, "mine")
    ours = [run for run in stored if run.spec["arm"] == "logistic_regression"]
    for a, b in zip(mine, ours, strict=True):
        assert np.array_equal(a.predictions["test"], b.predictions["test"])
        assert np.allclose(a.predictions["probabilities"], b.predictions["probabilities"], atol=1e-6)
    assert differences.paired_difference(mine, ours)["difference"] == 0
    assert set(measures.table(mine)["arm"]) == {"mine"}


class Wrong:
    """A stranger's model with one fault."""

    def __init__(self, **faults):
        self.faults = faults

    def fit(self, x, labels, seed):
        self.classes_ = self.faults.get("classes", np.unique(labels))
        self.width = len(np.unique(labels))

    def predict_proba(self, x):
        value = self.faults.get("value", 1 / self.width)
        return np.full((x.shape[0], self.faults.get("width", self.width)), value)


@pytest.mark.parametrize(
    "make, words",
    [
        (object, "no method fit"),
        (lambda: Wrong(width=2), r"gave an array of shape .*must be"),
        (lambda: Wrong(value=0.9), "rows summing to"),
        (lambda: Wrong(classes=np.array(["a", "b"])), "must hold labels that fit was given"),
        (lambda: Wrong(classes=np.array([0, 0])), "each once"),
    ],
)
def test_a_model_that_breaks_the_protocol_is_refused(cache, make, words):
    """With its name, what it gave and what is expected."""
    with pytest.raises(DataError, match=words):
        yours.evaluate(make, profiles.load("smoke"), "theirs")


@pytest.fixture
def case(shared, cache):
    """A file like those of readers, by its name's beginning; skips where these are not."""

    def find(start):
        found = sorted((shared.parent / "cases").glob(f"{start}*"))
        return found[0] if found else pytest.skip(f"no file {start} beside the real data files")

    return find


def small(raw, n=150, genes=None, seed=0, **columns):
    """Some of scanpy's cells as a file of a reader's."""
    import anndata

    kept = raw[np.random.RandomState(seed).permutation(raw.n_obs)[:n], genes if genes is not None else slice(None)]
    obs = pd.DataFrame({"cell_type": kept.obs["cell_type"].astype(str)} | columns, index=kept.obs_names)
    return anndata.AnnData(kept.X.copy(), obs=obs, var=kept.var[[]].copy())


def test_a_panel_keeps_its_cells(case, raw, cache):
    """1,177 features of which a cell shows 100 to 200: no sign of a bad cell. Nor are 60 genes of 90 measured ones."""
    assert yours.load("smoke", case("12_panel"), minutes=1e6)["adata"].n_obs == 250
    adata = small(raw, 300, np.random.RandomState(1).permutation(raw.n_vars)[:90])
    adata.write_h5ad(cache / "panel.h5ad")
    chosen = yours.load("smoke", cache / "panel.h5ad", minutes=1e6)
    rare = sum(count for count in adata.obs["cell_type"].value_counts() if count < 10)
    assert chosen["adata"].n_obs == 300 - rare and chosen["adata"].uns["alignment"]["dropped_cells"] == 0
    assert "a selection" in profiles.describe(chosen).data[""]["cells dropped"]


def test_a_selection_that_the_reader_knows_of(raw, cache, monkeypatch):
    """What reading says of the matrix decides over the number of genes; a limit that is given decides over both."""
    wide = small(raw, 200)
    more = sp.csr_matrix((200, 7500 - wide.n_vars), dtype=np.float32)
    import anndata

    names = [*wide.var_names, *(f"QUIET{i}" for i in range(more.shape[1]))]
    adata = anndata.AnnData(sp.hstack([wide.X, more], format="csr"), obs=wide.obs, var=pd.DataFrame(index=names))
    few = int((np.diff(adata.X.indptr) < 200).sum())
    adata.write_h5ad(cache / "wide.h5ad")
    load = yours.catalogue.load
    assert few and yours.load("smoke", cache / "wide.h5ad", minutes=1e6)["adata"].uns["alignment"]["dropped_cells"] == few

    def selected(*arguments):
        read = load(*arguments)
        read.uns["dataset"]["selection"] = True
        return read

    monkeypatch.setattr(yours.catalogue, "load", selected)
    assert yours.load("smoke", cache / "wide.h5ad", minutes=1e6)["adata"].uns["alignment"]["dropped_cells"] == 0
    strict = yours.load("smoke", cache / "wide.h5ad", minutes=1e6, min_genes=200)
    assert strict["adata"].uns["alignment"]["dropped_cells"] == few
    assert any(f"{few} cells show fewer than 200 genes and are dropped" in note for note in strict["notes"])


@pytest.mark.parametrize("scale", ["counts", "logarithms", "sums"])
def test_the_reader_knows_the_totals(raw, cache, monkeypatch, scale):
    """Totals over all genes that reading found serve, for counts as for logarithms: those normalised before selecting."""
    import anndata

    adata = small(raw, 150)
    total = np.asarray(adata.X.sum(1)).ravel()
    whole = anndata.AnnData(np.log1p(adata.X.toarray() * (1e4 / total)[:, None]), obs=adata.obs, var=adata.var)
    chosen = np.arange(0, raw.n_vars, 2)
    part = (adata if scale == "counts" else whole)[:, chosen].copy()
    part.write_h5ad(cache / "part.h5ad")
    load = yours.catalogue.load

    def known(*arguments):
        read = load(*arguments)
        read.obs["library_size"] = np.full(150, 1e4) if scale == "sums" else total
        read.uns["dataset"] |= {"selection": True, "library_size_from": "obs['n_counts']"}
        return read

    monkeypatch.setattr(yours.catalogue, "load", known)
    got = yours.load("smoke", cache / "part.h5ad", minutes=1e6)
    expected = whole[got["adata"].obs_names, got["adata"].var_names].X / np.log(2)
    np.testing.assert_allclose(got["adata"].X.toarray(), expected, atol=1e-3)
    assert profiles.describe(got).data[""]["library size from"] == "obs['n_counts']"


def test_totals_that_do_not_fit_stop_nothing(raw, cache, monkeypatch):
    """A column that nobody asked for must not stop a file of logarithms; what was done instead is said."""
    adata = small(raw, 150)
    adata.X = np.log1p(adata.X.toarray() * (1e4 / adata.X.toarray().sum(1))[:, None])
    adata.write_h5ad(cache / "part.h5ad")
    load = yours.catalogue.load

    def unknown(*arguments):
        read = load(*arguments)
        del read.uns["dataset"]["library_size_from"]
        return read

    def known(*arguments):
        read = load(*arguments)
        read.obs["library_size"] = np.random.RandomState(0).uniform(10, 9000, 150)
        read.uns["dataset"]["library_size_from"] = "obs['n_counts']"
        return read

    monkeypatch.setattr(yours.catalogue, "load", unknown)
    expected = yours.load("smoke", cache / "part.h5ad", minutes=1e6)["adata"]
    monkeypatch.setattr(yours.catalogue, "load", known)
    got = yours.load("smoke", cache / "part.h5ad", minutes=1e6)
    assert (got["adata"].X != expected.X).nnz == 0
    assert "do not fit" in profiles.describe(got).data[""]["library size from"]


def test_cells_that_occur_twice(case, raw, cache):
    """Half of the file's cells are the other half under other names: each is used once, and that is said."""
    chosen = yours.load("smoke", case("13a"), minutes=1e6)
    assert chosen["adata"].n_obs == 114 and chosen["adata"].uns["alignment"]["set_aside"] == {
        "CD4+/CD25 T Reg": 8,
        "CD56+ NK": 8,
    }
    assert chosen["notes"][0].startswith("130 of 260 cells repeat another cell")
    import anndata

    part = small(raw, 200)
    anndata.concat([part, part[60:100]], index_unique="-").write_h5ad(cache / "joined.h5ad")
    chosen = yours.load("smoke", cache / "joined.h5ad", minutes=1e6)
    assert chosen["notes"][0].startswith("40 of 240 cells repeat another cell") and chosen["adata"].obs_names.is_unique
    assert profiles.describe(chosen).data[""]["cells repeated"] == "40, each used once"


def test_labels_that_mean_none(case, raw, cache):
    """They are not learnt, are counted, and labels that look like one are named."""
    chosen = yours.load("smoke", case("14_"), minutes=1e6)
    assert "Unknown" not in chosen["adata"].obs["cell_type"].cat.categories
    assert chosen["notes"][0] == "98 of 250 cells have no cell type and are set aside: Unknown (98)."
    adata = small(raw, 300)
    adata.obs.iloc[:11, 0], adata.obs.iloc[11:13, 0], adata.obs.iloc[13, 0] = "doublet", "n/a", None
    monocytes = np.flatnonzero(adata.obs["cell_type"] == "CD14+ Monocyte")
    adata.obs.iloc[monocytes[:12], 0] = "CD14+ monocyte"
    adata.write_h5ad(cache / "mixed.h5ad")
    chosen = yours.load("smoke", cache / "mixed.h5ad", minutes=1e6)
    assert chosen["notes"][0] == "14 of 300 cells have no cell type and are set aside: doublet (11), n/a (2), (missing) (1)."
    assert "'CD14+ Monocyte' (" in chosen["notes"][1] and "'CD14+ monocyte' (12 cells) differ in capitals" in chosen["notes"][1]
    assert {"CD14+ Monocyte", "CD14+ monocyte"} <= set(chosen["adata"].obs["cell_type"])


@pytest.mark.parametrize("minutes", [0.01, 1, 1e6])
@pytest.mark.slow
def test_many_even_types_and_few_minutes(case, minutes):
    """Ten cells of each of sixty types, whatever the minutes; how many minutes that takes is said with the file's numbers."""
    chosen = yours.load("quick", case("31a"), minutes=minutes)
    counts = chosen["adata"].obs["cell_type"].value_counts()
    assert len(counts) == 60 and counts.min() >= 10
    table = profiles.describe(chosen).data[""]
    assert table["types set aside"] == "none" and "720 in the file" in table["cells used"]
    if minutes == 0.01:
        assert counts.max() == 10 and "state 0 (10 of 12)" in table["cell types"]
        assert any(
            "10 cells of each of the 60 types are needed" in note and "minutes here, not 0.01" in note
            for note in chosen["notes"]
        )


def test_rare_types_beside_a_common_one_and_few_minutes(raw, cache, monkeypatch):
    """A second file of the kind: drawn by proportion its rare types would be gone, and the label column blamed."""
    adata = small(raw, 650)
    largest = adata.obs["cell_type"].value_counts().index[0]
    adata.obs["cell_type"] = [f"rare {i % 5}" if i < 60 else largest for i in range(650)]
    adata.write_h5ad(cache / "rare.h5ad")
    monkeypatch.setattr(yours, "SIZES", [(100, 300), (60, 100)])
    chosen = yours.load("smoke", cache / "rare.h5ad", minutes=1e-6)
    counts = chosen["adata"].obs["cell_type"].value_counts()
    assert chosen["adata"].n_obs == 60 and set(counts) == {10} and len(counts) == 6
    assert f"{largest} (10 of 590)" in profiles.describe(chosen).data[""]["cell types"]


def test_two_questions_never_share_a_folder(raw, cache):
    """The plain name for whoever comes first; another file of that name, label or group has another, always the same."""
    names = {}
    for place in ("one", "two"):
        (cache / place).mkdir()
        adata = small(raw, 150, seed=len(place) + (place == "two"), donor=list("abc") * 50)
        adata.obs["fine/type"] = adata.obs["cell_type"]
        adata.write_h5ad(cache / place / "cells.h5ad")
    for asked in (
        ("one", None, None),
        ("one", "fine/type", None),
        ("one", None, "donor"),
        ("two", None, None),
        ("two", "fine/type", None),
    ):
        place, label, group = asked
        names[asked] = yours.load("smoke", cache / place / "cells.h5ad", label, 1e6, group=group)["name"]
    assert len(set(names.values())) == len(names)
    assert names["one", None, None] == "cells-smoke" and names["one", "fine/type", None] == "cells-fine_type-smoke"
    assert names["one", None, "donor"] == "cells-donor-smoke" and names["two", None, None].startswith("cells-")
    for (place, label, group), name in names.items():
        assert profiles.figures("smoke", cache / place / "cells.h5ad", label, None, group) == name
        assert name.endswith("-smoke") and "/" not in name
    assert profiles.figures("smoke", cache / "one" / "cells.h5ad", "cell_type") == "cells-smoke"  # the label that is meant
    moved = (cache / "one" / "cells.h5ad").rename(cache / "cells.h5ad")
    assert profiles.figures("smoke", moved) == "cells-smoke"
    assert profiles.figures("quick") == "quick" and profiles.figures("quick", "liver") == "liver-quick"


@pytest.mark.slow
def test_rubbish_in_place_of_what_was_decided_is_decided_again(raw, cache):
    """The plan of sizes, its seal, and the table of folders: loaded again, cells and names are what they were."""
    small(raw, 150).write_h5ad(cache / "cells.h5ad")
    before = yours.load("smoke", cache / "cells.h5ad", minutes=1e6)
    [plan], folders = cache.rglob("plans/*.json"), cache / "cache" / "figures.json"
    seal = plan.with_name(f"{plan.name}.sha256")
    for rubbish, paths in [
        (b"", [plan]),
        (b"\0" * 50, [plan, seal]),
        (b"", [seal, folders]),
        (b"{", [folders]),
        (b"[1]", [folders]),
    ]:
        for path in paths:
            assert path.is_file()
            path.write_bytes(rubbish)
        after = yours.load("smoke", cache / "cells.h5ad", minutes=1e6)
        assert (after["fingerprint"], after["name"], after["plan"]) == (before["fingerprint"], before["name"], before["plan"])
    assert [where for _, where, wrong in inventory.verify() if wrong] == []


def test_what_is_said_before_the_runs_and_after_the_answer(donors, monkeypatch):
    """The time, how many runs and how much of the file; which scBERT it was; what to do next."""
    monkeypatch.setattr(yours, "_seconds_a_token", lambda profile: 1e-3)
    monkeypatch.setattr(yours, "SIZES", [(400, 700), (300, 400), (200, 300)])
    chosen = yours.load("smoke", donors[0], minutes=1)
    plan, (cells_, genes) = chosen["plan"], chosen["could_be"]
    assert plan["cells"] < cells_ and plan["genes"] < genes
    asked = specs.cell_types(chosen, ["logistic_regression", "full"], chosen["fractions"], chosen["few_shot_seeds"])
    work = notes.about_work(chosen | {"plan": plan | {"minutes": 4.321}}, asked + asked)
    number = len(asked) + 1  # a pre-training serves all; what is asked for twice is computed once
    shape = [f"{n:,}" for n in chosen["adata"].shape]
    assert work.startswith(f"About 4.3 minutes if none is stored: {number} runs")
    assert work.endswith(f"; {shape[0]} of {cells_:,} cells × {shape[1]} of {genes:,} genes.")
    more, apart, others = notes.next_steps(chosen, "0123abcd")
    assert f"{plan['cells']:,} of {cells_:,} cells" in more and more.endswith("`-p minutes 4`.")
    assert "`-p group donor_id`" in apart and "lib.predict other_cells.h5ad --model 0123abcd" in others
    assert "8 wide, 2 layers" in notes.about_model(chosen) and "your own training cells alone" in notes.about_model(chosen)
    assert notes.about_model(chosen | {"pretraining": chosen["pretraining"] | {"checkpoint": "published"}}) == ""


def test_of_the_profiles_own_cells_the_next_step_is_the_readers(cache):
    [step] = notes.next_steps(yours.load("smoke"), "0123abcd")
    assert step == "Your own cells: `./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type`."


@pytest.fixture
def donors(raw, cache):
    """Cells of five donors, one type of one of them only; a batch that goes with the donor."""
    donor = np.random.RandomState(3).choice(list("pqrst"), 400)
    adata = small(raw, 400, donor_id=donor, batch=np.where(np.isin(donor, ["p", "q"]), "first", "second"))
    alone = np.flatnonzero(adata.obs["cell_type"] == "CD56+ NK")
    adata.obs.iloc[alone, adata.obs.columns.get_loc("donor_id")] = "q"
    adata.write_h5ad(cache / "donors.h5ad")
    return cache / "donors.h5ad", adata


def test_a_column_that_looks_like_donors_is_named(donors):
    """With the parameter that keeps them apart, and the same cells divided so; not where the column is used already."""
    path, _ = donors
    chosen = yours.load("smoke", path, minutes=1e6)
    assert chosen["groups"] == ["donor_id", "batch"] and chosen["time_apart"]
    assert "'donor_id' (5 values)" in chosen["notes"][-1] and "-p group donor_id" in chosen["notes"][-1]
    assert not yours.load("smoke", path, minutes=1e-6)["time_apart"]
    other = yours.apart(chosen)
    assert other["split"]["group"] == "donor_id" and "group" not in chosen["split"]
    assert set(other["adata"].obs_names) <= set(chosen["adata"].obs_names)
    assert set(other["adata"].uns["alignment"]["one_sided"]) == {"CD56+ NK"} and "CD56+ NK" in other["notes"][0]
    used = yours.load("smoke", path, minutes=1e6, group="donor_id")
    assert used["fingerprint"] == other["fingerprint"] and used["groups"] == [] and used["name"] != chosen["name"]
    assert "of 5 'donor_id'" in profiles.describe(used).data[""]["held out"]
    assert "of the 5 values of 'donor_id', none of whose cells was learnt from," in yours.where(used)
    assert yours.where(chosen) == f"On your {chosen['adata'].n_obs} cells"


def test_a_column_that_is_the_type_is_said_to_be(raw, cache):
    """As where each type was sorted and sequenced by itself: no split can tell, and none is offered."""
    adata = small(raw, 300)
    adata.obs["library_id"] = "lib " + adata.obs["cell_type"]
    adata.write_h5ad(cache / "sorted.h5ad")
    chosen = yours.load("smoke", cache / "sorted.h5ad", minutes=1e6)
    assert chosen["groups"] == [] and "'library_id' looks as if" in chosen["notes"][-1] and "no split" in chosen["notes"][-1]


def test_donors_that_only_the_names_tell(raw, cache):
    """Are said, with what to do; not where a column tells them, and not as a way out where they are the types."""
    adata = small(raw, 300)
    barcodes = ["".join(np.random.RandomState(i).choice(list("ACGT"), 16)) for i in range(300)]

    def told(names, **columns):
        adata.obs_names = names
        named = adata.copy()
        named.obs = named.obs.assign(**columns)
        named.write_h5ad(cache / "names.h5ad")
        return [note for note in yours.load("smoke", cache / "names.h5ad", minutes=1e6)["notes"] if "cells' names" in note]

    donors = [f"{barcode}-{1 + i % 3}" for i, barcode in enumerate(barcodes)]
    (note,) = told(donors)
    assert "3 kinds (…-1, …-2, …-3)" in note and "-p group sample" in note
    assert told(donors, donor=[name[-1] for name in donors]) == []
    (note,) = told([f"{kind}_{barcode}" for kind, barcode in zip(adata.obs["cell_type"], barcodes)])
    assert "Nearly every type" in note and "-p group" not in note


def test_cells_processed_twice_are_said(raw, cache):
    adata = small(raw, 300)
    again = adata.copy()
    again.X = sp.csr_matrix(again.X)
    again.X.data += np.random.RandomState(0).randint(0, 2, again.X.nnz).astype(np.float32)
    again.obs_names = [f"{name}x" for name in again.obs_names]
    anndata.concat([adata, again]).write_h5ad(cache / "near.h5ad")
    (note,) = [note for note in yours.load("smoke", cache / "near.h5ad", minutes=1e6)["notes"] if "nearly repeat" in note]
    assert note.startswith("About ") and "known by heart" in note


@pytest.mark.slow
def test_no_donor_on_two_sides_of_anything(donors):
    """Of a split, of a few labels, of the fifth by which scBERT's training ends; for ours and for a stranger's model."""
    chosen = yours.load("smoke", donors[0], minutes=1e6, group="donor_id") | {"protocol": "clean"}
    stored = cells.read(chosen["fingerprint"])
    done = runs.complete(specs.cell_types(chosen, ["logistic_regression", "head_only"], [0.3, 1.0], [0, 1]))
    assert all(run.spec["split"]["group"] == "donor_id" for run in done)
    for run in done:
        sides = [set(stored.groups[run.predictions[side]]) for side in ("train", "select", "test") if side in run.predictions]
        assert len(sides) == (3 if run.spec["model"] == "scBERT" else 2) and all(sides)
        assert sum(map(len, sides)) == len(set().union(*sides))
        assert set(run.predictions["labels"]) <= set(stored.labels[run.predictions["train"]]) or run.spec["fraction"] < 1
    told = []

    class Model(classifiers.LogisticRegression):
        def fit(self, x, labels, seed=0, groups=None):
            told.append(groups)
            return super().fit(x, labels, seed, groups)

    mine = yours.evaluate(lambda: Model(**chosen["logistic_regression"]), chosen, "mine", [0, 1])
    ours = [run for run in done if run.spec["arm"] == "logistic_regression" and run.spec["fraction"] == 1]
    for a, b, groups in zip(mine, ours, told, strict=True):
        assert np.array_equal(a.predictions["test"], b.predictions["test"])
        assert np.allclose(a.predictions["probabilities"], b.predictions["probabilities"], atol=1e-6)
        assert list(groups) == list(stored.groups[a.predictions["train"]])


@pytest.mark.slow
def test_one_command_for_a_file(file, tmp_path):
    """From another folder, a relative path and a label column called 1: figures in a folder of the file's own."""
    import os
    import subprocess

    path, _ = file
    process = subprocess.run(
        [settings.ROOT / "run_all.sh", "--profile", "smoke", "--only", "06", "-p", "data", path.name, "-p", "label", "1"],
        cwd=path.parent,
        env=os.environ | {"SCBERT_CACHE": str(tmp_path / "cache"), "SCBERT_FIGURES": str(tmp_path / "figures")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    target = tmp_path / "figures" / "mine-smoke"
    assert (target / "06_few_shot.png").exists() and not (tmp_path / "figures" / "smoke").exists()
    book = (target / "notebooks" / "06_your_data.ipynb").read_text()
    assert "On your" in book and "95 % interval" in book and "of the labels." in book and "training cells alone" in book


@pytest.mark.slow
def test_a_bad_file_ends_with_its_message(cache):
    """Through run_all.sh: not status 0, and the last line says what is wrong, without a traceback in it."""
    import os
    import subprocess

    (cache / "notes.h5ad").write_text("not a matrix")
    process = subprocess.run(
        [settings.ROOT / "run_all.sh", "--profile", "smoke", "--only", "06", "-p", "data", "notes.h5ad"],
        cwd=cache,
        env=os.environ | {"SCBERT_FIGURES": str(cache / "figures")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 2 and not (cache / "figures").exists()
    assert "notes.h5ad is not an .h5ad file" in process.stderr.strip().splitlines()[-1]
