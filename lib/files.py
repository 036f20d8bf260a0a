"""Files that are whole or not there at all, and known by their hashes."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from lib.errors import DataError

HERE = platform.node() or "here"
SEAL = ".sha256"  # the ending of a file that holds the hash of the one beside it
REMEDY = "Point SCBERT_CACHE to a folder that can, with enough space."


@contextlib.contextmanager
def writable(folder: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Where what is done in a folder fails since it cannot be written (read-only, full, a file): say so, with a remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}). {remedy}") from error


@contextlib.contextmanager
def replacing(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """A temporary name beside ``path``, with its ending, that takes its place when all went well.

    What a process that was killed left under such a name goes when the file is written again.

    Parameters
    ----------
    path : Path
        Its folder is made if it is missing.
    remedy : str
        For the refusal where that folder cannot be written, or its disk is full.
    """
    temporary = path.with_name(f".{os.getpid()}@{HERE}.{path.name}")
    with writable(path.parent, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary.touch()
    try:
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if is_full(path.parent, error):
            raise DataError(f"The disk is full: {path.name} could not be written to {path.parent}. {remedy}") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path):
    """Remove the temporary files of ``path`` whose processes, of this machine, have ended."""
    for left in path.parent.glob(f".*@{glob.escape(HERE)}.{glob.escape(path.name)}"):
        number = left.name[1:].split("@")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            left.unlink(missing_ok=True)


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether an error came from a full disk, which not every library says (torch: "file write failed")."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, OSError | RuntimeError) and shutil.disk_usage(folder).free < 2**20


def seal(path: Path) -> None:
    """Write a file's hash beside it."""
    write_text(_seal(path), digest(path) + "\n")


def sealed(path: Path) -> bool:
    """Whether a file is there and has the hash that :func:`seal` wrote."""
    try:
        return known(digest, path) == _seal(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return False


def _seal(path):
    return path.with_name(f"{path.name}{SEAL}")


def known(function: Callable, path: Path) -> str:
    """What a function says of a file, kept for as long as it is the same file and looks the same: its size, and its times."""
    stat = Path(path).stat()
    return _remembered(function, str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=4096)
def _remembered(function, path, *looks):
    return function(path)


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
