"""One bar over all runs of a call, by the work that is expected of each; in a log, a line every half minute.

What a kind of run takes is learnt from those that have finished; until one has, it is what such runs took in the published
``laptop`` runs, in proportion to what the others take here.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from types import MappingProxyType

from tqdm.auto import tqdm as tqdm_auto
from tqdm.std import tqdm as tqdm_text

from lib import settings

EVERY = 30  # seconds between two lines of a log
# Seconds that a run took in the median, by task and by how scBERT knows genes (:func:`kind`); others take no second.
SHORT = 0.3
TOOK = {
    ("pretraining", "own"): 804,
    ("pretraining", "none"): 20,
    ("cell_types", "own"): 140,
    ("cell_types", "none"): 12,
    ("masked", "own"): 9,
    ("representations", "own"): 100,
    ("representations", "none"): 13,
    ("representations", "other"): 23,
}
# What progress writes, piece by piece (a carriage return ends one too); what an executed notebook need not keep.
PIECES = r"Runs: |.*\d+%\||\d+ of \d+ runs are stored already|\d+ runs, \d+ at a time"


def kind(spec: dict) -> tuple[str, str]:
    """What decides how long a run takes: its task, and whether scBERT computes every gene for itself.

    >>> kind({"task": "cell_types", "model": "scBERT", "gene_embedding": None})
    ('cell_types', 'none')
    """
    model = spec.get("pretraining") or spec.get("trained") or spec
    if spec.get("model") != "scBERT":
        return spec["task"], "other"
    return spec["task"], "none" if model.get("gene_embedding") is None else "own"


def expected(wanted: tuple[str, str], took: dict[tuple[str, str], list[float]]) -> float:
    """Seconds that a run of this kind is expected to take; ``took``: those of finished runs, by kind.

    >>> expected(("cell_types", "none"), {})
    12
    >>> expected(("cell_types", "none"), {("cell_types", "own"): [70.0]})  # a machine, or cells, of half the time
    6.0
    >>> expected(("cell_types", "none"), {("cell_types", "none"): [8.0, 10.0]})
    9.0
    """
    if took.get(wanted):
        return sum(took[wanted]) / len(took[wanted])
    known = {which: seconds for which, seconds in took.items() if which in TOOK}  # of a second's run nothing is learnt
    here, there = sum(map(sum, known.values())), sum(len(seconds) * TOOK[which] for which, seconds in known.items())
    return TOOK.get(wanted, SHORT) * (here / there if known else 1)


def share_and_left(
    left: Counter, took: dict, elapsed: float, places: int | None, idle: float = 0.0
) -> tuple[float, float | None]:
    """The share of the work that is done, and the seconds that are left, about; None where runs take longer than expected.

    Parameters
    ----------
    left : Counter
        Runs that have not finished, by kind.
    took : dict
        Seconds of those that have, by kind.
    elapsed : float
    places : int, optional
        How many runs go side by side. What these have spent on runs that have not finished counts as done, up to nine tenths.
        Where it is not known, as on a cluster, it is told from the seconds of the finished ones.
    idle : float
        Seconds for which places had no run, all of them together.

    Examples
    --------
    >>> share_and_left(Counter({("cell_types", "own"): 3}), {("cell_types", "own"): [10.0]}, 10.0, 1)
    (0.25, 30.0)
    >>> share_and_left(Counter({("cell_types", "own"): 1}), {("cell_types", "own"): [10.0]}, 30.0, 1)
    (0.95, None)
    """
    rest = sum(count * expected(which, took) for which, count in left.items())
    done = sum(map(sum, took.values()))
    places = places or max(1.0, done / max(elapsed, 1))
    spent, most = max(0.0, elapsed * places - idle - done), 0.9 * rest
    under_way = min(spent, most)
    rest -= under_way
    seconds = None if spent > most else rest / max(1, min(places, left.total()))
    return (done + under_way) / max(done + under_way + rest, 1e-9), seconds


@contextlib.contextmanager
def shown(
    specs: Mapping[str, dict], places: int | None, quiet: bool, needs: Mapping[str, Set[str]] = MappingProxyType({})
) -> Iterator[Callable[[str, dict, float], None]]:
    """Show how far some runs are, from now to the end of the block; gives what is to be called as each finishes.

    Parameters
    ----------
    specs : mapping
        Of runs, by name.
    places : int, optional
        How many of them go side by side, where that is known.
    quiet : bool
        Whether the runs' own bars are left out.
    needs : mapping
        By name, those which a run waits for; a place that has to wait too does no work.

    Yields
    ------
    callable (name, spec, seconds)
    """
    waiting, left = dict.fromkeys(specs), Counter(map(kind, specs.values()))
    took, started = defaultdict(list), time.monotonic()
    total, mode, over = len(specs), settings.progress(), threading.Event()
    idle, changed, furthest = 0.0, started, 0.0
    if not total:
        yield lambda *_: None
        return
    bar = None
    if mode in (None, "bar"):
        how = {"total": 100, "leave": False, "bar_format": "Runs: {percentage:3.0f}%|{bar}| {desc}"}
        bar = tqdm_text(**how, ncols=78, nrows=20) if mode else tqdm_auto(**how)

    def tell():
        nonlocal furthest
        elapsed = time.monotonic() - started
        share, seconds = share_and_left(left.copy(), took, elapsed, places, idle + unused(time.monotonic() - changed))
        learnt = took and (took.keys() & TOOK.keys() or not (+left).keys() & TOOK.keys())  # not from short runs about long ones
        furthest = max(furthest, share)  # where a kind takes longer than was thought the bar waits; it never goes back
        words = f"{total - left.total()} of {total} done"
        if seconds is None:
            words += ", the rest takes longer than expected"
        elif learnt:
            words += f", about {clock(seconds)} left"
        if bar is not None:
            bar.n = 100 * furthest
            bar.set_description_str(words)
        elif mode == "log":
            words += "" if seconds is None else f", {furthest:.0%} of the work"
            print(f"Runs: {words}, {clock(elapsed)} so far", flush=True)

    def tick():
        while not over.wait(1 if bar is not None else EVERY):
            tell()

    def unused(seconds):
        """Seconds of all places without a run, of this time since one finished."""
        ready = sum(not waiting.keys() & needs.get(name, set()) for name in list(waiting))
        return max(0, (places or 0) - ready) * seconds

    def finished(name, spec, seconds):
        nonlocal idle, changed
        now = time.monotonic()
        idle, changed = idle + unused(now - changed), now
        waiting.pop(name, None)
        left.subtract([kind(spec)])
        took[kind(spec)].append(seconds)
        note("computed", [name])

    ticking = threading.Thread(target=tick, name="progress", daemon=True)
    ticking.start()
    before = settings.given()
    if quiet:
        settings.put(before | {"SCBERT_PROGRESS": "off"})
    try:
        yield finished
    finally:
        settings.put(before)
        over.set()
        ticking.join()
        if bar is not None:
            bar.close()
        done = total - left.total()
        print(
            f"Runs: {done if done == total else f'{done} of {total}'} computed in {clock(time.monotonic() - started)}.",
            flush=True,
        )


def note(what: str, names: Iterable[str]) -> None:
    """Add to the file that ``SCBERT_JOURNAL`` names, if any, that these runs were ``computed``, or served as ``stored`` …"""
    if path := settings.journal():
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({what: list(names)}) + "\n")


def without(text: str) -> str:
    r"""A text that a notebook printed, without what tells of progress.

    >>> without("Runs:   3%|#   |\rRuns: 12%|##  |\rC = 0.1\nRuns: 4 computed in 0:12.\n")
    'C = 0.1\n'
    """
    pieces = re.findall(r"[^\r\n]*[\r\n]+|[^\r\n]+", text)
    return "".join(piece for piece in pieces if piece.strip() and not re.match(PIECES, piece.strip()))


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds.

    >>> clock(69.4), clock(3723)
    ('1:09', '1:02:03')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
