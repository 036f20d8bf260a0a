"""Specifications: which runs a profile asks for, and that asking opens nothing."""

import json
import socket

import anndata
import numpy as np
import pandas as pd
import pytest

from lib.arms import CONTROLS, FACTORIAL, factors
from lib.errors import DataError
from lib.experiments import profiles, specs, store

LADDER = sorted(path.stem for path in profiles.FOLDER.glob("*.yaml"))


def everything(profile):
    """All that the notebooks ask of a profile."""
    arms = ["logistic_regression", "full", "no_pretraining", "no_gene2vec", "majority"]
    wanted = specs.cell_types(profile, arms) + specs.few_shot(profile)
    for part in (specs.masked, specs.representations, specs.controls, specs.other_protocol, specs.repeated, specs.factorial):
        wanted += part(profile)
    wanted += specs.pretraining_effect(profile) + specs.unknown(profile)
    wanted += sum(specs.few_labels(profile).values(), [])
    wanted += sum(specs.corpora(profile).values(), [])
    return wanted + specs.external({"dataset": "elsewhere", "fingerprint": "1"}, wanted[:3])


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("checkpoint", [None, "original", {"sha256": "0", "_path": "/nowhere/own.pth"}])
@pytest.mark.parametrize("corpus", [None, "panglao", {"sha256": "0", "_path": "/nowhere/own.h5ad"}])
def test_describing_runs_opens_nothing(name, checkpoint, corpus, tmp_path, monkeypatch):
    """Without a network, downloads and a cache that could be written, all runs of a rung have a name."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path / "file" / "cache"))  # below a file no folder can be made
    monkeypatch.delenv("SCBERT_DATA_DIR", raising=False)
    monkeypatch.delenv("SCBERT_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was asked"))
    obs = pd.DataFrame({"cell_type": pd.Categorical(["A", "B", "B"])}, index=["c1", "c2", "c3"])
    profile = profiles.read(name) | {"adata": anndata.AnnData(np.ones((3, 4), np.float32), obs=obs), "fingerprint": "0"}
    profile |= {"depths": "0", "gene_embedding": "gene2vec", "gene2vec": "0"}
    profile["pretraining"] |= {"checkpoint": checkpoint, "corpus": corpus}
    wanted = everything(profile)
    names = {store.run_id(spec): json.loads(json.dumps(spec)) for spec in wanted}
    assert len(names) > 60 and {spec["task"] for spec in names.values()} == store.TASKS.keys() - {"pretraining"}
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]
    own, without = (specs.cell_types(profile, [arm])[0]["pretraining"] for arm in ("full", "no_gene2vec"))
    assert own.get("checkpoint") == checkpoint and "checkpoint" not in without
    assert without.get("corpus") == (corpus and {"file": corpus, "min_genes": max(1, profile["data"]["min_genes"])})


def test_unknown_arms_are_refused(profile):
    with pytest.raises(DataError, match="no arm 'gpt'.*full"):
        specs.cell_types(profile, ["gpt"])


def test_equal_depth_is_left_out_where_counts_are_unknown(profile):
    """The controls do without, the table of the data says why, and who asks for it by name is told."""
    arm, normalised = "logistic_regression_equal_depth", profile["adata"].copy()
    del normalised.layers["equal_depth"]
    normalised.uns["alignment"] = profile["adata"].uns["alignment"] | {"equal_depth": None}
    other = profile | {"adata": normalised}
    with_it, without = ({spec["arm"] for spec in specs.controls(which)} for which in (profile, other))
    assert with_it == set(CONTROLS) and without == with_it - {arm}
    with pytest.raises(DataError, match=f"{arm} needs counts.*normalised"):
        specs.cell_types(other, ["majority", arm])
    said = [profiles.describe(which).data.loc["at equal depth", ""] for which in (profile, other)]
    least = int(profile["adata"].obs["total_counts"].min())
    assert said[0].startswith(f"{least:,} counts in every cell") and "no such control" in said[1]


def test_what_only_one_arm_needs_is_in_no_others_specification(profile):
    """So that runs that were done before keep their names."""
    wanted = {spec["arm"]: spec for spec in everything(profile) if spec["task"] == "cell_types"}
    assert {arm for arm, spec in wanted.items() if "depths" in spec} == {"depth", "logistic_regression_equal_depth"}
    weighted = {arm for arm, spec in wanted.items() if "class_weight" in spec.get("training", {})}
    assert weighted == {"logistic_regression_balanced"}
    assert {arm for arm, spec in wanted.items() if "labelled" in spec} == {"logistic_regression_four_fifths"}
    assert wanted["depth"]["depths"] == wanted["logistic_regression_equal_depth"]["depths"] == profile["depths"]


def test_repeated_splits_differ_and_pair(profile):
    """Every split has its own test cells, the same for all its arms; the profile says how many."""
    wanted = specs.repeated(profile)
    seeds = [spec["split"]["seed"] for spec in wanted if spec["arm"] == "logistic_regression"]
    assert seeds == [0, 1, 2]
    scbert = [spec["split"]["seed"] for spec in wanted if spec["model"] == "scBERT"]
    assert scbert == [0, 1] and all(spec["seed"] == spec["split"]["seed"] for spec in wanted)
    whole = {key: value for key, value in profile.items() if key not in ("repeated", "controls")}
    arms = [spec["arm"] for spec in specs.repeated(whole)]
    assert arms.count("full") == 5 and arms.count("logistic_regression") == 20
    assert {spec["seed"] for spec in specs.controls(profile | {"seeds": [7, 1]})} == {1}
    other = specs.other_protocol(profile | {"seeds": [7]})
    assert {(spec["seed"], spec["protocol"]) for spec in other} == {(7, "clean")} != {(7, profile["protocol"])}
    assert len(specs.other_protocol(profile | {"other_protocol": {"protocol": "clean"}})) == len(profile["seeds"])
    assert len(specs.controls(whole)) == len(CONTROLS) * len(whole["seeds"])


def test_pre_trained_arms_are_crossed_with_their_pre_trainings(profile):
    """Every pre-training is fine-tuned with every seed; other arms know nothing of it; where it is said, one each, in turn."""
    several = profile | {"pretraining": profile["pretraining"] | {"seeds": [3, 4, 5]}, "seeds": [0, 1]}

    def found(wanted):
        return [(spec.get("pretraining", {}).get("seed"), spec["seed"]) for spec in wanted]

    crossed = [(before, seed) for seed in (0, 1) for before in (3, 4, 5)]
    assert found(specs.cell_types(several, ["full"])) == found(specs.cell_types(several, ["no_gene2vec"])) == crossed
    for arm in ("logistic_regression", "no_pretraining"):
        assert found(specs.cell_types(several, [arm])) == [(None, 0), (None, 1)]
    assert found(specs.cell_types(several, ["full"], crossed=False)) == [(3, 0), (4, 1)]
    assert found(specs.masked(several, ["full"])) == [(3, 0), (4, 0), (5, 0)], "the same genes are hidden in all"
    assert found(specs.representations(several, ["no_pretraining", "pca"])) == [(None, 3), (None, 4), (None, 5), (None, 0)]
    assert "seeds" not in specs.masked(several)[0]["pretraining"]["training"]
    several["pretraining"] |= {"checkpoint": "original"}  # one set of weights
    assert found(specs.cell_types(several, ["full"])) == [(3, 0), (3, 1)]
    assert found(specs.cell_types(several, ["no_gene2vec"])) == crossed


def test_logistic_regression_is_asked_from_scberts_labels_where_those_are_fewer(profile):
    """By the subsets, seeds and fractions of the learning curves; the authors' scBERT keeps no labels to end by."""
    same = "logistic_regression_four_fifths"
    found = {protocol: specs.few_shot(profile | {"protocol": protocol}) for protocol in ("clean", "paper")}
    assert {spec["arm"] for spec in found["clean"]} - {spec["arm"] for spec in found["paper"]} == {same}
    drawn = {arm: {(s["fraction"], s["seed"]) for s in found["clean"] if s["arm"] == arm} for arm in (same, "full")}
    assert drawn[same] == drawn["full"] == {(f, s) for f in profile["fractions"] for s in profile["few_shot_seeds"]}
    assert all((spec.get("labelled") == "as scBERT") == (spec["arm"] == same) for spec in found["clean"])


def test_few_labels_are_learnt_to_the_end_too(profile):
    """Ten epochs of few cells are few steps: beside them the plateau, but not of what is slow; beside a plateau, nothing."""
    arms = ["logistic_regression", "majority", "no_gene2vec_no_pretraining", "no_pretraining"]
    thin = profile | {"protocol": "paper", "few_labels": {"fraction": 0.2, "seeds": [0, 1, 2], "slow": {"no_pretraining": [1]}}}
    other = {"protocol": "clean", "seeds": [0], "finetuning": {"ends": {"every": 5}}}
    found = specs.few_labels(thin | {"other_protocol": other})
    told = {key: [(spec["arm"], spec["seed"]) for spec in each] for key, each in found.items()}
    assert told["paper"] == [(arm, seed) for arm in arms[:3] for seed in (0, 1, 2)] + [("no_pretraining", 1)]
    assert told["clean"] == [(arm, seed) for arm in ("logistic_regression_four_fifths", arms[2]) for seed in (0, 1, 2)]
    assert {spec["fraction"] for each in found.values() for spec in each} == {0.2}
    assert found["clean"][-1]["training"]["ends"] == {"every": 5} and found["clean"][-1]["protocol"] == "clean"
    assert list(specs.few_labels(thin | {"protocol": "clean", "other_protocol": {"protocol": "paper"}})) == ["clean"]


def test_trials_are_as_many_for_both_and_say_what_they_try(profile):
    grids = {"full": {"weighted": [True, False]}, "logistic_regression": {"C": [0.1, 1.0], "class_weight": [None]}}
    wanted = specs.tuning(profile | {"tuning": grids})
    assert [spec["arm"] for spec in wanted] == ["full"] * 2 + ["logistic_regression"] * 2
    assert [spec["training"].get("weighted") for spec in wanted] == [True, False, None, None]
    assert [spec["training"].get("C") for spec in wanted] == [None, None, 0.1, 1.0]
    assert all(spec["held_out"] == "tuning" and "class_weight" not in spec["training"] for spec in wanted)
    several = specs.tuning(profile | {"tuning": grids | {"seeds": [0, 1, 2]}})
    assert [(spec["training"].get("weighted"), spec["seed"]) for spec in several] == [
        *((value, seed) for value in (True, False) for seed in (0, 1, 2)),
        *[(None, 0)] * 2,
    ]
    ends = profile["finetuning"] | {"ends": {"every": 5, "max_lr": 1}}
    rates = specs.tuning(profile | {"finetuning": ends, "tuning": {"full": {"max_lr": [2, 3]}}})
    assert [spec["training"]["ends"] for spec in rates] == [{"every": 5, "max_lr": 2}, {"every": 5, "max_lr": 3}]
    assert specs.tuning({key: value for key, value in profile.items() if key != "tuning"}) == []


def test_the_factorial_varies_one_factor_at_a_time(profile):
    """Twelve arms, each another specification; what differs between two is what their factors say."""
    wanted = {spec["arm"]: spec for spec in specs.factorial(profile) if spec["seed"] == 0}
    assert list(wanted) and set(wanted) == set(FACTORIAL) and len({store.run_id(spec) for spec in wanted.values()}) == 12
    for arm in FACTORIAL:
        spec = wanted[arm]
        pretrained, trained, embedding = factors(arm)
        assert ("pretraining" in spec) == pretrained and spec["training"]["trained"] == trained
        kind = spec["gene_embedding"]
        assert kind == {"own": profile["gene_embedding"], "random": "random", None: None}[embedding]
        if pretrained:  # shared by the arms that differ in fine-tuning alone, made with the same embedding
            assert spec["pretraining"]["gene_embedding"] == kind
    assert len({store.run_id(spec["pretraining"]) for spec in wanted.values() if "pretraining" in spec}) == 3


def test_corpora_differ_in_what_is_pre_trained_on_and_in_nothing_else(profile):
    """Each corpus has its runs, paired with the others by seed and pre-training; without any there are none."""
    assert specs.corpora(profile) == {}
    given = {name: {"sha256": 64 * digit} for name, digit in (("these cells", "a"), ("those", "b"))}
    found = specs.corpora(profile | {"corpora": given})
    own = specs.cell_types(profile, ["no_gene2vec"])
    assert list(found) == list(given)
    for name, wanted in found.items():
        corpora = [spec["pretraining"].pop("corpus") for spec in wanted]
        assert all(corpus["file"] == given[name] for corpus in corpora) and wanted == own
