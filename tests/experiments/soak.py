"""Break a store for real, many times, and compare every number with those of a store that nothing happened to.

    python tests/experiments/soak.py kills FOLDER 40      SIGKILL at random moments while several runs are computed
    python tests/experiments/soak.py flips FOLDER 12      a random bit changed in every kind of stored file, each so often

Prints a line for each fault as JSON: how often it was tried, what happened, lost work, wrong results. It forks (Linux).
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ |= {"OMP_NUM_THREADS": "1", "SCBERT_WORKERS": "1", "SCBERT_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np
import torch

from lib import scbert
from lib.datasets import catalogue
from lib.errors import DataError
from lib.experiments import archive, inventory, profiles, runs, specs, store
from lib.experiments.names import run_id
from lib.prepare import cells

torch.set_num_threads(1)
# What takes seconds to be imported, and would be by each process that is forked.
scbert.training.make_fabric("cpu")
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
REFUSED, CRASHED = 3, 4


def profile_in(cache):
    """The smoke profile with gene2vec and a corpus, more epochs and a batch of few cells; its cells are written to a cache."""
    os.environ |= {"SCBERT_CACHE": str(cache), "SCBERT_DATA_DIR": str(cache.parent / "downloads")}
    corpus, text = cache.parent / "corpus.h5ad", cache.parent / "downloads" / "gene2vec_dim_200_iter_9.txt"
    if not text.exists():
        text.parent.mkdir(parents=True)
        counts = catalogue.load("pbmc68k_reduced")[::5].copy()
        vectors = np.random.default_rng(0).normal(0, 0.3, (counts.n_vars, 20)).round(4)
        text.write_text("\n".join(" ".join([gene, *map(str, row)]) for gene, row in zip(counts.var_names, vectors)))
        counts.write_h5ad(corpus)
    before = {"epochs": 6, "batch_size": 32, "max_lr": 1.0e-3, "seeds": [0], "corpus": str(corpus)}
    schedule = {"max_lr": 1.0e-3, "min_lr": 1.0e-5, "warmup": 1, "cycle": 4}
    return profiles.load("smoke", pretraining=before, finetuning={"epochs": 6, "batch_size": 8, "schedule": schedule})


def wanted_of(profile):
    arms = ["full", "no_pretraining", "no_gene2vec", "logistic_regression"]
    return [*specs.cell_types(profile, arms, [1.0], [0, 1]), *specs.cell_types(profile, ["depth"], [1.0], [0])]


def forked(work, said):
    """Start ``work`` in a process of its own, whose words go to a file; its number."""
    if number := os.fork():
        return number
    status = CRASHED
    try:
        words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(words, 1)
        os.dup2(words, 2)
        work()
        status = 0
    except DataError as refusal:
        print(refusal, file=sys.stderr, flush=True)
        status = REFUSED
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def numbers(cache, wanted):
    """Everything that runs, and those they begin with, came to: arrays, logs, weights, by name."""
    found = {}
    for spec in [*wanted, *{run_id(one["pretraining"]): one["pretraining"] for one in wanted if "pretraining" in one}.values()]:
        folder = cache / "runs" / run_id(spec)
        with np.load(folder / "predictions.npz") as file:
            found |= {(folder.name, name): array.tobytes() for name, array in file.items()}
        found[folder.name, "log"] = (folder / "log.csv").read_bytes()
        if (folder / "model.pt").exists():
            for name, value in torch.load(folder / "model.pt", weights_only=True)["model_state_dict"].items():
                found[folder.name, "weights", name] = value.numpy().tobytes()
    return found


def rounds(cache):
    """Epochs that the checkpoints of unfinished runs hold."""
    found = {}
    for path in cache.glob("runs/*/checkpoint.pt"):
        found[path.parent.name] = len(torch.load(path, weights_only=True)["log"])
    return found


def progress(cache):
    """Changes whenever an epoch or a run has ended."""
    found = {}
    for path in [*cache.glob("runs/*/checkpoint.pt"), *cache.glob("runs/*/DONE")]:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def until(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.002)


def alive(number):
    return Path(f"/proc/{number}/stat").read_text().split(") ")[1][0] != "Z"


def told(what, found, folder):
    """How many were found; which, and what the process that was killed had said, is printed."""
    if found:
        print(f"{what}: {', '.join(map(str, found))}\n{(folder / 'said').read_text()}", flush=True)
    return len(found)


def whole_store(folder):
    """A store that nothing happens to."""
    profile = profile_in(folder / "whole")
    if status := ended(forked(lambda: runs.complete(wanted_of(profile)), folder / "said")):
        raise SystemExit(f"{status}: {(folder / 'said').read_text()}")
    return wanted_of(profile)


def kills(folder, times, seed=0):
    """SIGKILL at random moments of a process that computes runs, so often with a checkpoint under way."""
    wanted, draw, counts = whole_store(folder), random.Random(seed), Counter()
    expected, stores = numbers(folder / "whole", wanted), 0
    while counts["checkpoint under way"] < times:
        stores += 1
        cache = folder / f"killed{stores}"
        profile_in(cache)
        while True:
            marks = {path: path.stat().st_mtime_ns for path in cache.glob("runs/*/DONE")}
            before, seen = rounds(cache), progress(cache)
            number = forked(lambda: runs.complete(wanted), folder / "said")
            if draw.random() < 0.8:  # after some progress, else it might never end
                until(lambda: progress(cache) != seen or not alive(number))
            time.sleep(draw.uniform(0, 0.4))
            os.kill(number, signal.SIGKILL)
            status = ended(number)
            if status == 0:
                break
            assert status == -signal.SIGKILL, (folder / "said").read_text()
            after, done = rounds(cache), {path.parent.name for path in cache.glob("runs/*/DONE")}
            counts["kills"] += 1
            counts["checkpoint under way"] += bool(after)
            lost = [path for path, when in marks.items() if not path.exists() or path.stat().st_mtime_ns != when]
            lost += [name for name, epochs in before.items() if after.get(name, 0) < epochs and name not in done]
            half = [(path, wrong) for kind, path, wrong in inventory.verify() if wrong and kind != "downloads"]
            counts["lost"] += told("lost", lost, folder)
            counts["half taken for whole"] += told("half taken for whole", half, folder)
        counts["wrong"] += numbers(cache, wanted) != expected
        left = [path for path in cache.glob("runs/*/*") if path.name.startswith((".", "checkpoint"))]
        counts["left behind"] += told("left behind", left, folder)
    print(json.dumps({"fault": "SIGKILL", "stores": stores, "runs": len(wanted) + 2} | counts))


def flips(folder, times, seed=0):
    """A random bit changed in every kind of stored file; then the same runs are asked for again."""
    wanted, draw = whole_store(folder), random.Random(seed)
    expected = numbers(folder / "whole", wanted)
    full, regression, depth = wanted[0], wanted[-2], wanted[-1]
    cache = folder / "flipped"
    shutil.copytree(folder / "whole", cache)
    os.environ["SCBERT_CACHE"] = str(cache)

    def of(spec):
        return cache / "runs" / run_id(spec)

    def ask():
        profile_in(cache)
        runs.complete(wanted)

    def interrupted():
        shutil.rmtree(of(full))
        number = forked(lambda: runs.complete([full]), folder / "said")
        until((of(full) / "checkpoint.pt").exists)
        os.kill(number, signal.SIGKILL)
        ended(number)

    kinds = {f"{kind} of a run": (of(regression) / kind, lambda: None) for kind in (*store.FILES, "DONE")}
    kinds["model.pt of a run"] = of(full) / "model.pt", lambda: None
    kinds["model.pt that a run begins with"] = of(full["pretraining"]) / "model.pt", lambda: shutil.rmtree(of(full))
    kinds["checkpoint.pt"] = of(full) / "checkpoint.pt", interrupted
    prepared = cells._path(regression["data"]["fingerprint"])
    kinds["prepared cells"] = prepared, lambda: shutil.rmtree(of(regression))
    kinds["prepared depths"] = cells._path(f"depths-{depth['depths']}"), lambda: shutil.rmtree(of(depth))
    again = lambda: shutil.rmtree(of(full["pretraining"])) or shutil.rmtree(of(full))  # noqa: E731
    kinds["gene2vec's matrix"] = next(cache.glob("gene2vec/*.npy")), again
    for path in sorted(path for path in cache.glob("corpus/*/*") if path.suffix != ".sha256"):
        kinds[f"corpus, {path.name}"] = path, again
    for kind, (path, ready) in kinds.items():
        counts = Counter()
        for _ in range(times):
            ready()
            change(path, draw)
            counts["exit"] |= ended(forked(ask, folder / "said"))
            counts["said"] += any(word in (folder / "said").read_text() for word in ("damaged", "again", "lacks"))
            counts["wrong"] += numbers(cache, wanted) != expected
        print(
            json.dumps({"fault": f"one bit of {kind}", "times": times, "done again": times - counts.pop("said") == 0} | counts)
        )
    counts = Counter()
    for _ in range(times):  # an archive cannot be done again here: it is refused, with what to do
        shutil.rmtree(folder / "archives", ignore_errors=True)
        archive.write("smoke", {regression["data"]["fingerprint"]})
        change(folder / "archives" / "smoke.zip", draw)
        os.environ["SCBERT_CACHE"] = str(folder / "none")
        counts["refused"] += ended(forked(lambda: runs.complete([regression]), folder / "said")) == REFUSED
        counts["said"] += "is not the archive of runs" in (folder / "said").read_text()
        os.environ["SCBERT_CACHE"] = str(cache)
    print(json.dumps({"fault": "one bit of an archive", "times": times, "wrong": times - counts["refused"]} | counts))


def change(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


if __name__ == "__main__":
    place = Path(sys.argv[2]).resolve()
    archive.folder = lambda: place / "archives"  # not the published ones, which verify would read each time
    {"kills": kills, "flips": flips}[sys.argv[1]](place, int(sys.argv[3]))
