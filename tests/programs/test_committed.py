"""What is published is told from what was made here: with git, without it, on another machine, and after run_all.sh."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from lib.programs import committed
from lib.settings import ROOT

TABLE = pd.DataFrame(
    {"arm": ["full", "pca"], "value": [0.75, 0.5], "cells": [200, 100], "run": ["6347", "4adc"], "says": ["ahead", "undecided"]}
)


def git(folder, *arguments):
    who = ["-c", "user.name=a reader", "-c", "user.email=reader@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def compared(**changes):
    return committed.compare({"01_a.csv": TABLE}, {"01_a.csv": TABLE.assign(**changes)})


def test_identical_tables():
    """Nothing to say but that; the names of runs are not compared, nor is where a point lies in a picture."""
    assert compared() == "1 of 1 tables identical; no verdict changed"
    assert compared(run=["a", "b"]) == "1 of 1 tables identical; no verdict changed"
    empty = TABLE.assign(value=[0.75, None])
    assert committed.compare({"a": empty}, {"a": empty.copy()}).startswith("1 of 1")


def test_the_largest_difference_is_named():
    """Its file, its column, from and to; a count's difference is a share of the count."""
    assert "0 of 1 tables identical; largest difference in 01_a.csv, value: 0.5 → 0.4;" in compared(value=[0.76, 0.4])
    assert "cells: 100 → 120;" in compared(value=[0.76, 0.4], cells=[201, 120])
    assert "value: 0.5 → 0.4;" in compared(value=[0.75, 0.4], cells=[201, 100])


def test_a_verdict_that_changed_is_named():
    """Whatever its column is called; a sentence in another column is no verdict."""
    assert "verdicts changed: 01_a.csv: undecided → behind" in compared(says=["ahead", "behind"])
    for column in ("verdict", "holds"):
        old, new = (pd.DataFrame({column: [word]}) for word in ("yes", "no"))
        assert committed.compare({"a": old}, {"a": new}).endswith("verdicts changed: a: yes → no")
    assert compared(arm=["full", "umap"]) == "0 of 1 tables identical; other words in 01_a.csv, arm; no verdict changed"


def test_tables_that_cannot_be_laid_side_by_side():
    """Of other rows, or on one side only: named, and not called identical."""
    said = committed.compare({"a": TABLE, "b": TABLE, "c": TABLE}, {"a": TABLE, "b": TABLE[:1], "d": TABLE})
    assert said == "1 of 4 tables identical; not compared, of other rows or not published: b, c, d; no verdict changed"


@pytest.fixture
def small(tmp_path):
    """A folder with one published table."""
    folder = tmp_path / "small" / "figures" / "quick"
    folder.mkdir(parents=True)
    TABLE.to_csv(folder / "01_a.csv", index=False)
    (folder / committed.SUMS).write_text(committed.sums(folder))
    return tmp_path / "small"


def test_with_git_what_is_committed_or_staged_is_published(small):
    """Not what lies in the folder, which may be half written."""
    git(small, "init", "-q")
    git(small, "add", ".")
    git(small, "commit", "-qm", "published")
    folder = small / "figures" / "quick"
    (folder / "01_a.csv").write_text("arm,val")
    assert committed.tables("quick", small)["01_a.csv"].equals(TABLE)
    TABLE.assign(value=0.1).to_csv(folder / "01_a.csv", index=False)
    (folder / committed.SUMS).write_text(committed.sums(folder))
    git(small, "add", ".")
    assert set(committed.tables("quick", small)["01_a.csv"]["value"]) == {0.1}


@pytest.mark.parametrize("around", [False, True])
def test_without_git_what_has_its_hash_is_published(small, around):
    """Also where the zip was unpacked inside somebody's repository."""
    if around:
        git(small.parent, "init", "-q")
    assert committed.tables("quick", small)["01_a.csv"].equals(TABLE)
    path = small / "figures" / "quick" / "01_a.csv"
    path.write_text(path.read_text().replace("0.75", "0.76"))
    assert committed.tables("quick", small) == {}
    assert committed.tables("mine", small) == {}


def test_the_name_of_a_run_may_look_like_a_huge_number(tmp_path):
    """pandas ends Python over it where it may take it for a number; so nothing else is asked of it here."""
    path = tmp_path / "01_a.csv"
    path.write_text("run,value\n234e7969240439a0,0.5\n")
    assert committed.here(tmp_path)["01_a.csv"].to_dict("records") == [{"run": "234e7969240439a0", "value": 0.5}]


def test_report(small):
    """Only the tables of the notebooks that were run; a sentence where nothing can be compared."""
    folder = small / "figures" / "quick"
    before = committed.tables("quick", small)
    TABLE.to_csv(folder / "02_b.csv", index=False)
    said = "Compared with the published figures/quick: 1 of 1 tables identical; no verdict changed."
    assert committed.report(before, folder, ("01_",)) == said
    assert "2 tables" in committed.report(before, folder, ("01_", "02_"))
    assert committed.report({}, folder, ("01_",)).startswith("Not compared")


def test_the_sums_are_those_of_the_published_tables():
    """Each published folder's SHA256SUMS names all its tables with their hashes; ``python -m lib.readme`` writes it."""
    listed = subprocess.run(["git", "ls-files", "figures/*.csv"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not listed:
        pytest.skip("no git here, or the figures are not in it")
    for profile in {path.split("/")[1] for path in listed}:
        names = {path.split("/")[2] for path in listed if path.startswith(f"figures/{profile}/")}
        assert committed.tables(profile).keys() == names, f"figures/{profile}: run python -m lib.readme, and stage"


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A zip of what git has of this repository, unpacked, and the same as a clone."""
    folder = tmp_path_factory.mktemp("copies")
    done = subprocess.run(["git", "checkout-index", "-a", f"--prefix={folder}/zip/"], cwd=ROOT, capture_output=True)
    if done.returncode or not (folder / "zip" / "README.md").exists():
        pytest.skip("no git here to make a copy with")
    shutil.copytree(folder / "zip", folder / "clone")
    git(folder / "clone", "init", "-q")
    git(folder / "clone", "add", "-A")
    git(folder / "clone", "commit", "-qm", "published")
    return folder


def python(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SCBERT_", "PYTEST_"))}
    environment |= {"PYTHONPATH": str(folder), "SCBERT_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True)


def readme_tests(folder):
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/programs/test_readme.py")
    return done.returncode, done.stdout


def another_machine(folder):
    """All numbers of the published figures a little different, as another processor gives them."""
    for path in [*folder.glob("figures/*/*.csv"), *folder.glob("figures/*/notebooks/*.html")]:
        path.write_text(re.sub(r"(0\.\d*)\d\b", r"\g<1>9", path.read_text()))


@pytest.mark.slow
def test_a_clone_whose_figures_were_made_anew_on_another_machine(copies):
    """README's tests pass in the clone, after run_all.sh in it, and after numbers that differ; they fail for a wrong README."""
    clone = copies / "clone"
    done = python(clone, "-m", "lib.programs.run_notebooks", "--profile", "smoke", "--only", "02")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (clone / "figures" / "smoke" / "02_few_shot.csv").exists() and "ompared" not in done.stdout
    another_machine(clone)
    assert subprocess.run(["git", "diff", "--quiet"], cwd=clone).returncode == 1
    status, said = readme_tests(clone)
    assert status == 0 and "skipped" not in said, said
    text = (clone / "README.md").read_text()
    (clone / "README.md").write_text(text.replace("| scBERT | 0.766", "| scBERT | 0.866"))
    git(clone, "add", "README.md")
    status, said = readme_tests(clone)
    assert status == 1 and "test_the_texts_say" in said


@pytest.mark.slow
def test_a_zip_without_git(copies):
    """README's tests pass where the figures are as published, and are left out, with the reason, where they are not."""
    status, said = readme_tests(copies / "zip")
    assert status == 0 and "not as published" not in said, said
    another_machine(copies / "zip")
    status, said = readme_tests(copies / "zip")
    assert status == 0 and "figures/laptop is not as published" in said, said
