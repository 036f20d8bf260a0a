"""Run the notebooks headless with papermill; ``run_all.sh`` calls this module as a program."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import jupytext
import nbformat
import papermill
import psutil
import yaml
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from lib import files, plots, settings
from lib.errors import DataError
from lib.experiments import cluster, profiles, runs
from lib.programs import committed
from lib.settings import ROOT

NOTEBOOKS = ROOT / "notebooks"
TEXT = ("data", "label", "labels", "group")  # names of columns and files: a label column may be called 1 or yes
NUMBERS = ("minutes", "min_genes", "min_cells_per_type")


def notebooks(only: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks, in order; those whose names begin with one of ``only`` (e.g. ``["01", "03"]``)."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        return found
    unknown = [start for start in only if not any(path.name.startswith(start) for path in found)]
    if unknown:
        raise DataError(f"No notebook begins with {unknown[0]!r}. Notebooks: {', '.join(p.stem for p in found)}.")
    return [path for path in found if any(path.name.startswith(start) for start in only)]


def check_parameters(path: Path, parameters: Iterable[str]) -> None:
    """Refuse names that the notebook's parameters cell does not have (papermill would only log a line)."""
    known = papermill.inspect_notebook(_as_it_is(path))
    for name in parameters:
        if name not in known:
            raise DataError(f"{path.stem} has no parameter {name!r}. It has: {', '.join(known)}.")


def read_parameters(given: Iterable[tuple[str, str]]) -> dict:
    """Values of the notebooks' parameters: text as it is written, what counts something as a number, the rest as YAML."""
    found = {}
    for name, value in given:
        try:
            found[name] = value if name in TEXT else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f"-p {name} {value}: the value is no YAML ({' '.join(str(error).split())[:200]}).") from error
        if name in NUMBERS and (isinstance(found[name], bool) or not isinstance(found[name], int | float)):
            raise DataError(f"{name} is {value!r}. Give a number, as in -p {name} 5.")
    return found


def in_step(path: Path) -> bool:
    """Whether a notebook and its script, if it has one, hold the same cells."""
    script = path.with_suffix(".py")
    if not script.exists():
        return True
    one, other = ([(cell.cell_type, cell.source) for cell in jupytext.read(each).cells] for each in (path, script))
    return one == other


def execute(path: Path, output: Path, parameters: dict) -> str | None:
    """Execute one notebook into ``output`` (.ipynb, and .html beside it); return the error as text, or None.

    The notebook is written also when a cell fails, so that the reader sees where; whole, when it has ended.
    """
    error, quiet = None, ["--IPKernelApp.log_level=50"]  # failures come through papermill
    kernel = {"kernel_name": "python3", "cwd": str(path.parent), "extra_arguments": quiet}
    shown = {"progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    with files.replacing(output, "Point SCBERT_FIGURES to a folder that can, with enough space.") as partial:
        partial.write_bytes(path.read_bytes())  # what the reader sees where not even the first cell can be started
        try:
            _in_a_thread(papermill.execute_notebook, _as_it_is(path), _as_it_is(partial), parameters, **kernel, **shown)
        except PapermillExecutionError as failure:
            place = f"cell {failure.cell_index} (In [{failure.exec_count}])"
            error = f"{place}:\n{failure.source.strip()}\n\n{failure.ename}: {failure.evalue}"
        except DeadKernelError:
            memory = psutil.virtual_memory()
            error = (
                "the notebook's process was ended from outside, as it is where memory is short "
                f"({memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB are free now). What is done is kept: "
                "free some, or let fewer runs go side by side (SCBERT_WORKERS=1), and run again."
            )
        except Exception as failure:  # noqa: BLE001 - a dead kernel, a missing kernel: each package raises its own kinds
            error = f"{type(failure).__name__}: {failure}"
        _strip(partial)
    files.write_text(output.with_suffix(".html"), HTMLExporter().from_filename(str(output))[0])
    return error


def _as_it_is(path):
    """A path for papermill, which would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _in_a_thread(function, *arguments, **named):
    """Call a function in a thread, so that signals are this one's, not nbclient's; interrupted, end all that was started."""
    with ThreadPoolExecutor(1) as thread:
        called = thread.submit(function, *arguments, **named)
        try:
            return called.result()
        except KeyboardInterrupt:
            kernels, started = (psutil.Process().children(recursive=deep) for deep in (False, True))
            for kernel in kernels:
                with contextlib.suppress(psutil.NoSuchProcess):
                    kernel.terminate()  # it ends its own workers, and the notebook with them
            wait([called], timeout=5)
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise


def _strip(path):
    """Leave in an executed notebook what a reader needs: no times and no paths of the machine that ran it."""
    book = nbformat.read(path, as_version=4)
    for part in (book, *book.cells):
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
    nbformat.write(book, path)


def main(arguments: list[str]) -> int:
    """Run the notebooks that the command line asks for; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="./run_all.sh", description="Run every notebook and write figures/<profile>/.")
    parser.add_argument("--profile", default="quick", help="smoke, quick, … (lib/experiments/ladder); default: quick")
    parser.add_argument("--only", action="append", metavar="NN", help="only these notebooks, e.g. 01 or 01,02")
    parser.add_argument("--force", action="store_true", help="do all runs again, also those that are stored or published")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler that shall do the runs")
    value = "a parameter of the notebooks, its value as YAML (5, [0, 1], text); may be repeated"
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    parser.add_argument("--from", dest="called_from", default=".", help=argparse.SUPPRESS)  # what paths are meant from
    chosen = parser.parse_args(arguments)
    profiles.read(chosen.profile)
    parameters = {"profile": chosen.profile} | read_parameters(chosen.parameters)
    for name in parameters.keys() & {"data", "labels"}:  # the notebooks run in their own folder
        path = Path(chosen.called_from, Path(parameters[name]).expanduser())
        if path.exists():
            parameters[name] = str(path.resolve())
    books = notebooks([start for given in chosen.only or () for start in given.split(",")])
    for path in books:
        check_parameters(path, parameters)
    mend = f"{Path(sys.executable)} -m jupytext --sync notebooks"
    differ = [
        f"notebooks/{path.stem}.py and .ipynb differ, and the .ipynb is what runs. This takes over the one saved last: "
        f"{mend}/{path.stem}.py"
        for path in books
        if not in_step(path)
    ]
    print(*differ, sep="\n", end="\n" * bool(differ), file=sys.stderr, flush=True)
    variables = settings.given() | {"SCBERT_PROGRESS": "log"}
    if chosen.force:
        variables["SCBERT_FORCE"] = settings.force() or uuid.uuid4().hex
        print(f"Should this be interrupted, SCBERT_FORCE={variables['SCBERT_FORCE']} ./run_all.sh goes on where it stopped.")
    if chosen.scheduler:
        variables["SCBERT_SCHEDULER"] = chosen.scheduler
    settings.put(variables)  # what the notebooks' kernels start with
    if address := settings.scheduler():
        cluster.connected(address).close()  # one that is not there is said now, not by each notebook
    asked = [parameters.get(name) for name in ("label", "labels", "group")]
    folder = profiles.figures(chosen.profile, parameters.get("data") or parameters.get("dataset"), *asked)
    with files.writable(settings.figures() / folder, "Point SCBERT_FIGURES to a folder that can."):
        target = plots.folder({"name": folder})
        (target / ".writable").touch()
        (target / ".writable").unlink()
    published = committed.tables(target.name)  # now: without git, the files about to be written over are what there is
    started, failed = time.time(), []
    for count, path in enumerate(books, 1):
        print(f"[{count}/{len(books)}] {path.stem}", flush=True)
        begun = time.time()
        error = execute(path, target / "notebooks" / path.name, parameters)
        said = "failed" if error else "done"
        print(f"[{count}/{len(books)}] {path.stem}: {said} after {time.time() - begun:.0f} s\n", flush=True)
        if error:
            failed.append((path.stem, error))
    done = f"{len(books) - len(failed)} of {len(books)} notebooks done in {time.time() - started:.0f} s"
    print(f"{done}; figures in {target}")
    if committed.content(f"figures/{target.name}/{committed.SUMS}"):
        begins = tuple(path.name[:3] for path in books if path.stem not in dict(failed))
        print(committed.report(published, target, begins))
    print(*differ, sep="\n", end="\n" * bool(differ), file=sys.stderr)
    for name, error in failed:
        print(f"\nFAILED {name}, {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        with runs.stoppable():
            status = main(sys.argv[1:])
    except KeyboardInterrupt as stop:
        print("\n./run_all.sh: interrupted. What is done is kept; the same command goes on where it stopped.", file=sys.stderr)
        status = 128 + (signal.SIGTERM if isinstance(stop, runs.Terminated) else signal.SIGINT)
    except DataError as refusal:
        print(f"./run_all.sh: {refusal}", file=sys.stderr)
        status = 2
    raise SystemExit(status)
