"""Look after the store: ``python -m lib.runs list``, ``show``, ``verify``, ``export``, ``import``, ``merge`` or ``remove``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import yaml

from lib import settings
from lib.errors import DataError
from lib.experiments import archive, exchange, inventory, profiles, store
from lib.experiments.names import LOADED, run_id
from lib.experiments.tasks import dependencies

COLUMNS = ("run", "profile", "what", "arm", "fraction", "seed", "state", "size", "age")
REMEDIES = {
    "runs": "It is done again when it is asked for; or: python -m lib.runs remove",
    "checkpoints": "Training starts again when the run is asked for.",
    "downloads": "Delete it: it is downloaded again (python -m lib.datasets).",
    "archives": "",  # its words say what to do
}
WRITTEN_AGAIN = "It is written again when a profile is loaded that needs it."


def describe(spec: dict) -> str:
    """A run in a few words.

    >>> describe({"task": "cell_types", "arm": "no_gene2vec", "fraction": 0.5, "seed": 1})
    'cell types · no gene2vec · fraction 0.5 · seed 1'
    """
    words = [spec["task"].replace("_", " "), spec["arm"].replace("_", " ")]
    words += [f"{name.replace('_', ' ')} {spec[name]}" for name in ("left_out", "fraction", "seed") if name in spec]
    return " · ".join(words)


def bytes_in_words(number: int) -> str:
    """
    >>> bytes_in_words(999), bytes_in_words(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000


def age_in_words(seconds: float) -> str:
    """
    >>> age_in_words(50), age_in_words(7300), age_in_words(1e6)
    ('50 s', '2 h', '11 days')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def row(run: inventory.Stored, named: dict) -> dict:
    """A line of the list: what is shown of a run, by column."""
    spec, (state, words) = run.spec or {}, run.state
    of = ", ".join(named.get(run.cells, ())) or spec.get("data", {}).get("dataset", "?")
    if state == "done" and run.environment["code"] != LOADED:
        words = f"by code {run.environment['code'][:8]}"
    what = {"what": spec.get("task", "?").replace("_", " "), "arm": spec.get("arm", "?")}
    what |= {"fraction": spec.get("fraction", ""), "seed": spec.get("seed", "")}
    shown = {"state": f"{state} ({words})" if words else state, "size": bytes_in_words(run.size)}
    return {"run": run.id, "profile": of} | what | shown | {"age": age_in_words(time.time() - run.changed)}


def table(rows: list[dict]) -> str:
    """Rows in columns as wide as what is in them."""
    lines = [{name: name for name in COLUMNS}, *rows]
    widths = [max(len(str(line[name])) for line in lines) for name in COLUMNS]
    return "\n".join("  ".join(str(line[name]).ljust(width) for name, width in zip(COLUMNS, widths)).rstrip() for line in lines)


def show_list(words: list[str]) -> int:
    """Every run of the store, those alone whose line has all the words."""
    named = inventory.named()
    found = [(run, row(run, named)) for run in inventory.runs()]
    found = [(run, line) for run, line in found if all(any(word in str(part) for part in line.values()) for word in words)]
    found.sort(key=lambda one: [str(one[1][name]) for name in ("profile", "what", "arm", "fraction", "seed", "run")])
    if found:
        print(table([line for _, line in found]))
    states = Counter(run.state[0] for run, _ in found)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    print(f"{len(found)} runs in {settings.cache() / 'runs'}: {counted}; {bytes_in_words(sum(run.size for run, _ in found))}")
    return 0


def show(beginning: str) -> int:
    """All that is known of one run."""
    run = inventory.find(beginning)
    state, words = run.state
    about = run.environment
    lines = {
        "state": f"{state}{f' ({words})' if words else ''}, last written {age_in_words(time.time() - run.changed)} ago",
        "folder": run.folder,
        "files": ", ".join(f"{p.name} {bytes_in_words(p.stat().st_size)}" for p in sorted(run.folder.iterdir())),
    }
    if about:
        packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
        code = "this code" if about["code"] == LOADED else f"code {about['code'][:8]}, here it is {LOADED[:8]}"
        took = f", in {about['seconds']} s" if "seconds" in about else ""
        lines["computed"] = f"{about['date']}{took}, by {code}, on {about['platform']} ({about['device']})"
        lines["with"] = f"Python {about['python']}, {packages}, threads: {about['threads']}"
    print(f"Run {run.id}" + (f": {describe(run.spec)}" if run.spec else ""))
    if run.spec:
        needed = [f"{run_id(other, about.get('code'))} ({describe(other)})" for other in dependencies(run.spec)]
        lines["begins with"] = ", ".join(needed) or "nothing that is computed before"
    if state == "done" and len(log := store.Run(run.spec, about["code"]).log):
        lines["log"] = f"{len(log)} rows; the last: {', '.join(f'{key} {value}' for key, value in log.iloc[-1].items())}"
    print("\n".join(f"{name:<12}{value}" for name, value in lines.items()))
    print(json.dumps(run.spec, indent=1, sort_keys=True))
    return 0


def verify() -> int:
    """Compare every stored file with its hash; 1 where one is damaged."""
    counts, damaged = Counter(), 0
    for kind, path, wrong in inventory.verify():
        counts[kind] += 1
        if wrong:
            damaged += 1
            print(f"DAMAGED {path} {wrong}. {REMEDIES.get(kind, WRITTEN_AGAIN)}".rstrip())
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing is stored"
    print(f"Compared with their hashes: {said}. {f'{damaged} damaged.' if damaged else 'All whole.'}")
    return 1 if damaged else 0


def export(name: str, parameters: dict) -> int:
    """Write data/runs/<profile>.zip from the store."""
    chosen = profiles.load(name, **parameters)
    probes = frozenset([chosen["probe"]["fingerprint"]]) if chosen.get("probe") else frozenset()
    path, count = archive.write(chosen["name"], {chosen["fingerprint"]}, probes)
    print(f"{path}: {count} runs, {bytes_in_words(path.stat().st_size)}")
    return 0


def take(path: Path) -> int:
    """Take over an archive."""
    target, new, there = exchange.take(path)
    print(f"{path}: every hash is right. {new} runs taken into {target}; {there} were here already.")
    return 0


def merge(folder: Path) -> int:
    """Take over another store's finished runs; 1 where one is damaged there."""
    counts, damaged = Counter(), 0
    for name, what in exchange.merge(folder):
        if what in exchange.OUTCOMES:
            counts[what] += 1
        else:
            damaged += 1
            print(f"DAMAGED run {name} {what}: left out.")
    said = ", ".join(f"{count} {what}" for what, count in counts.items()) or "none that is whole"
    print(f"Finished runs of {folder}: {said}{f'; {damaged} damaged there' if damaged else ''}.")
    return 1 if damaged else 0


def remove(chosen: list[str], parameters: dict, yes: bool) -> int:
    """Remove the runs that are named, or those that no profile asks for; without ``yes`` only list them."""
    unknown = []
    if chosen:
        found = [(inventory.find(beginning), "named") for beginning in chosen]
        if busy := [run.id for run, _ in found if run.state[0] == "running"]:
            raise DataError(f"A process is at run {', '.join(busy)}: nothing was removed. Wait for it, or end it first.")
    else:
        found, unknown = inventory.unused(parameters)
    named = inventory.named()
    if found:
        print(table([row(run, named) | {"state": reason} for run, reason in found]))
    for words in unknown:
        print(f"Kept: runs over {words}.")
    size = bytes_in_words(sum(run.size for run, _ in found))
    if yes:
        print(f"{inventory.remove([run for run, _ in found])} runs removed, {size}.")
    else:
        print(f"{len(found)} runs, {size}: nothing was removed.{' With --yes they are.' if found else ''}")
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.runs", description="Look after the runs of SCBERT_CACHE.")
    programs = parser.add_subparsers(dest="program", required=True, metavar="PROGRAM")

    def program(name, about, **others):
        return programs.add_parser(name, help=about, description=about, **others)

    one = program("list", "every run: profile, what it is, its state (done, running, unfinished, damaged), size and age")
    one.add_argument("words", nargs="*", help="only runs whose line has these words, such as: running, or laptop full")
    one = program("show", "all that is known of one run")
    one.add_argument("run", help="its identifier, or how it begins")
    program("verify", "compare every stored file with its hash: runs, cells, corpora, embeddings, downloads, archives")
    value = "an entry of the profile, its value as YAML; may be repeated"
    one = program("export", "publish a profile's finished runs: write data/runs/<profile>.zip, without weights")
    one.add_argument("profile")
    one.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    one = program("import", "take over an archive of runs that somebody else exported, verified before anything is taken")
    one.add_argument("file", type=Path)
    one = program("merge", "take over another store's finished runs, verified; what is finished here stays")
    one.add_argument("folder", type=Path, help="what SCBERT_CACHE is there")
    one = program("remove", "list what no profile asks for, or the runs named; with --yes remove them. Never a running one")
    one.add_argument("runs", nargs="*", help="identifiers, or how they begin")
    one.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    one.add_argument("--yes", action="store_true", help="remove them")
    given = parser.parse_args(arguments)
    parameters = {name: yaml.safe_load(value) for name, value in getattr(given, "parameters", [])}
    return {
        "list": lambda: show_list(given.words),
        "show": lambda: show(given.run),
        "verify": verify,
        "export": lambda: export(given.profile, parameters),
        "import": lambda: take(given.file),
        "merge": lambda: merge(given.folder),
        "remove": lambda: remove(given.runs, parameters, given.yes),
    }[given.program]()


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except DataError as refusal:
        print(f"python -m lib.runs: {refusal}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # who read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)
