"""Figures as they are published in the repository, and how what was made here differs from them.

``run_all.sh`` writes over ``figures/quick``, so what is published is asked of git: what is committed, or staged to be
committed. Where there is no git (a zip), a file serves if it has the hash that ``figures/<profile>/SHA256SUMS`` holds.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lib.settings import ROOT

SUMS = "SHA256SUMS"
VERDICTS = {"holds", "says", "verdict", "verdict_paper", "verdict_ours"}
PLACES = {"run", "runs", "umap_1", "umap_2"}  # names of runs, and places in a picture: not numbers to compare


def content(path: str, root: Path = ROOT) -> bytes | None:
    """A file as git has it, committed or staged; without git as it lies there; None if it is not there."""
    try:
        asked = subprocess.run(["git", "show", f":./{path}"], cwd=root, capture_output=True)
    except FileNotFoundError:  # no git on this machine
        asked = None
    if asked and asked.returncode == 0:
        return asked.stdout
    return (root / path).read_bytes() if (root / path).is_file() else None


def tables(profile: str, root: Path = ROOT) -> dict[str, pd.DataFrame]:
    """The published tables of a profile by file name; without git, those that are still as they were published."""
    known = (content(f"figures/{profile}/{SUMS}", root) or b"").decode()
    names = [line.split("  ")[1] for line in known.splitlines()]
    found = {name: content(f"figures/{profile}/{name}", root) or b"" for name in names}
    return {name: read(io.BytesIO(text)) for name, text in found.items() if _sum(name, text) in known}


def here(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that lie in a folder now, by file name."""
    return {path.name: read(path) for path in sorted(folder.glob("*.csv"))}


def read(file: Path | io.BytesIO) -> pd.DataFrame:
    """A table. Names of runs are text: several in ``runs``, as hexadecimal digits, might be tried as numbers."""
    return pd.read_csv(file, dtype=dict.fromkeys(("run", "runs"), str))


def sums(folder: Path) -> str:
    """What ``SHA256SUMS`` of a folder holds: a line for each table, as ``sha256sum`` writes it."""
    return "".join(_sum(path.name, path.read_bytes()) for path in sorted(folder.glob("*.csv")))


def _sum(name, content):
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def compare(published: Mapping[str, pd.DataFrame], made: Mapping[str, pd.DataFrame]) -> str:
    """How tables differ: how many are identical, the largest difference of a number, verdicts that changed.

    A difference counts by its size where the published number is below 1, and by its share of that number above.

    >>> published = pd.DataFrame({"arm": ["full"], "value": [0.80], "says": ["undecided"], "run": ["63470291"]})
    >>> compare({"01.csv": published}, {"01.csv": published.assign(value=0.82, run="d8daaeae")})
    '0 of 1 tables identical; largest difference in 01.csv, value: 0.8 → 0.82; no verdict changed'
    """
    identical, numbers, verdicts, words, other = 0, [], [], set(), list(published.keys() ^ made.keys())
    for name in sorted(published.keys() & made.keys()):
        old, new = (table.drop(columns=PLACES, errors="ignore").astype(object) for table in (published[name], made[name]))
        if old.shape != new.shape or list(old) != list(new):
            other.append(name)
            continue
        changed = np.argwhere(((old != new) & ~(old.isna() & new.isna())).to_numpy())
        identical += not len(changed)
        for row, k in changed:
            column, before, after = old.columns[k], old.iat[row, k], new.iat[row, k]
            if column in VERDICTS:
                verdicts.append(f"{name}: {before} → {after}")
            elif all(isinstance(value, int | float) and np.isfinite(value) for value in (before, after)):
                size = abs(after - before) / max(1, abs(before))
                numbers.append((size, f"largest difference in {name}, {column}: {before:.4g} → {after:.4g}"))
            else:
                words.add(f"{name}, {column}")
    said = [f"{identical} of {len(published.keys() | made.keys())} tables identical"]
    said += [max(numbers)[1]] if numbers else []
    said += [f"other words in {'; '.join(sorted(words))}"] if words else []
    said += [f"not compared, of other rows or not published: {', '.join(sorted(other))}"] if other else []
    changes = [f"{change} ({count} times)" if count > 1 else change for change, count in Counter(verdicts).items()]
    said += [f"verdicts changed: {'; '.join(changes)}" if changes else "no verdict changed"]
    return "; ".join(said)


def report(published: Mapping[str, pd.DataFrame], folder: Path, begins: tuple[str, ...]) -> str:
    """What ``run_all.sh`` says at its end of the tables whose names begin so; ``published`` was read before it began."""
    if not published:
        return f"Not compared with the published figures/{folder.name}: they were written over, and no git is here to ask."
    old, new = ({name: table for name, table in t.items() if name.startswith(begins)} for t in (published, here(folder)))
    return f"Compared with the published figures/{folder.name}: {compare(old, new)}."
