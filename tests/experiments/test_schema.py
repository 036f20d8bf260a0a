"""Profiles and parameters that cannot be meant are refused, with their place and what to do."""

import copy
import re

import papermill
import pytest
import yaml

from lib.errors import DataError
from lib.experiments import profiles, schema
from lib.settings import ROOT


@pytest.fixture
def quick():
    return yaml.safe_load((profiles.FOLDER / "quick.yaml").read_text())


def changed(profile, place, value):
    """A copy with another value at a place such as ``finetuning.ends.max_lr``."""
    found = copy.deepcopy(profile)
    *way, last = place.split(".")
    inner = found
    for part in way:
        inner = inner[part]
    inner[last] = value
    return found


@pytest.mark.parametrize("path", sorted(profiles.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_ladder_is_in_order(path):
    assert profiles.read(path.stem)["name"] == path.stem


@pytest.mark.parametrize(
    "place, value, words",
    [
        ("seedz", [0], "seedz – there is no such entry. Entries there: data, split, reproduces,"),
        ("data.min_gene", 3, "data.min_gene – there is no such entry. Entries there: dataset, label,"),
        ("finetuning.ends.evry", 3, "finetuning.ends.evry – there is no such entry. Entries there: max_lr, every,"),
        ("pretraining.max_lr", "1e-3", "pretraining.max_lr is the text '1e-3', no number: write 1.0e-3"),
        ("finetuning.ends.max_lr", "3e-4", "finetuning.ends.max_lr is the text '3e-4', no number: write 3.0e-4"),
        ("seeds", 3, "seeds is 3: no list, as in [0, 1]"),
        ("seeds", [0, 1.5], "seeds.1 is 1.5: no whole number"),
        ("fractions", [0.1, 10], "fractions.1 is 10: input should be less than or equal to 1"),
        ("protocol", "papper", "protocol is 'papper': input should be 'paper' or 'clean'"),
        ("size.depth", 0, "size.depth is 0: input should be greater than or equal to 1"),
        ("finetuning.weighted", "no", "finetuning.weighted is 'no': neither true nor false"),
        ("finetuning", 3, "finetuning is 3: has no entries of its own"),
    ],
)
def test_a_wrong_entry_is_named_with_its_place(quick, place, value, words):
    with pytest.raises(DataError, match=re.escape(f"here: {words}")):
        schema.check(schema.Profile, changed(quick, place, value), "here")


def test_all_faults_are_said_at_once(quick):
    wrong = changed(changed(quick, "seedz", [1]), "size.dim", "32")
    del wrong["split"]
    with pytest.raises(DataError, match=r"split is missing; size\.dim is the text '32'.*write 32.*; seedz –"):
        schema.check(schema.Profile, wrong, "here")


def test_what_a_profile_changes_for_a_data_set_is_checked_too(tmp_path, monkeypatch, quick):
    """And a file that is no YAML is refused with its line."""
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(quick | {"for_dataset": {"liver": {"external": 3}}}))
    with pytest.raises(DataError, match=r"mine\.yaml, for_dataset\.liver: external is 3: no text"):
        profiles.read("mine")
    (tmp_path / "mine.yaml").write_text("data: {dataset: zheng_sorted\nseeds: [0]\n")
    with pytest.raises(DataError, match=r"mine\.yaml is no YAML: .*line 2"):
        profiles.read("mine")


def test_every_parameter_of_every_notebook_has_a_type():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert papermill.inspect_notebook(str(path)).keys() <= schema.Parameters.model_fields.keys(), path.name
