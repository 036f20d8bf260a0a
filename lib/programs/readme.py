"""What the texts say of the figures: ``python -m lib.readme`` writes it anew, with ``--check`` it only compares.

In README.md, figures/README.md, figures/benchmark/README.md and the first cell of each notebook, what stands between
``<!-- name: python -m lib.readme -->`` and ``<!-- end of name -->`` is made from the tables of the published figures, badges
from the repository's address in pyproject.toml. It also writes ``figures/<profile>/SHA256SUMS``, by which a copy without git
tells whether its figures are as published.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable

from lib import files
from lib.programs import committed, speed, texts
from lib.settings import ROOT

BOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
NOTEBOOKS = {
    f"notebooks/{path.stem}{suffix}": {"badges": texts.badges(f"notebooks/{path.stem}.ipynb")}
    | ({"finding": texts.finding(path.name[:2])} if "<!-- finding: " in path.read_text(encoding="utf-8") else {})
    for path in BOOKS
    for suffix in (".py", ".ipynb")
}
# What stands between <!-- name --> and <!-- end of name --> in which file.
PARTS: dict[str, dict[str, Callable[[texts.Load], str]]] = {
    "README.md": {
        "badges": texts.badges(f"notebooks/{BOOKS[0].stem}.ipynb"),
        "findings": texts.claims,
        "results": texts.three,
        "speed": speed.short,
    },
    "figures/README.md": {"findings": texts.evidence, "results": texts.results},
    "figures/benchmark/README.md": {"speed": speed.tables},
    **NOTEBOOKS,
}


def part(text: str, name: str) -> str:
    """What stands between the marks of a part."""
    return text.split(f"<!-- {name}: python -m lib.readme -->\n")[1].split(f"<!-- end of {name} -->")[0]


def with_part(text: str, name: str, made: str) -> str:
    """A text with a part made anew."""
    begin, end = f"<!-- {name}: python -m lib.readme -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return before + begin + made + end + rest.split(end)[1]


def written(path: str, text: str, load: texts.Load) -> str:
    """A file's text with its parts made anew; in notebooks, within their first cell.

    Parameters
    ----------
    path : str
        One of ``PARTS``.
    text : str
        What the file holds now.
    load : callable
        From a profile to its tables.
    """
    for name, make in PARTS[path].items():
        made = make(load)
        if path.endswith(".ipynb"):
            notebook = json.loads(text)
            cell = next(cell for cell in notebook["cells"] if f"<!-- {name}: " in "".join(cell["source"]))
            cell["source"] = with_part("".join(cell["source"]), name, made).splitlines(keepends=True)
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        elif path.endswith(".py"):
            text = with_part(text, name, textwrap.indent(made, "# ", lambda line: True).replace("# \n", "#\n") + "# ")
        else:
            text = with_part(text, name, made)
    # And whence a notebook fetches the repository on Colab.
    return (
        re.sub(r"https://github\.com/[\w.-]+/[\w.-]+?\.git(?=\W)", f"{texts.address()}.git", text)
        if path in NOTEBOOKS
        else text
    )


def main(arguments: list[str]) -> int:
    """Write the parts and the sums anew; with ``--check`` only compare: 1, with a line for each that is old."""

    def load(profile):
        return committed.here(ROOT / "figures" / profile)

    wanted = {ROOT / path: written(path, (ROOT / path).read_text(encoding="utf-8"), load) for path in PARTS}
    folders = [path.parent for path in sorted(ROOT.glob(f"figures/*/{committed.SUMS}"))]
    wanted |= {folder / committed.SUMS: committed.sums(folder) for folder in folders}
    old = [target for target, now in wanted.items() if target.read_text(encoding="utf-8") != now]
    for target in old:
        if "--check" in arguments:
            print(f"{target.relative_to(ROOT)} is not what the figures say")
        else:
            files.write_text(target, wanted[target])
            print(f"{target.relative_to(ROOT)} written anew")
    return 1 if old and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
