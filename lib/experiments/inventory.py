"""What lies in a store: each run and its state, whether every file is what its hash says, and what no profile asks for."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib import settings
from lib.datasets import downloads
from lib.errors import DataError
from lib.experiments import archive, profiles, specs, store
from lib.experiments.names import code_hash, run_id
from lib.experiments.tasks import dependencies
from lib.files import SEAL, sealed, writable
from lib.prepare import cells

SEALED = ("corpus", "gene2vec", "plans")  # folders of the cache whose files have their hash beside them


@dataclass(frozen=True)
class Stored:
    """A folder of the store."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @cached_property
    def spec(self) -> dict | None:
        """Its specification; None where none can be read."""
        return self._read("spec.json")

    @cached_property
    def environment(self) -> dict:
        """What computes or computed it; empty where that cannot be read."""
        return self._read("environment.json") or {}

    def _read(self, name):
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    @cached_property
    def state(self) -> tuple[str, str]:
        """``done``, ``running`` (a process is at it), ``unfinished`` or ``damaged``; and how far it is, or what is wrong."""
        if store.held(self.folder):
            return "running", self.progress
        if (self.folder / "DONE").exists():
            wrong = store.fault(self.folder)
            return ("damaged", wrong) if wrong else ("done", "")
        try:
            whose = store.owner(self.folder)
        except FileNotFoundError:  # killed before it began
            return "unfinished", "not begun"
        except Exception:  # noqa: BLE001 - damaged, in whatever way
            return "damaged", "has no specification that can be read"
        return ("unfinished", self.progress) if whose == self.id else ("damaged", f"there lies run {whose}")

    @property
    def progress(self) -> str:
        """How far an unfinished run is, as its checkpoint says."""
        found = sorted(self.folder.glob("checkpoint*.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            return "no checkpoint yet"
        import torch

        try:
            log = torch.load(found[-1], map_location="cpu", weights_only=True, mmap=True)["log"]
            training, row = self.spec["training"], log[-1]
            if "epochs" in training:
                return f"{len(log)} of {training['epochs']} epochs, loss {row['loss']:.3f}"
            return f"{row['steps']:,} steps, loss {row['loss']:.3f}"
        except Exception:  # noqa: BLE001 - just replaced, or damaged: who takes the run up says so
            return "its checkpoint cannot be read"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @property
    def changed(self) -> float:
        """When a file of it was last written, in seconds since 1970."""
        return max((path.stat().st_mtime for path in [self.folder, *self.folder.iterdir()]), default=0.0)

    @property
    def cells(self) -> str | None:
        """Fingerprint of the cells that it, or the classifier that it asks, learnt from."""
        spec = self.spec or {}
        return (spec.get("trained") or spec).get("data", {}).get("fingerprint")


def runs() -> list[Stored]:
    """All run folders of the store, by name."""
    return [Stored(path) for path in sorted((settings.cache() / "runs").glob("[!.]*")) if path.is_dir()]


def find(beginning: str) -> Stored:
    """The one run whose identifier begins so."""
    found = [run for run in runs() if run.id.startswith(beginning)]
    if len(found) != 1:
        said = f"{len(found)} runs, {', '.join(run.id for run in found[:5])} …," if found else "No run"
        raise DataError(f"{said} of {settings.cache() / 'runs'} begin with {beginning!r}. python -m lib.runs list shows all.")
    return found[0]


def verify() -> Iterator[tuple[str, Path, str | None]]:
    """Compare every stored file with its hash: its kind, its path, and what is wrong in words, or None."""
    for run in runs():
        state, words = run.state
        if state in ("done", "damaged"):
            yield "runs", run.folder, words or None
        for path in run.folder.glob("checkpoint*.pt"):
            yield "checkpoints", path, _zip_fault(path)
    for path in sorted((settings.cache() / "cells").glob("[!.]*.npz")):
        yield "prepared cells", path, cells.fault(path)
    for kind in SEALED:
        for path in sorted((settings.cache() / kind).rglob("*")):
            if path.is_file() and path.suffix not in (SEAL, ".lock") and not _under_way(path):
                yield kind, path, None if sealed(path) else "is not what the hash beside it says, or has none"
    for entry in downloads.registry().values():
        if (path := settings.downloads() / entry["file"]).is_file():
            yield "downloads", path, downloads.differs(entry, path)
    for path in sorted(archive.folder().glob("[!.]*.zip")):
        yield "archives", path, archive.fault(path)


def _zip_fault(path):
    try:
        with zipfile.ZipFile(path) as file:
            return (wrong := file.testzip()) and f"is damaged ({wrong})"
    except FileNotFoundError:  # its run has just ended
        return None
    except Exception as error:  # noqa: BLE001 - whatever a truncated zip raises
        return f"is damaged ({error})"


def _under_way(path):
    return any(part.startswith(".") or part.endswith(".partial") for part in path.relative_to(settings.cache()).parts)


def named() -> dict[str, dict[str, dict]]:
    """The profiles that prepared cells are of: by fingerprint, and by name, how each is loaded (``profile``, ``dataset``)."""
    found = {}
    for path in sorted((settings.cache() / "cells").glob("[!.]*.json")):
        fingerprint, name = path.stem.split(".", 1)
        with contextlib.suppress(OSError, ValueError):
            found.setdefault(fingerprint, {})[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def unused(parameters: dict | None = None) -> tuple[list[tuple[Stored, str]], list[str]]:
    """Runs that no profile asks for, or that are damaged, each with the reason; and, in words, which could not be judged.

    Parameters
    ----------
    parameters : dict, optional
        Overrides, as :func:`lib.experiments.profiles.load` takes them: what a profile asks for with these is used too.
    """
    code, there, notes, found, unknown = code_hash(), runs(), named(), [], set()
    used, judged = _asked({run.cells for run in there} & notes.keys(), notes, parameters or {}, unknown)
    for run in there:
        state, words = run.state
        trained = (run.spec or {}).get("trained")
        if state == "running":
            continue
        if state == "damaged":
            found.append((run, f"damaged: {words}"))
        elif run.id in used or (trained and run_id(trained, code) in used):
            continue
        elif not run.environment:
            found.append((run, words))
        elif run.environment["code"] != code:
            found.append((run, f"computed by code {run.environment['code'][:8]}, here it is {code[:8]}"))
        elif run.cells in judged:
            found.append((run, "no profile asks for it"))
        else:
            unknown.add(f"{run.spec['data']['dataset']}: which profile these cells are of is not known here")
    return found, sorted(unknown)


def _asked(fingerprints, notes, parameters, unknown):
    """Identifiers of all runs that the profiles of these cells ask for; and the cells whose profiles could be loaded."""
    used, judged = set(), set()
    for fingerprint in fingerprints:
        for name, how in notes[fingerprint].items():
            try:
                if not how["profile"]:
                    raise DataError("a profile made for a file")
                for overrides in [{}, parameters] if parameters else [{}]:
                    _gather(specs.asked(profiles.load(how["profile"], **({"dataset": how["dataset"]} | overrides))), used)
            except DataError as error:
                unknown.add(f"{name}: {error}")
                break
        else:
            judged.add(fingerprint)
    return used, judged


def _gather(wanted, used):
    for spec in wanted:
        if (name := run_id(spec)) not in used:
            used.add(name)
            _gather(dependencies(spec), used)


def remove(chosen: Sequence[Stored]) -> int:
    """Remove runs, each unless a process is at it, and its lock; return how many went."""
    count = 0
    for run in chosen:
        with writable(run.folder), store.claimed(run.folder) as free:
            if free:
                shutil.rmtree(run.folder)
                run.folder.with_suffix(".lock").unlink()
                count += 1
    return count
