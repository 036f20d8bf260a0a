"""lib is a house: imports go one way, without a circle, and its faces hand on what outside code calls.

``python tests/test_house.py`` draws the picture in lib/README.md anew from the imports.
"""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Storey by storey: what a part may import, besides itself.
BASE = {"errors", "settings", "files", "arms"}
MAY = {
    "errors": set(),
    "settings": {"errors"},
    "files": {"errors", "settings"},
    "arms": {"errors"},
    "datasets": BASE,
    "prepare": BASE | {"datasets"},
    "scbert": BASE | {"prepare"},
    "experiments": BASE | {"datasets", "prepare", "scbert"},
    "evaluate": BASE | {"prepare"},
    "paper": BASE | {"evaluate"},
    "plots": BASE | {"evaluate"},
    "programs": BASE | {"datasets", "prepare", "scbert", "experiments", "evaluate", "paper", "plots"},
}

# Packages that take seconds to start: they may be imported where they are first needed.
HEAVY = {"torch", "scanpy", "umap", "matplotlib"}
# And these, for the reason beside them: (module, what it imports).
INSIDE = {
    ("lib.scbert.training", "lightning_fabric"): "takes seconds, and a rerun from stored runs needs none",
    ("lib.experiments.cluster", "distributed"): "takes a second, and few have a Dask cluster",
    ("lib.experiments.runs", "distributed.system"): "likewise, where there are runs to compute",
    ("lib.experiments.runs", "lib.experiments.names"): "in a worker of the cluster, which must import it there",
    ("lib.experiments.runs", "lib.experiments.store"): "likewise",
    ("lib.programs.benchmark_jobs", "performer_pytorch"): "imports torch",
}

CONTRACTS = {
    "lib.datasets": "load",
    "lib.prepare": "prepare tokenize holdout few_shot",
    "lib.scbert": "ScBertConfig ScBert CellTypeClassifier mask_tokens learning_rate",
    "lib.evaluate": "confidence_interval",
    "lib.experiments.yours": "load",
    "lib.errors": "DataError",
}


parsed = functools.lru_cache(ast.parse)  # many tests read the same files


def modules(root):
    """The modules of ``root/lib`` by name, a folder's face under the folder's name: {name: syntax tree}."""
    found = {}
    for path in sorted(root.glob("lib/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = parsed(path.read_text(encoding="utf-8"))
    return found


def imports(tree, name, known):
    """What a module imports: (name, is it inside a function), those of lib as modules, a face's modules too."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # from . import: counted from the module's folder
                folder = name.split(".") if any(other.startswith(f"{name}.") for other in known) else name.split(".")[:-1]
                base = ".".join(folder[: len(folder) - node.level + 1] + ([node.module] if node.module else []))
            wanted = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from ((one, id(node) in inside) for one in wanted)
    if name.count(".") == 1 and any(other.startswith(f"{name}.") for other in known):  # a face: its modules are reached by it
        yield from ((other, False) for other in known if other.startswith(f"{name}.") and not other.endswith("__main__"))


def part(name):
    """The part of the house in which a module is: ``lib.scbert.model`` is in scbert."""
    return name.split(".")[1]


def graph(root):
    """Module → the modules of lib that it imports."""
    known = modules(root)
    return {name: {one for one, _ in imports(tree, name, known) if one in known} - {"lib"} for name, tree in known.items()}


def wrong_ways(root):
    """Imports against the direction, as ``lib.prepare.tokens → lib.scbert``; of a part that is not known too."""
    return [
        f"{name} → {one}"
        for name, wanted in graph(root).items()
        for one in sorted(wanted)
        if name != "lib" and part(one) not in MAY.get(part(name), set()) | {part(name)}
    ]


def circles(root):
    """The modules that import each other in a circle."""
    left = graph(root)
    while leaves := [name for name, wanted in left.items() if not wanted & left.keys()]:
        left = {name: wanted for name, wanted in left.items() if name not in leaves}
    while roots := [name for name in left if not any(name in wanted for wanted in left.values())]:
        left = {name: wanted for name, wanted in left.items() if name not in roots}
    return sorted(left)


def hidden(root):
    """Imports inside a function that have no leave to be there."""
    known = modules(root)
    return [
        f"{name}: {one}"
        for name, tree in known.items()
        for one, is_inside in imports(tree, name, known)
        if is_inside
        and not {one.split(".")[0]} & HEAVY
        and not any(name == who and (one == what or one.startswith(f"{what}.")) for who, what in INSIDE)
    ]


def unnamed(root):
    """Modules that the first lines of their folder do not name."""
    known = modules(root)
    return [
        name
        for name in known
        if name.count(".") == 2
        and name.split(".")[2] != "__main__"
        and not re.search(rf"\b{name.split('.')[2]}\b", ast.get_docstring(known[name.rsplit(".", 1)[0]]) or "")
    ]


def environment_readers(root):
    """Modules that mention the environment."""
    return [
        name
        for name, tree in modules(root).items()
        if any(isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") for node in ast.walk(tree))
    ]


def colours(root):
    """Colour → the modules that write it."""
    found = {}
    for name, tree in modules(root).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and re.fullmatch(r"#[0-9A-Fa-f]{6}", str(node.value)):
                found.setdefault(node.value.upper(), set()).add(name)
    return found


def test_imports_go_one_way():
    assert wrong_ways(ROOT) == []


def test_no_circle():
    assert circles(ROOT) == []


def test_imports_stand_at_the_top():
    """Only what is slow to start waits until it is needed."""
    assert hidden(ROOT) == []


def test_at_most_twelve_names():
    names = {path.parent.name for path in ROOT.glob("lib/*/__init__.py")} | {path.stem for path in ROOT.glob("lib/*.py")}
    assert len(names - {"__init__"}) <= 12 and names - {"__init__"} == MAY.keys()


def test_every_folder_says_what_is_in_it():
    assert unnamed(ROOT) == []


def test_only_settings_read_the_environment():
    assert environment_readers(ROOT) == ["lib.settings"]


def test_each_colour_is_written_in_one_module():
    assert {colour: names for colour, names in colours(ROOT).items() if len(names) > 1} == {}


@pytest.mark.parametrize("module", CONTRACTS)
def test_faces_hand_on_the_contracts(module):
    """What outside code imports is there, and can be called."""
    for name in CONTRACTS[module].split():
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.slow
def test_training_needs_no_scanpy():
    """A machine that only trains has torch, numpy and small libraries."""
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"anndata", "matplotlib", "pandas", "rdata", "scanpy", "statsmodels", "umap"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocker())
from lib import prepare, scbert
from lib.prepare import splits, tokens
from lib.scbert import finetune, pretrain
print(scbert.ScBert(scbert.ScBertConfig(genes=5, dim=8, depth=1, heads=1, dim_head=8, features=8)).__class__.__name__,
      prepare.holdout([0, 1] * 10)[1].shape, tokens.BINS)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.split() == ["ScBert", "(4,)", "5"], done.stderr


@pytest.fixture
def made_up(tmp_path):
    """A small house in order, and a function that writes another module into it."""

    def write(path, text):
        (tmp_path / "lib" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / path).write_text(text)
        return tmp_path

    write("__init__.py", "")
    write("errors.py", "class DataError(ValueError): ...")
    write("prepare/__init__.py", '"""Read tokens."""')
    write("prepare/tokens.py", "from lib.errors import DataError")
    write("scbert/__init__.py", '"""Read model, then training."""')
    write("scbert/model.py", "from lib.prepare.tokens import MASK\nCOLOUR = '#000000'")
    write("scbert/training.py", "from lib.scbert import model\ndef fit():\n    import torch")
    return write


def test_the_checks_pass_a_house_in_order(made_up):
    root = made_up("arms.py", "COLOUR = '#AAAAAA'")
    assert not any(check(root) for check in (wrong_ways, circles, hidden, unnamed, environment_readers))
    assert graph(root)["lib.scbert.training"] == {"lib.scbert.model"}
    assert colours(root) == {"#000000": {"lib.scbert.model"}, "#AAAAAA": {"lib.arms"}}


@pytest.mark.parametrize(
    "check, path, text, found",
    [
        (wrong_ways, "prepare/cells.py", "from lib.scbert.model import ScBert", ["lib.prepare.cells → lib.scbert.model"]),
        (wrong_ways, "prepare/cells.py", "from lib import scbert", ["lib.prepare.cells → lib.scbert"]),
        (wrong_ways, "prepare/cells.py", "import lib.scbert.model", ["lib.prepare.cells → lib.scbert.model"]),
        (wrong_ways, "prepare/cells.py", "def f():\n    from ..scbert import model", ["lib.prepare.cells → lib.scbert.model"]),
        (wrong_ways, "errors.py", "from lib import prepare", ["lib.errors → lib.prepare"]),
        (wrong_ways, "utils.py", "from lib import errors", ["lib.utils → lib.errors"]),
        (circles, "scbert/model.py", "from lib.scbert.training import fit", ["lib.scbert.model", "lib.scbert.training"]),
        (
            circles,
            "scbert/model.py",
            "def f():\n    from lib.scbert import training",
            ["lib.scbert.model", "lib.scbert.training"],
        ),
        (circles, "prepare/tokens.py", "from lib import prepare", ["lib.prepare", "lib.prepare.tokens"]),
        (hidden, "scbert/model.py", "def f():\n    import pandas", ["lib.scbert.model: pandas"]),
        (
            hidden,
            "scbert/model.py",
            "class A:\n    def f(self):\n        from lib.prepare import tokens",
            ["lib.scbert.model: lib.prepare.tokens"],
        ),
        (unnamed, "scbert/blocks.py", "", ["lib.scbert.blocks"]),
        (environment_readers, "scbert/model.py", "import os\nos.environ['A'] = 'b'", ["lib.scbert.model"]),
        (environment_readers, "scbert/model.py", "import os\nx = os.getenv('A')", ["lib.scbert.model"]),
    ],
)
def test_the_checks_find_what_is_wrong(made_up, check, path, text, found):
    """In a made-up house, each fault is found, and it alone."""
    assert check(made_up(path, text)) == found


def picture(root):
    """A diagram (Mermaid): arrows from what is imported to what imports it.

    Left out: what all parts use, and an arrow where a longer way leads there too.
    """
    known = modules(root)
    wanted = {name: set() for name in [*MAY, "notebooks"] if name not in BASE}
    for name, found in graph(root).items():
        if name != "lib" and part(name) in wanted:
            wanted[part(name)] |= {part(one) for one in found} - {part(name)}
    for path in root.glob("notebooks/*.py"):
        found = imports(ast.parse(path.read_text(encoding="utf-8")), path.stem, known)
        wanted["notebooks"] |= {part(one) for one, _ in found if one in known and one != "lib"}

    def behind(name):
        return {further for one in wanted.get(name, ()) for further in {one} | behind(one)}

    arrows = [
        f"  {one} --> {name}"
        for name in wanted
        for one in wanted
        if one in wanted[name] and not any(one in behind(other) for other in wanted[name])
    ]
    return "\n".join(["```mermaid", "flowchart LR", *arrows, "```"]) + "\n"


MARKS = ("<!-- the house: python tests/test_house.py -->\n", "<!-- end of the house -->")


def test_the_picture_is_that_of_the_imports():
    """lib/README.md's picture; and it names each module once, in a line of its own."""
    text = (ROOT / "lib" / "README.md").read_text(encoding="utf-8")
    assert text.split(MARKS[0])[1].split(MARKS[1])[0] == picture(ROOT)
    named = re.findall(r"^\s*- `([\w/]+)\.py`", text, re.M)
    there = [path.relative_to(ROOT / "lib").with_suffix("").as_posix() for path in ROOT.glob("lib/**/*.py")]
    assert sorted(named) == sorted(name for name in there if not name.split("/")[-1].startswith("__"))


def test_the_picture_shows_each_step_and_no_short_cut(made_up):
    made_up("experiments/runs.py", "from lib import errors\nfrom lib.prepare import tokens\nfrom lib.scbert import model")
    assert picture(made_up("arms.py", "")).splitlines()[2:-1] == ["  prepare --> scbert", "  scbert --> experiments"]


@pytest.mark.parametrize("command", ["check", "format --check --diff"])
def test_ruff_has_nothing_to_say(command):
    """Lint and format of lib, tests and notebooks, by the version in requirements.txt."""
    pytest.importorskip("ruff")
    arguments = [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "lib", "tests", "notebooks"]
    done = subprocess.run(arguments, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    path = ROOT / "lib" / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(MARKS[0])
    path.write_text(before + MARKS[0] + picture(ROOT) + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")
