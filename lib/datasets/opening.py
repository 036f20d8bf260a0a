"""What a file is, told from its content; and the true cause where it, or a part of it, cannot be read."""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np
import psutil
from anndata._io.specs.registry import IORegistryError

from lib.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What anndata, h5py, zarr and pandas raise for a part that is damaged, foreign or too large.
ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError)
ERRORS += (MemoryError, EOFError, NotImplementedError, zlib.error, IORegistryError)
FILTERS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32018: "fcidecomp"}
FILTERS |= {32017: "sz", 32019: "jpeg", 32024: "sz3", 32026: "blosc2", 307: "bzip2", 4: "szip"}
FROM_R = (
    "Write an .h5ad from R: anndataR::write_h5ad(object, 'cells.h5ad') for a Seurat object or SingleCellExperiment "
    "(pak::pak('scverse/anndataR')), or zellkonverter::writeH5AD(sce, 'cells.h5ad')."
)
# How foreign files begin: what they are, and what to do.
BEGINNINGS = {
    b"PK\x03\x04": ("a zip archive (or a spreadsheet)", "Unpack it, and give the path of what is inside."),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull."),
    b"<!DOCTYPE": ("a web page, saved in the place of the file", "Download it again by the link of the file itself."),
    b"<html": ("a web page, saved in the place of the file", "Download it again by the link of the file itself."),
    b"<?xml": ("XML: an answer of a server, in the place of the file", "Download it again."),
    b"RDX": ("an R workspace (.RData)", FROM_R),
    b"RDA": ("an R workspace (.RData)", FROM_R),
    b"X\n": ("an R object (.rds)", FROM_R),
    b"A\n": ("an R object (.rds)", FROM_R),
    b"B\n": ("an R object (.rds)", FROM_R),
    b"BZh": ("compressed with bzip2", "Unpack it: bunzip2 FILE; an R object packed so: " + FROM_R),
    b"\xfd7zXZ": ("compressed with xz", "Unpack it: unxz FILE; an R object packed so: " + FROM_R),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Unpack it: unzstd FILE."),
    b"PAR1": ("a Parquet table", "Make an .h5ad of it with anndata."),
    b"%PDF": ("a PDF", "Give the path of an .h5ad file."),
    b"%%MatrixMarket": (
        "a Matrix Market file alone",
        "Put it into a folder as matrix.mtx, with barcodes.tsv and features.tsv.",
    ),
}


def kind(path: Path) -> str:
    """What a path is, by its content.

    Parameters
    ----------
    path : Path
        Of a file or folder that is there.

    Returns
    -------
    {"hdf5", "zarr", "10x folder", "table"}

    Raises
    ------
    DataError
        It is none of these, or may not be read; with what it is and what to do.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is not there, or not a regular file.", "Give the path of an .h5ad file.", path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if not start and not size:
        raise DataError(f"{path} is not an .h5ad file: it is empty (0 bytes).", "Copy it again.", path)
    if signature_at(path) is not None:
        return "hdf5"
    if start.startswith(b"\x1f\x8b"):
        return _gzipped(path, start)
    for beginning, (what, remedy) in BEGINNINGS.items():
        if start.startswith(beginning) and (len(beginning) > 2 or b"\0" in start):  # text may begin with X, too
            if beginning == b"%%MatrixMarket" and any(path.parent.glob("*barcodes.tsv*")):
                return "10x folder"
            raise DataError(f"{path} is not an .h5ad file: it is {what}.", remedy, path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt", ".tab") and b"\0" not in start:
        return "table"
    zeros = not any(start)
    raise DataError(
        f"{path} is not an .h5ad file: it does not begin as HDF5 does"
        + (", but with zeros: it was copied or downloaded in part." if zeros else "."),
        "Copy it again." if zeros else "Write one with adata.write_h5ad(path), and check that a compressed file was unpacked.",
        path,
    )


def _folder(path):
    names = {entry.name for entry in path.iterdir()}
    if names & {".zgroup", ".zattrs", "zarr.json"}:
        return "zarr"
    if any(name.endswith(("matrix.mtx", "matrix.mtx.gz")) for name in names):
        return "10x folder"
    inside = [name for name in sorted(names) if name.endswith((".h5ad", ".h5", ".h5mu", ".zarr", ".loom"))]
    raise DataError(
        f"{path} is a folder, neither a .zarr store nor a 10x folder (matrix.mtx, barcodes.tsv, features.tsv).",
        f"Give the path of an .h5ad file inside it (there {'are' if inside else 'is'}: {', '.join(inside[:5]) or 'none'}).",
        path,
    )


def _gzipped(path, packed):
    """What an archive that its name does not tell holds, by its first bytes: the rest stays packed."""
    name = path.name.lower()
    if name.endswith((".csv.gz", ".tsv.gz", ".txt.gz", ".tab.gz")):
        return "table"
    try:
        start = b"" if name.endswith((".h5ad.gz", ".h5.gz", ".loom.gz")) else zlib.decompressobj(31).decompress(packed, 64)
    except zlib.error as error:
        raise DataError(f"{path} is gzip, not an .h5ad file, and damaged ({error}).", "Copy it again.", path) from error
    if start.startswith((b"RDX", b"RDA", b"X\n", b"A\n", b"B\n")):
        what = ".RData" if start.startswith(b"RD") else ".rds"
        raise DataError(f"{path} is not an .h5ad file: it is an R object ({what}).", FROM_R, path)
    if start.startswith(b"%%MatrixMarket"):
        if any(path.parent.glob("*barcodes.tsv*")):
            return "10x folder"
        raise DataError(
            f"{path} is a Matrix Market file alone.", "Put barcodes.tsv and features.tsv of 10x Genomics beside it.", path
        )
    raise DataError(
        f"{path} is not an .h5ad file: it is compressed with gzip, and was not unpacked.", "Unpack it: gunzip FILE.", path
    )


def signature_at(path: Path) -> int | None:
    """The byte at which HDF5 begins: 0, or behind a user block of 512, 1024, 2048 … bytes; None where it does not."""
    with path.open("rb") as file:
        size, place = path.stat().st_size, 0
        while place < size:
            file.seek(place)
            if file.read(8) == SIGNATURE:
                return place
            place = max(512, 2 * place)
    return None


def unreadable(path: Path, error: OSError) -> DataError:
    """The refusal of a file that the system does not give."""
    if isinstance(error, PermissionError):
        return DataError(f"{path} cannot be opened ({error}): you may not read it.", f"Check that you may: ls -l {path}", path)
    return DataError(f"{path} cannot be opened ({error}).", "Check that you may read it, or copy it.", path)


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open to be read; where it cannot be opened, the refusal says why."""
    filters()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _not_opened(path, error) from error
    except (RuntimeError, ValueError, MemoryError) as error:
        raise DataError(f"{path} cannot be read: its HDF5 structure is damaged ({error}).", "Copy it again.", path) from error
    with file:
        yield file


def filters():
    """Let HDF5 have the filters of hdf5plugin (zstd, blosc …), where that package is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


def _not_opened(path, error):
    text, size = str(error), path.stat().st_size
    if "unable to lock" in text:
        return DataError(
            f"{path} is open for writing in another program, which holds HDF5's lock ({error.strerror or text}).",
            "Close it there (a notebook that wrote it: restart its kernel), or read a copy of the file.",
            path,
        )
    if isinstance(error, PermissionError):
        return unreadable(path, error)
    if "already open for write" in text or "consistency flags" in text:
        return DataError(
            f"{path} was not closed: the program that wrote it died, or still writes.",
            f"If no program writes it any more, clear the mark: h5clear -s {path} (of HDF5's tools), then look whether all "
            "is there; better: write it again.",
            path,
        )
    if "truncated file" in text:
        wanted = text.rsplit("stored_eof = ", 1)[-1].rstrip(")")
        return DataError(
            f"{path} is truncated: it has {size:,} bytes of {int(wanted):,}." if wanted.isdigit() else f"{path} is truncated.",
            "Copy it again, or download it again.",
            path,
        )
    if "version number" in text:
        return DataError(
            f"{path} is HDF5 of a version that HDF5 {h5py.version.hdf5_version} does not know, or damaged in its first bytes "
            f"({text}).",
            "Copy it again; if it is of a newer HDF5: pip install -U h5py.",
            path,
        )
    if error.errno and "synchronously" not in text:
        return unreadable(path, error)
    return DataError(
        f"{path} is damaged in its HDF5 structure ({text}): it is truncated, or bytes changed.", "Copy it again.", path
    )


def enough(needed: float, where):
    """Refuse before memory runs out: ``needed`` bytes, where fewer are free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"{where} needs about {_size(needed)} of memory, and {_size(free)} are free.",
            "Close other programs, take a larger machine, or save fewer cells: adata[::4].write_h5ad(…).",
            where,
        )


def _size(count):
    return f"{count / 2**30:,.1f} GB" if count > 2**30 else f"{count / 2**20:,.1f} MB"


def reason(error: Exception, held=None) -> tuple[str, str]:
    """Why a part of a file cannot be read, and what to do: (words without the part's name, remedy).

    Parameters
    ----------
    error : Exception
        What anndata, h5py or zarr raised.
    held : h5py or zarr group or array, optional
        The part: its missing filter or damaged chunk is looked for.
    """
    if isinstance(error, MemoryError):
        return f"is larger than the memory ({error or 'no memory left'})", "Take a larger machine, or save fewer cells."
    if isinstance(error, IORegistryError):
        spec = dict(held.attrs) if held is not None else {}
        return (
            f"has an encoding, {spec.get('encoding-type', 'none')!r} of version {spec.get('encoding-version', 'none')!r}, that "
            f"anndata {metadata.version('anndata')} does not know (another AnnData version wrote it)",
            "pip install -U anndata, or write it anew.",
        )
    arrays = {"": held} if isinstance(held, h5py.Dataset) else _arrays(held)
    for name, array in arrays.items():
        if missing := _missing_filter(array):
            return (
                f"is compressed with {missing}, for which this HDF5 has no filter",
                "pip install hdf5plugin, and try again; or write it anew with compression='gzip'.",
            )
        if isinstance(error, OSError | RuntimeError) and (place := _damaged(array)):
            cells = _cells_of(held, place) if name in ("data", "indices") else ""
            words = f"is damaged{f' in {name}' if name else ''}: {place[0]}{cells}"
            return words, "Copy it again, or write it anew."
    text = str(error).split("\n")[0][:300]
    return f"cannot be read, it is damaged or of another form than AnnData's ({type(error).__name__}: {text})", "Write it anew."


def _arrays(held):
    found = {}
    if isinstance(held, h5py.Group):
        with contextlib.suppress(*ERRORS):
            held.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def _missing_filter(array):
    """The name of a filter of a data set that HDF5 lacks, or None."""
    with contextlib.suppress(*ERRORS):
        plan = array.id.get_create_plist()
        for number in range(plan.get_nfilters()):
            code, _, _, name = plan.get_filter(number)
            if not h5py.h5z.filter_avail(code):
                return FILTERS.get(code) or f"filter {code} ({name.decode(errors='replace').split(';')[0]})"
    return None


def _damaged(array):
    """Where the first chunk of a data set that cannot be read lies: words, and its first and last entry; or None."""
    if array.chunks is None:
        try:
            array[()]
        except ERRORS as error:
            return str(error), None
        return None
    for chunk in array.iter_chunks():
        try:
            array[chunk]
        except ERRORS:
            axes = (f"{part.start:,} to {part.stop - 1:,}" for part in chunk)
            words = f"the chunk of entries {' × '.join(axes)} of {' × '.join(f'{n:,}' for n in array.shape)}"
            return words, (chunk[0].start, chunk[0].stop - 1)
    return None


def _cells_of(held, place):
    """Whose values a damaged chunk of a sparse matrix holds, in words."""
    with contextlib.suppress(*ERRORS):
        whose = "genes" if "csc" in str(held.attrs.get("encoding-type")) else "cells"
        first, last = np.searchsorted(held["indptr"][:], place[1], side="right")
        return f" ({whose} {first:,} to {last:,} of {held['indptr'].shape[0] - 1:,})"
    return ""
