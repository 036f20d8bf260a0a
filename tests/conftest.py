"""Shared by all tests: the repository on the path, one thread, fixed seeds, real cells."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else numba, which scanpy calls, gives torch as many threads as there are cores: tiny models then take fifty times as long.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("SCBERT_WORKERS", "1")  # runs in this process, where tests can change things; one test has two
os.environ.setdefault("SCBERT_OFFLINE", "1")  # no test asks the network; those of downloading have a server of their own
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
collect_ignore = ["experiments/soak.py", "prepare/throughput.py"]  # programs: without doctests, and slow to import


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same random state and one thread, whatever ran before it."""
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def raw():
    """The 700 real cells that scanpy ships, as counts. Not to be changed in place."""
    from lib.datasets import catalogue

    return catalogue.load("pbmc68k_reduced")


@pytest.fixture(scope="session")
def cells(raw):
    """The same cells prepared for the model. Not to be changed in place."""
    from lib.prepare import preprocess

    return preprocess.prepare(raw, min_genes=0, library_size="n_counts")


@pytest.fixture(scope="session")
def shared():
    """The folder of real data files beside the checkout (or where ``SCBERT_SHARED`` says); skips without it."""
    folder = Path(os.environ.get("SCBERT_SHARED") or Path(__file__).resolve().parents[2] / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data files are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def cases():
    """The folder of files that users had trouble with, beside the checkout likewise; skips without it."""
    folder = Path(os.environ.get("SCBERT_SHARED") or Path(__file__).resolve().parents[2] / "shared") / "cases"
    if not folder.is_dir():
        pytest.skip(f"the files of cases are not at {folder}")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of downloads and a registry whose entries the test changes; nothing is asked of any server."""
    from lib.datasets import downloads

    published = ("sha256", "blob", "bytes", "drive")
    entries = {
        name: {key: value for key, value in entry.items() if key not in published} | {"holds": dict(entry.get("holds", {}))}
        for name, entry in downloads.registry().items()
    }
    monkeypatch.setattr(downloads, "registry", lambda: entries)
    monkeypatch.setenv("SCBERT_DATA_DIR", str(tmp_path / "downloads"))
    monkeypatch.setenv("SCBERT_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads", entries


@pytest.fixture
def same():
    """Whether two dictionaries of arrays are equal, bit for bit."""
    return lambda first, second: first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)
