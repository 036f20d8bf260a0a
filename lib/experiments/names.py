"""What a run is named by: its specification, and the code that computes it, as it is on disk and as it was loaded."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from lib import settings
from lib.errors import DataError
from lib.files import digest, fingerprint, known

# What computes runs, in lib. How cells are read is not among it: their values are hashed in the specification.
CODE = ("prepare", "scbert", "experiments/baselines.py", "experiments/classifiers.py", "experiments/tasks.py")


def run_id(spec: dict, code: str | None = None) -> str:
    """16 hexadecimal digits: a hash of the specification and of the code that computes it (default: as it is on disk)."""
    text = json.dumps({"spec": identity(spec), "code": code or code_hash()}, sort_keys=True)
    return fingerprint(text)


def identity(spec: dict) -> dict:
    """A specification without what only helps to find things: the keys that begin with an underscore.

    >>> identity({"seed": 0, "pretraining": {"checkpoint": {"sha256": "90ae", "_path": "mine.pth"}}})
    {'seed': 0, 'pretraining': {'checkpoint': {'sha256': '90ae'}}}
    """
    kept = {key: value for key, value in spec.items() if not key.startswith("_")}
    return {key: identity(value) if isinstance(value, dict) else value for key, value in kept.items()}


def code_hash() -> str:
    """Hash of the code that computes runs, as it is on disk now.

    Comments, docstrings and layout do not count, so that rewording and formatting keep the runs; nor does the version of
    Python, which a dump by :mod:`ast` itself would depend on.
    """
    places = [settings.ROOT / "lib" / name for name in CODE]
    files = [path for place in places for path in (sorted(_sources(place)) if place.is_dir() else [place])]
    return fingerprint(" ".join(known(_meaning, path) for path in files))


def _sources(folder):
    return [*folder.rglob("*.py"), *folder.rglob("*.cpp")]


def _meaning(path):
    """Hash of a file's syntax tree, or text where it is not Python's."""
    if Path(path).suffix != ".py":
        return digest(path)
    return fingerprint(_told(ast.parse(Path(path).read_text(encoding="utf-8"), path)))


def _told(node):
    """A syntax tree in words, without positions, docstrings and fields that are empty."""
    if isinstance(node, list):
        return f"[{' '.join(map(_told, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 has an empty text after a format that is computed, 3.11 and 3.13 none
        fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
    told = (f"{name}={_told(value)}" for name, value in fields.items() if value is not None and value != [])
    return f"{type(node).__name__}({' '.join(told)})"


# The code that this process loaded, and whether another was seen on disk since; kept where this module alone is reloaded.
LOADED, _edited = globals().get("LOADED") or code_hash(), globals().get("_edited", False)


def edited() -> bool:
    """Whether code that computes runs was seen to differ from what this process loaded: it may hold some of each since."""
    global _edited
    _edited = _edited or code_hash() != LOADED
    return _edited


def check_code(wanted: str = LOADED) -> None:
    """Refuse to compute by code that is not what is on disk, or not ``wanted``, what the client of a worker has."""
    if wanted != LOADED:
        raise DataError(f"The worker's code is {LOADED}, its client's {wanted}: let both see the folder {settings.ROOT}.")
    if edited():
        raise DataError(f"The code was {LOADED} when it was loaded and is {code_hash()} now: nothing is stored. Call again.")
