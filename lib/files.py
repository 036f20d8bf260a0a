"""Files that are whole or not there at all, and known by their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from lib.errors import DataError


@contextlib.contextmanager
def replacing(path: Path, remedy: str = "Point SCBERT_CACHE to a folder that can, with enough space.") -> Iterator[Path]:
    """A temporary name beside ``path``, with its ending, that takes its place when all went well.

    Parameters
    ----------
    path : Path
        Its folder is made if it is missing.
    remedy : str
        For the refusal where that folder cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:  # read-only, full, not a folder
        raise DataError(f"{path.parent} cannot be written ({error}). {remedy}") from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str):
    """Write a text file whole or not at all."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest(path: str | Path, algorithm: str = "sha256", prefix: bytes = b"") -> str:
    """The hash of ``prefix`` and a file's content, in hexadecimal digits; in blocks, whatever the file's size."""
    found = hashlib.new(algorithm, prefix)
    with open(path, "rb") as file:
        while block := file.read(2**22):
            found.update(block)
    return found.hexdigest()


def fingerprint(text: str) -> str:
    """A hash of a text that says all that matters of something, 16 hexadecimal digits.

    >>> fingerprint("abc")
    'ba7816bf8f01cfea'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]
