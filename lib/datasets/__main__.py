"""``python -m lib.datasets``: what there is; with names: download by hand; with files: how they are understood."""

import argparse
from pathlib import Path

from lib.datasets import catalogue, downloads, reading
from lib.errors import DataError


def main(names: list[str]) -> None:
    """Download each data set that is named, and tell how each file is understood; without either, list the data sets."""
    for name in names:
        if name in downloads.registry() or not Path(name).exists():
            print(downloads.fetch(name))
            continue
        adata = catalogue.load(name)
        print(f"{name}: {adata.n_obs:,} cells × {adata.n_vars:,} genes", reading.text(adata.uns["dataset"]), sep="\n")
    if not names:
        for name, entry in downloads.registry().items():
            print(f"{name:22s} {'there' if downloads.have(name) else 'not downloaded':15s} {entry['title']}")


if __name__ == "__main__":
    about = "Download data sets by hand; say how files of your own are understood; without either, list the data sets."
    parser = argparse.ArgumentParser(prog="python -m lib.datasets", description=about)
    parser.add_argument("names", nargs="*", metavar="NAME|FILE", help="a data set of the list, or a file such as my_cells.h5ad")
    try:
        main(parser.parse_args().names)
    except DataError as refusal:
        raise SystemExit(f"lib.datasets: {refusal}") from None
