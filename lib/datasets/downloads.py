"""What the paper's data sets are downloaded from: ``data/sources.yaml``, fetched with pooch, verified before use."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import gdown
import pooch
import yaml
from filelock import FileLock
from tqdm.auto import tqdm

from lib import settings
from lib.errors import DataError
from lib.files import digest, replacing, write_text
from lib.settings import ROOT, downloads

TRIES = 3


@functools.cache
def registry() -> dict:
    """The entries of ``data/sources.yaml`` by name (dict of dicts)."""
    return yaml.safe_load((ROOT / "data" / "sources.yaml").read_text(encoding="utf-8"))


def have(name: str) -> bool:
    """Whether a source's file is there already."""
    return name in registry() and (downloads() / registry()[name]["file"]).exists()


def fetch(name: str) -> Path:
    """The path of a source's file, downloaded if it is not there yet.

    A file that is there, by an earlier download or put there by hand, is used if it verifies. A download is moved into
    place only when it is whole and verified; processes that ask at the same time wait for the first.

    Parameters
    ----------
    name : str
        An entry of the registry.

    Returns
    -------
    Path

    Raises
    ------
    DataError
        Unknown name; a file that is not the one published; ``SCBERT_OFFLINE=1`` and no file; a failed download.
    """
    if name not in registry():
        raise DataError(f"There is no source {name!r}. Sources: {', '.join(registry())}.")
    entry = registry()[name]
    path = downloads() / entry["file"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _download(entry, path)
            elif wrong := _differs_known(entry, path):
                raise DataError(
                    f"{path} is not the file that was published: {wrong}. Delete it (it is then downloaded again), or "
                    f"put the right one there: {entry['address']}"
                )
    except OSError as error:
        raise DataError(
            f"{downloads()} cannot be written ({error}). Point SCBERT_DATA_DIR to a folder that can, with enough space."
        ) from error
    return path


def _download(entry, path):
    mirror = settings.mirror()
    address = f"{mirror.rstrip('/')}/{entry['file']}" if mirror else entry["address"]
    size = f" ({entry['bytes'] / 2**20:.1f} MB)" if entry.get("bytes") else ""
    if settings.offline():
        raise DataError(
            f"{path} is not there and SCBERT_OFFLINE is set. Put {entry['title']} there by hand from {address}{size} "
            "(data/README.md)."
        )
    print(f"Downloading {entry['title']}{size} from {address}", flush=True)
    for attempt in range(1, TRIES + 1):
        try:
            with replacing(path, "Point SCBERT_DATA_DIR to a folder that can, with enough space.") as temporary:
                _get(entry, address, temporary)
                if wrong := differs(entry, temporary):
                    raise DataError(f"what came is not the file that was published: {wrong}")
            return
        except Exception as error:  # requests, urllib3, gdown, the disk: the remedy is one
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, DataError) else str(error)
            if attempt < TRIES and _again(error):
                print(f"Try {attempt} of {TRIES} failed ({reason}); trying again.", file=sys.stderr, flush=True)
                continue
            raise DataError(
                f"{entry['title']} could not be downloaded from {address} ({reason}). Nothing was kept. Try again; or "
                f"download it by hand (data/README.md), and put it at {path}."
            ) from error


def _again(error):
    """Whether another try may help: not where the server says that there is no such file."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status >= 500 or status == 429


def _get(entry, address, temporary):
    if entry.get("drive") and not settings.mirror():
        if gdown.download(id=entry["drive"], output=str(temporary), quiet=False) is None:
            raise DataError("Google Drive gave no file: its daily limit may be reached, or a sign-in is wanted")
        return

    progress = tqdm(total=entry.get("bytes") or 1, unit="B", unit_scale=True, desc=entry["file"], mininterval=1)
    try:
        # Unencoded, so that a .gz arrives as it is.
        download = pooch.HTTPDownloader(
            progress, timeout=settings.timeout(), chunk_size=2**20, headers={"Accept-Encoding": "identity"}
        )
        download(address, str(temporary), None)
    finally:
        progress.close()


def differs(entry: dict, path: Path) -> str | None:
    """What is wrong with a file, in words, or None: size, and SHA-256 or git's blob id, whichever is published."""
    size = path.stat().st_size
    if entry.get("bytes") and size != entry["bytes"]:
        return f"it has {size:,} bytes, not {entry['bytes']:,}"
    if wanted := entry.get("sha256"):
        found = digest(path)
    elif wanted := entry.get("blob"):  # git's name of a content: the SHA-1 of "blob <size>\0" and the content
        found = digest(path, "sha1", f"blob {size}\0".encode())
    else:  # no hash was published; the loader checks the content
        return None if size else "it is empty"
    return None if found == wanted else f"its {'sha256' if entry.get('sha256') else 'git blob id'} is {found}, not {wanted}"


def _differs_known(entry, path):
    """The same; a note beside a verified file says how it looked, so that gigabytes are not hashed at every start."""
    stat, note = path.stat(), path.with_name(f".{path.name}.verified")
    mark = f"{stat.st_size} {stat.st_mtime_ns}"
    if note.is_file() and note.read_text() == mark:
        return None
    wrong = differs(entry, path)
    if wrong is None:
        write_text(note, mark)
    return wrong
