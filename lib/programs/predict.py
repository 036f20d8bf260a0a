"""Name the cells of an .h5ad by a finished run, or by an original scBERT checkpoint: ``python -m lib.predict``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib import settings
from lib.errors import DataError
from lib.experiments import namers, predicting, runs


def lines(path: Path | None) -> list[str] | None:
    """The lines of a text file, blank ones left out; None without a file."""
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}). Give a text file with one name a line.") from error


def main(arguments: list[str]) -> int:
    about = "Name the cells of an .h5ad by a classifier that is there already."
    parser = argparse.ArgumentParser(prog="python -m lib.predict", description=about)
    parser.add_argument("cells", type=Path, help="the .h5ad: counts, or logarithms of them, with gene symbols")
    told = "how the identifier of a finished run begins (python -m lib.runs list), or a checkpoint's .pth"
    parser.add_argument("--model", required=True, help=told)
    parser.add_argument("--out", type=Path, help="the copy with the answers; default: CELLS.named.h5ad beside it")
    parser.add_argument("--genes", type=Path, help="for a checkpoint: its genes in order, one a line")
    parser.add_argument("--classes", type=Path, help="for a checkpoint: its cell types in order, one a line")
    given = parser.parse_args(arguments)
    if not sys.stderr.isatty() and not settings.progress():
        settings.put(settings.given() | {"SCBERT_PROGRESS": "log"})
    if Path(given.model).suffix in (".pth", ".pt", ".ckpt") or Path(given.model).is_file():
        namer = namers.of_checkpoint(given.model, lines(given.genes), lines(given.classes))
    elif given.genes or given.classes:
        raise DataError("--genes and --classes are for a checkpoint: a run knows its own. Leave them out.")
    else:
        namer = namers.of_run(given.model)
    out = given.out or given.cells.with_suffix(".named.h5ad")
    print(f"{given.cells} by {namer.name}: {len(namer.classes)} types", flush=True)
    predicting.predict(given.cells, namer, out)
    print(f"{out}: types in obs[{predicting.TYPE!r}], their probabilities in obsm[{predicting.PROBABILITIES!r}]")
    return 0


if __name__ == "__main__":
    try:
        with runs.stoppable():
            status = main(sys.argv[1:])
    except KeyboardInterrupt:
        print("python -m lib.predict: interrupted. The same command goes on where it stopped.", file=sys.stderr)
        status = 130
    except DataError as refusal:
        print(f"python -m lib.predict: {refusal}", file=sys.stderr)
        status = 2
    raise SystemExit(status)
