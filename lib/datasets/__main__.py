"""``python -m lib.datasets NAME…``: download by hand; FILE…: how a file of your own is understood; without either, a list."""

import sys
from pathlib import Path

from lib.datasets import catalogue, downloads, reading
from lib.errors import DataError

try:
    for name in sys.argv[1:]:
        if name not in downloads.registry() and Path(name).exists():
            adata = catalogue.load(name)
            print(f"{name}: {adata.n_obs:,} cells × {adata.n_vars:,} genes", reading.text(adata.uns["dataset"]), sep="\n")
        else:
            print(downloads.fetch(name))
except DataError as refusal:
    raise SystemExit(f"lib.datasets: {refusal}") from None
if not sys.argv[1:]:
    for name, entry in downloads.registry().items():
        print(f"{name:22s} {'there' if downloads.have(name) else 'not downloaded':15s} {entry['title']}")
