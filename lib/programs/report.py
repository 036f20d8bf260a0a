"""The executed notebooks as pages, and ``figures/<profile>/index.html``, which answers every question on one.

Both are made by the templates beside this file and ask for nothing on the network. What a page shows is marked in the
notebooks by tags of cells: ``answer`` (its Markdown), ``figure`` (the one figure of the index), ``table`` (its first table) and
``environment``. ``python -m lib.report PROFILE…`` makes the pages anew from the notebooks that lie in ``figures/PROFILE``.
"""

from __future__ import annotations

import base64
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from lib import arms, files, settings
from lib.errors import DataError
from lib.programs import committed

TEMPLATES = Path(__file__).resolve().parent / "templates"
LARGEST = 400_000  # bytes of a picture in the index; of a larger SVG the PNG is taken
RUNS = "Each point is a run; the mark beside the points is their mean with the 95 % Student interval over runs"
LEVELS = f"{RUNS}, of pre-trainings and seeds as two levels"
# What the intervals of the figures in the index are: the figure's name, and what its caption says.
INTERVALS = {
    "01_baseline_comparison": f"{LEVELS}. Filled: ours; hollow: the paper's.",
    "02_few_shot": f"{LEVELS}. Upper panels: ours; lower panels: the paper's.",
    "03_no_pretraining": f"{LEVELS}. Filled: ours; hollow: the paper's.",
    "04_masked_task": "Means with the 95 % interval over test cells and pre-trainings; diamonds: the paper's.",
    "05_scorecard_claims": "95 % intervals, ours over test cells, seeds and pre-trainings, the paper's Welch's over its runs.",
    "06_few_shot": f"{LEVELS}.",
    "07_unknown": "Areas with DeLong's 95 % interval over cells.",
    "08_full_size": f"{LEVELS}. Filled: ours; hollow: the paper's.",
}


def _exporter():
    return HTMLExporter(
        template_name="notebook", extra_template_basedirs=[str(TEMPLATES)], extra_template_paths=[str(TEMPLATES)]
    )


def notebook(path: Path) -> str:
    """An executed notebook as a page (HTML): its title and answer first, an alternative text for each figure."""
    book = nbformat.read(path, as_version=4)
    book.cells[0].source = re.sub(
        r"\[!\[(.*?)\]\(.*?\)\]", r"[\1]", book.cells[0].source
    )  # badges as links: no picture of others
    for cell, shown in _figures(book):
        cell.metadata["figure"] = shown
    return _exporter().from_notebook_node(book, {"question": {"title": title(book)[1], "answers": answers(book)}})[0]


def answers(book: nbformat.NotebookNode) -> list[str]:
    """The Markdown that the cells tagged ``answer`` of an executed notebook gave, in order."""
    return [text for cell in _tagged(book, "answer") for text in _outputs(cell, "text/markdown")]


def question(path: Path, folder: Path) -> dict:
    """What the index says of one notebook (dict): number, title, answers, the figure, the table, and what there is besides."""
    book = nbformat.read(path, as_version=4)
    number, asked = title(book)
    main, others = None, []
    for cell, shown in _figures(book):
        if "figure" in cell.metadata.get("tags", []):
            main = shown | {"caption": caption(shown, folder), "source": _picture(folder / shown["name"])}
        else:
            others.append(shown)
    tables = [html for cell in _tagged(book, "table") for html in _outputs(cell, "text/html")]
    own = sorted(file.name for file in folder.glob(f"{path.stem[:2]}_*.csv"))
    shown = {"figure": main, "others": others, "table": plain(tables[0]) if tables else None, "tables": own}
    return {"stem": path.stem, "number": number, "title": asked, "answers": answers(book), **shown}


def caption(shown: dict, folder: Path) -> str:
    """The caption of a figure in the index: what it shows, what its intervals are, and how many runs of ours are behind it."""
    table = committed.read(folder / f"{shown['name']}.csv")
    if "source" in table:
        table = table[table["source"] == "ours"]
    if "run" in table:
        counts = table.groupby("arm", sort=False)["run"].nunique()
    else:
        counts = table.groupby("arm", sort=False)["n_ours"].max().astype(int)
    runs = "; ".join(f"{arms.label(arm)} {count}" for arm, count in counts.items())
    return f"{shown['title']}. {INTERVALS.get(shown['name'], '')} Runs of ours: {runs}."


def plain(html: str) -> str:
    """The tables of a piece of HTML without looks, identifiers and scripts, so that the same table is the same text."""
    soup = BeautifulSoup(html, "html.parser")
    for tag in soup.find_all(["style", "script"]):
        tag.decompose()
    for tag in soup.find_all(True):
        tag.attrs = {name: value for name, value in tag.attrs.items() if name in ("colspan", "rowspan")}
    return "\n".join(str(table) for table in soup.find_all("table"))


def index(folder: Path) -> str:
    """The page of a folder of figures (HTML): a section for each executed notebook that lies in it."""
    paths = sorted(folder.glob("notebooks/[0-9][0-9]_*.ipynb"))
    if not paths:
        raise DataError(
            f"There is no executed notebook in {folder / 'notebooks'}. Make some: ./run_all.sh --profile {folder.name}"
        )
    first = nbformat.read(paths[0], as_version=4)
    environment = [plain(html) for cell in _tagged(first, "environment") for html in _outputs(cell, "text/html")]
    pages = _exporter().environment
    pages.filters["markdown2html"] = markdown2html
    shown = {"questions": [question(path, folder) for path in paths], "environment": "\n".join(environment)}
    return pages.get_template("report.html.j2").render(profile=folder.name, **shown)


def write(folder: Path) -> Path:
    """Write the index of a folder of figures; return its path."""
    path = folder / "index.html"
    files.write_text(path, index(folder))
    return path


def summary(paths: list[Path]) -> str:
    """The answers of executed notebooks, the first sentence of each, under their questions."""
    lines = [""]
    for path in paths:
        book = nbformat.read(path, as_version=4)
        number, asked = title(book)
        said = " ".join(answers(book)[:1]).strip().splitlines() or ["no answer"]
        words = said[0].removeprefix("- ").replace("**", "")
        if len(words) > 300:  # without what stands in brackets, which says what it rests on, before anything is cut
            words = re.sub(r" \((?:[^()]|\([^()]*\))*\)", "", words)
        lines += [
            f"{number} · {asked}",
            textwrap.indent(textwrap.fill(textwrap.shorten(words, 300, placeholder=" …"), 96), "    "),
        ]
    return "\n".join(lines)


def title(book: nbformat.NotebookNode) -> tuple[int, str]:
    """The number and the question of a notebook, from its first line: ``# 1 · Does …?``"""
    found = re.match(r"#\s*(\d+)\s*·\s*(.+)", book.cells[0].source)
    return (int(found[1]), found[2].strip()) if found else (0, book.cells[0].source.lstrip("# ").splitlines()[0])


def _tagged(book, tag):
    return [cell for cell in book.cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])]


def _outputs(cell, kind):
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def _figures(book) -> Iterator[tuple[nbformat.NotebookNode, dict]]:
    """Each cell that shows a picture, with the picture's file name, its title (the heading above) and alternative text."""
    heading = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+\s*(.+)$", cell.source, re.M) or [heading])[-1]
        elif _outputs(cell, "image/png"):
            saved = re.search(r'plots\.save\(\s*\w+,\s*"(\w+)"', cell.source)
            name = saved[1] if saved else ""
            alt = f"{heading}." + (f" The numbers are in {name}.csv." if name else "")
            yield cell, {"name": name, "title": heading, "alt": alt}


def _picture(path: Path) -> str:
    """A figure as an address that holds it: its SVG, or its PNG where that is too large."""
    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    chosen, kind = (svg, "svg+xml") if svg.stat().st_size <= LARGEST else (png, "png")
    return f"data:image/{kind};base64,{base64.b64encode(chosen.read_bytes()).decode()}"


def main(arguments: list[str]) -> int:
    """Make the pages of some profiles anew, from what lies in their folders of figures."""
    for profile in arguments or ["quick"]:
        folder = settings.figures() / profile
        for path in sorted(folder.glob("notebooks/[0-9][0-9]_*.ipynb")):
            files.write_text(path.with_suffix(".html"), notebook(path))
        print(f"{write(folder)} written anew")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
