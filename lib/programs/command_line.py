"""The command line of ``run_all.sh``: its options, what ``--help`` says, and parameters checked before anything runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import papermill
import yaml

from lib import settings
from lib.datasets import catalogue
from lib.errors import DataError
from lib.experiments import profiles, schema
from lib.programs import report

TEXT = ("profile", "dataset", "data", "label", "labels", "group", "external")  # taken as it is written
EXAMPLES = """examples:
  ./run_all.sh                                           every notebook on 700 cells, minutes
  ./run_all.sh --profile laptop                          the profile that carries the claims, from published runs
  ./run_all.sh --only 01,05-07 -p seeds "[0, 1]"         some notebooks, two seeds
  ./run_all.sh --only 06 -p data my_cells.h5ad -p label cell_type    your own cells
"""


def parser(books: list[Path]) -> argparse.ArgumentParser:
    """The options, and for ``--help`` what one can give: examples, notebooks with their parameters, variables."""
    parser = argparse.ArgumentParser(
        prog="./run_all.sh",
        description="Set up what is missing, run every notebook, and write figures/<profile>/ with index.html.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=guide(books) if {"-h", "--help"} & set(sys.argv) else None,
    )
    known = ", ".join(sorted(path.stem for path in profiles.FOLDER.glob("*.yaml")))
    parser.add_argument("--profile", default="quick", help=f"one of {known} (lib/experiments/ladder); default: quick")
    parser.add_argument("--only", action="append", metavar="NN", help="only these notebooks, e.g. 01 or 01,02 or 01-03")
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
    if given not in catalogue.CARDS:
        catalogue.no_address(given)
        raise DataError(
            f"-p {name} {given}: there is no such file below {Path(called_from).resolve()}, and no data set of that name. "
            f"Give the path of an .h5ad file, or one of {', '.join(catalogue.CARDS)}."
        )
    return given


def read_parameters(given: Iterable[tuple[str, str]]) -> dict:
    """Values of the notebooks' parameters, of the types that they take: text as it is written, the rest as YAML."""
    found = {}
    for name, value in given:
        try:  # names of columns and files: a label column may be called 1 or yes
            found[name] = value if name in TEXT else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f'-p {name} {value}: the value is no YAML. Quote it: -p {name} "[0, 1]".') from error
    known = {name: value for name, value in found.items() if name in schema.Parameters.model_fields}
    schema.check(schema.Parameters, known, "-p")
    return found
