"""Run the notebooks headless with papermill; ``run_all.sh`` calls this module as a program."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import jupytext
import nbformat
import papermill
import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib import files, plots, settings
from lib.errors import DataError
from lib.experiments import cluster, profiles, progress, runs
from lib.programs import command_line, committed, report
from lib.settings import ROOT

NOTEBOOKS = ROOT / "notebooks"
TEXT = ("data", "label", "labels", "group")  # names of columns and files: a label column may be called 1 or yes
NUMBERS = ("minutes", "min_genes", "min_cells_per_type")


def notebooks(only: list[str] | None = None) -> list[Path]:
    """Paths of the notebooks, in order; of ``only`` (``["01", "03-05"]``) those whose names begin so, or lie so."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        return found
    asked = {start: [path for path in found if _is_asked(path, start.strip())] for start in only}
    if unknown := [start for start, paths in asked.items() if not paths]:
        raise DataError(f"No notebook begins with {unknown[0]!r}. Notebooks: {', '.join(p.stem for p in found)}.")
    return [path for path in found if any(path in paths for paths in asked.values())]


def _is_asked(path, start):
    """Whether a notebook is meant by ``1``, ``01``, ``01_base`` or the range ``01-03``."""
    if ends := re.fullmatch(r"(\d\d?)-(\d\d?)", start):
        return int(ends[1]) <= int(path.name[:2]) <= int(ends[2])
    return bool(start) and path.name.startswith(start.zfill(2) if start.isdigit() else start)


def check_parameters(path: Path, parameters: Iterable[str]) -> None:
    """Refuse names that the notebook's parameters cell does not have (papermill would only log a line)."""
    known = papermill.inspect_notebook(_as_it_is(path))
    for name in parameters:
        if name not in known:
            raise DataError(f"{path.stem} has no parameter {name!r}. It has: {', '.join(known)}.")


def with_parameters(books: list[Path], parameters: Iterable[str]) -> list[Path]:
    """Those of all notebooks that have the parameters, the others said to be left out; refused where none has them."""
    lacking = {path: set(parameters) - papermill.inspect_notebook(_as_it_is(path)).keys() for path in books}
    if all(lacking.values()):
        check_parameters(books[0], parameters)
    for path, names in lacking.items():
        if names:
            print(f"{path.stem} is left out: it has no parameter {', '.join(sorted(names))}.", flush=True)
    return [path for path in books if not lacking[path]]


def check_pair(path: Path) -> None:
    """Refuse a notebook whose .ipynb, which is run, and .py hold other cells: an edit of one would be passed over."""
    script = path.with_suffix(".py")
    if script.exists() and cells(path) != cells(script):
        raise DataError(
            f"notebooks/{path.name} and {script.name} hold other cells. This takes over what was saved last: "
            f"{sys.executable} -m jupytext --sync {script}"
        )


def cells(path: Path) -> list[tuple[str, str]]:
    """The kind and the source of each cell of a notebook, of either form."""
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def execute(path: Path, output: Path, parameters: dict) -> str | DataError | None:
    """Execute one notebook into ``output`` (.ipynb, and .html beside it); return a refusal, another error as text, or None.

    The notebook is written also when a cell fails, so that the reader sees where; whole, when it has ended.
    """
    error, quiet = None, ["--IPKernelApp.log_level=50"]  # failures come through papermill
    kernel = {"kernel_name": "python3", "kernel_manager_class": _Kernel, "cwd": str(path.parent), "extra_arguments": quiet}
    shown = {"progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    with files.replacing(output, "Point SCBERT_FIGURES to a folder that can, with enough space.") as partial:
        partial.write_bytes(path.read_bytes())  # what the reader sees where not even the first cell can be started
        try:
            _in_a_thread(papermill.execute_notebook, _as_it_is(path), _as_it_is(partial), parameters, **kernel, **shown)
        except PapermillExecutionError as failure:
            place = f"cell {failure.cell_index} (In [{failure.exec_count}])"
            said = f"{place}:\n{failure.source.strip()}\n\n{failure.ename}: {failure.evalue}"
            error = DataError(failure.evalue) if failure.ename == DataError.__name__ else said
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
    files.write_text(output.with_suffix(".html"), report.notebook(output))
    return error


class _Kernel(AsyncKernelManager):
    """This interpreter, whatever else is installed under the name python3 where Jupyter looks for kernels."""

    def __init__(self, **how):
        super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **how)


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
    """Leave in an executed notebook what a reader needs: no times, paths, addresses and progress of the machine that ran it."""
    book = nbformat.read(path, as_version=4)
    for part in (book, *book.cells):
        part.metadata.pop("papermill", None)
        part.metadata.pop("execution", None)
    for number, cell in enumerate(cell for cell in book.cells if cell.cell_type == "code"):
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = progress.without(output.text)
            elif "text/html" in output.get("data", {}):  # pandas numbers its tables at random
                output.data["text/html"] = re.sub(r"\bT_[0-9a-f]{5}", f"T_{number:05x}", output.data["text/html"])
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream" or output.text.strip()]
    nbformat.write(book, path)


def main(arguments: list[str]) -> int:
    """Run the notebooks that the command line asks for; 1 if one failed."""
    chosen = command_line.parser(notebooks()).parse_args(arguments)
    profiles.read(chosen.profile)
    parameters = {"profile": chosen.profile} | command_line.read_parameters(chosen.parameters)
    for name in parameters.keys() & {"data", "external", "labels"}:  # the notebooks run in their own folder
        parameters[name] = command_line.place(name, parameters[name], chosen.called_from)
    about = {name: parameters.get(name) for name in ("label", "labels", "group")}
    books = notebooks([start for given in chosen.only or () for start in given.split(",")])
    if not chosen.only:
        books = with_parameters(books, parameters)
    for path in books:
        check_parameters(path, parameters)
        check_pair(path)
    command_line.check_cells(parameters.get("data"), **about)
    variables = settings.given() | {"SCBERT_PROGRESS": settings.progress() or ("bar" if sys.stderr.isatty() else "log")}
    if chosen.force:
        variables["SCBERT_FORCE"] = settings.force() or uuid.uuid4().hex
        print(f"Should this be interrupted, SCBERT_FORCE={variables['SCBERT_FORCE']} ./run_all.sh goes on where it stopped.")
    if chosen.scheduler:
        variables["SCBERT_SCHEDULER"] = chosen.scheduler
    settings.put(variables)  # what the notebooks' kernels start with
    if address := settings.scheduler():
        cluster.connected(address).close()  # one that is not there is said now, not by each notebook
    for ask in (settings.offline, settings.mirror, settings.timeout, settings.workers, settings.force):
        ask()  # a value that means nothing is refused now
    folder = profiles.figures(chosen.profile, parameters.get("data") or parameters.get("dataset"), **about)
    new = folder != chosen.profile and not (settings.figures() / folder).exists()
    with files.writable(settings.figures() / folder, "Point SCBERT_FIGURES to a folder that can."):
        target = plots.folder({"name": folder})
        (target / ".writable").touch()
        (target / ".writable").unlink()
    published = committed.tables(target.name)  # now: without git, the files about to be written over are what there is
    with tempfile.TemporaryDirectory() as temporary:
        journal = Path(temporary) / "journal"
        settings.put(settings.given() | {"SCBERT_JOURNAL": str(journal)})
        failed = _execute_all(books, target, parameters)
        settings.put(variables)
        if used := _used(journal):
            print(used)
    done = [path for path in books if path.stem not in dict(failed)]
    if done and committed.content(f"figures/{target.name}/{committed.SUMS}"):
        print(committed.report(published, target, tuple(path.name[:3] for path in done)))
    if done:
        print(report.summary([target / "notebooks" / path.name for path in done]))
        print(f"Open {report.write(target)}: all answers, figures and tables; the executed notebooks and CSV lie beside it.")
    if new:
        _remove_if_void(target, failed)
    for name, error in failed:
        print(f"\nFAILED {name}{': ' if isinstance(error, DataError) else ', '}{error}", file=sys.stderr)
    return 1 if failed else 0


def _execute_all(books, target, parameters):
    """Execute notebooks one after the other; the names and errors of those that failed."""
    started, failed = time.monotonic(), []
    for count, path in enumerate(books, 1):
        print(f"[{count}/{len(books)}] {path.stem}", flush=True)
        begun = time.monotonic()
        error = execute(path, target / "notebooks" / path.name, parameters)
        said = "failed" if error else "done"
        print(f"[{count}/{len(books)}] {path.stem}: {said} after {time.monotonic() - begun:.0f} s\n", flush=True)
        if error:
            failed.append((path.stem, error))
    if len(failed) < len(books):
        done = f"{len(books) - len(failed)} of {len(books)} notebooks done in {time.monotonic() - started:.0f} s"
        print(f"{done}; figures in {target}")
    return failed


def _remove_if_void(folder, failed):
    """Remove a folder of figures that holds failed notebooks alone."""
    left = {f"{name}{ending}" for name, _ in failed for ending in (".ipynb", ".html")}
    if all(path.name in left for path in folder.rglob("*") if path.is_file()):
        shutil.rmtree(folder)


def _used(journal):
    """How many runs were computed here, and how many were there already, in a sentence; nothing where there was none."""
    if not journal.exists():
        return ""
    lines = journal.read_text(encoding="utf-8").splitlines()
    found = {what: set() for what in ("computed", "stored", "published")}
    for what, names in (item for line in lines for item in json.loads(line).items()):
        found[what] |= set(names)
    stored = len(found["stored"] - found["computed"])
    return f"Runs: {len(found['computed'])} computed, {stored} stored before, {len(found['published'])} published ones used."


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
