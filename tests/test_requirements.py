"""What is installed: one short list of what we import (pyproject.toml), one lock of versions, and what follows from them."""

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from lib.settings import ROOT

TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTED = {one.name: one for one in map(Requirement, TABLE["dependencies"])}
EXTRA = {one.name: one for names in TABLE["optional-dependencies"].values() for one in map(Requirement, names)}
BY_NAME = {"ipykernel", "ipywidgets"}  # not imported: papermill starts the one, tqdm draws with the other
MACHINES = [
    {"sys_platform": system, "os_name": name, "python_version": python, "python_full_version": f"{python}.6"}
    for system, name in (("linux", "posix"), ("darwin", "posix"), ("win32", "nt"))
    for python in ("3.11", "3.12", "3.13")
]


def pins(text):
    """Name → requirement of each line of a list of exact versions."""
    return {one.name: one for one in map(Requirement, (line for line in text.splitlines() if line and line[0] != "#"))}


LOCK = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
COLAB = pins((ROOT / "notebooks" / "requirements-colab.txt").read_text(encoding="utf-8"))


def imported(*patterns):
    """The packages of others that our files import."""
    names = set()
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"lib", "tests"}


def packages(modules):
    """The packages that bring these modules, by their names in lists."""
    brings = metadata.packages_distributions()
    return {re.sub("[-_.]+", "-", brings[name][0]).lower() for name in modules}


def test_the_list_names_what_we_import_and_nothing_else():
    assert packages(imported("lib/**/*.py", "notebooks/*.py")) == LISTED.keys() - BY_NAME


def test_tests_import_what_is_listed():
    assert packages(imported("tests/**/*.py") - {"lib_that_is_not_there"}) <= LISTED.keys() | EXTRA.keys()


def test_the_lock_has_an_exact_version_that_serves_for_all_that_is_listed():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for name, wanted in (LISTED | EXTRA).items():
        assert wanted.specifier.contains(str(LOCK[name].specifier).removeprefix("==")), f"{wanted}, but {LOCK[name]}"
    assert all(re.fullmatch(r"==[\w.]+", str(one.specifier)) for one in LOCK.values())
    assert len(LOCK) == len([line for line in text.splitlines() if "==" in line])
    assert str(LOCK["torch"]) == "torch==2.13.0"


def test_colab_gets_versions_of_the_lock_and_keeps_its_own_of_what_runs_there():
    """What a running kernel has imported cannot be exchanged under it; torch there is the CUDA build."""
    assert COLAB and all(str(LOCK[name].specifier) == str(one.specifier) for name, one in COLAB.items())
    assert not COLAB.keys() & {
        "torch",
        "numpy",
        "pandas",
        "scipy",
        "matplotlib",
        "ipykernel",
        "ipython",
        "ipywidgets",
        "tornado",
    }


def test_versions_stand_once():
    """environment.yml and the workflow read the lock."""
    for name in ("environment.yml", ".github/workflows/tests.yml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "==" not in text and "requirements.txt" in text


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine['sys_platform']}-{machine['python_version']}")
def test_what_is_listed_is_installed_on_every_machine(machine):
    """No marker leaves out, anywhere, what we import; torch's CUDA parts, which torch itself asks for, are not in the lock."""
    there = {name for name, one in LOCK.items() if one.marker is None or one.marker.evaluate(machine)}
    assert (LISTED | EXTRA).keys() <= there
    assert ("setuptools" in there) == (machine["python_version"] != "3.11")  # where Python has no distutils
    assert not [name for name in there if name.startswith(("nvidia", "cuda", "triton"))]
