"""The command line of ``run_all.sh``: its options, what ``--help`` says, and parameters checked before anything runs."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import papermill
import yaml
from anndata import AnnData

from lib import settings
from lib.datasets import candidates, catalogue, reading
from lib.errors import DataError
from lib.experiments import profiles, schema
from lib.prepare import screen
from lib.programs import report

TEXT = ("profile", "dataset", "data", "label", "labels", "group", "external")  # taken as it is written
EXAMPLE = "-p data my_cells.h5ad -p label cell_type (a name, a blank, its value)"
EXAMPLES = """examples:
  ./run_all.sh                                           every notebook on 700 cells, minutes
  ./run_all.sh --profile laptop                          the profile that carries the claims, from published runs
  ./run_all.sh --only 01,05-07 -p seeds "[0, 1]"         some notebooks, two seeds
  ./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type    your own cells
"""


class Parser(argparse.ArgumentParser):
    """Refusals that end with an example, in place of a list of all options."""

    def error(self, message):
        self.exit(2, f"./run_all.sh: {message}. A notebook's parameter: {EXAMPLE}; all there is: ./run_all.sh --help\n")


def parser(books: list[Path]) -> argparse.ArgumentParser:
    """The options, and for ``--help`` what one can give: examples, notebooks with their parameters, variables."""
    parser = Parser(
        prog="./run_all.sh",
        description="Set up what is missing, run every notebook, and write figures/<profile>/ with index.html.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=guide(books) if {"-h", "--help"} & set(sys.argv) else None,
    )
    known = ", ".join(sorted(path.stem for path in profiles.FOLDER.glob("*.yaml")))
    parser.add_argument("--profile", default="quick", help=f"one of {known} (lib/experiments/ladder); default: quick")
    parser.add_argument("--only", action="append", metavar="NN", help="only these notebooks, e.g. 1 or 01,02 or 01-03")
    parser.add_argument("--force", action="store_true", help="do all runs again, also those that are stored or published")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler that shall do the runs")
    value = "a parameter of the notebooks, its value as YAML (5, [0, 1], text); may be repeated"
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    parser.add_argument("--from", dest="called_from", default=".", help=argparse.SUPPRESS)  # what paths are meant from
    return parser


def guide(books: list[Path]) -> str:
    """What ``--help`` says besides the options: examples, the notebooks, their parameters, the variables."""
    lines, parameters = [EXAMPLES, "notebooks:"], {}
    for path in books:
        number, title = report.title(nbformat.read(path, as_version=4))
        lines.append(f"  {path.stem[:2]}  {title}")
        for name, about in papermill.inspect_notebook(str(path)).items():
            parameters.setdefault(name, (about["default"], about["help"], []))[2].append(f"{number}")
    lines += ["", "parameters (-p), of which notebooks, and what stands for them otherwise:"]
    lines += [f"  {name:<9} {','.join(of):<16} {default:<8} {words}" for name, (default, words, of) in parameters.items()]
    table = settings.__doc__.split("\n\n")[1].splitlines()[3:-1]
    return "\n".join([*lines, "", "environment variables:", *(f"  {line}" for line in table)])


def place(name: str, given: str, called_from: str) -> str:
    """The whole path of a file that was given from another folder, or the name of a data set."""
    path = Path(called_from, Path(given).expanduser())
    if path.exists():
        return str(path.resolve())
    if given in catalogue.CARDS and name != "labels":
        return given
    catalogue.no_address(given)
    folder = path.parent.resolve()
    where = f"in {folder}" if Path(given).expanduser().is_absolute() else f"below {Path(called_from).resolve()}"
    where = where if folder.is_dir() else f"and no folder {folder}"
    beside = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, 1) or [None]
    said = f"-p {name} {given}: there is no such file {where}"
    if near[0]:
        raise DataError(f"{said}. Did you mean {near[0]}?", f"-p {name} {shlex.quote(str(Path(given).with_name(near[0])))}")
    if name == "labels":
        raise DataError(f"{said}.", "Give the path of a CSV or TSV with the cells' names and their types.")
    raise DataError(
        f"{said}, and no data set of that name.", f"Give the path of an .h5ad file, or one of {', '.join(catalogue.CARDS)}."
    )


def check_cells(data: str | None, label: str | None = None, labels: str | None = None, group: str | None = None) -> None:
    """Refuse, before a notebook starts, a reader's cells whose labels or groups cannot be used, as far as no matrix tells it.

    Parameters
    ----------
    data, labels : str, optional
        As :func:`place` gives them.
    label, group : str, optional
        Columns.
    """
    if data is None or data in catalogue.CARDS:
        return
    obs = reading.glance(Path(data), label, labels)
    if group is None or obs is None:
        return
    if group not in obs:
        could = screen.group_columns(obs) or [str(name) for name in obs.columns.difference(candidates.ADDED)]
        near = candidates.meant(group, map(str, obs.columns)) or (could or [None])[0]
        raise DataError(
            f"{data} has no column {group!r} to keep groups of cells apart by. "
            f"Columns that could be: {candidates.told(obs, could) or 'none'}.",
            f"Name one: -p group {shlex.quote(near)}" if near else "Leave group out.",
        )
    screen.grouped(AnnData(obs=obs[obs["cell_type"].notna()].copy()), group, data)


def read_parameters(given: Iterable[tuple[str, str]]) -> dict:
    """Values of the notebooks' parameters, of the types that they take: text as it is written, the rest as YAML."""
    found = {}
    for name, value in given:
        if "=" in name:
            raise DataError(f"-p {name}: an equals sign. Write {EXAMPLE}.")
        try:  # names of columns and files: a label column may be called 1 or yes
            found[name] = value if name in TEXT else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f'-p {name} {value}: the value is no YAML. Quote it: -p {name} "[0, 1]".') from error
    known = {name: value for name, value in found.items() if name in schema.Parameters.model_fields}
    schema.check(schema.Parameters, known, "-p")
    return found
