"""How many cells a second a corpus gives: simulated tokens on the disk, random cells of the whole of it made dense.

    python tests/prepare/throughput.py FOLDER 1100000       2 GB there, and some minutes; what is there is used again

Prints a line for each size of batch: by the clock, with one process, with two, and handed over by the two loading processes
that feed a GPU; the processor's seconds beside it, which other programs do not change so much. No test: a machine decides.
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import scipy.sparse as sp
from torch.utils.data import DataLoader

from lib.prepare import shards
from lib.scbert.training import _Batches, in_batches

GENES, SHARD, SHOWN = 16_906, 16_384, 20_000
BINS = np.array([2.2, 1.5, 0.7, 0.4, 0.4])  # per cent of the genes of Panglao's cells; 94.7 % show nothing


def simulated(cells, rng):
    """Tokens of cells that show genes at random: CSR matrix, (cells, genes + 1)."""
    genes = np.sort(rng.integers(0, GENES, (cells, round(GENES * BINS.sum() / 97.4)), dtype=np.int32), axis=1)
    first = np.hstack([np.ones((cells, 1), bool), genes[:, 1:] != genes[:, :-1]])
    bins = rng.choice(np.arange(1, 6, dtype=np.uint8), first.sum(), p=BINS / BINS.sum())
    return sp.csr_matrix((bins, genes[first], np.concatenate([[0], first.sum(1).cumsum()])), (cells, GENES + 1))


def corpus(folder, cells):
    """The corpus in a folder, of the shards that are missing there written now."""
    stems = [folder / f"{first:010d}" for first in range(0, cells, SHARD)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(stems):
        if not shards.intact(stem):
            shards.write(stem, [simulated(min(SHARD, cells - number * SHARD), np.random.default_rng(number))], GENES)
    return shards.Shards(stems, GENES + 1)


def assemble(store, batches):
    """Make these batches dense; the processor's seconds."""
    begun = time.process_time()
    for batch in batches:
        store[batch].toarray()
    return time.process_time() - begun


def rate(cells, work):
    begun = time.perf_counter()
    seconds = work()
    return cells / (time.perf_counter() - begun), seconds


def main(folder, cells):
    store = corpus(folder, cells)
    rng = np.random.default_rng(0)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(assemble, [store] * 2, [[np.arange(64)]] * 2))  # they have started
        for size in (32, 64, 128, 256):
            batches = in_batches(rng.choice(store.shape[0], min(SHOWN, cells), replace=False), size)
            assemble(store, batches)  # the files are in the system's memory from here on
            shown = sum(map(len, batches))
            one, seconds = rate(shown, lambda: assemble(store, batches))
            two, _ = rate(shown, lambda: sum(pool.map(assemble, [store] * 2, [batches[::2], batches[1::2]])))
            fed, _ = rate(shown, lambda: [None for _ in DataLoader(_Batches(store, batches), batch_size=None, num_workers=2)])
            print(
                f"{cells:,} cells, batches of {size}: one process {one:,.0f} cells/s ({shown / seconds:,.0f} a second of the "
                f"processor), two {two:,.0f}, handed over by two {fed:,.0f}; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
