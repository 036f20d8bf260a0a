"""What a file is, told from its content; and why one of HDF5 cannot be opened."""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from lib.datasets import causes
from lib.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
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
    b"\xff\xfe": ("text in UTF-16", "Save it as text in UTF-8."),
    b"\x80\x04\x95": ("a Python pickle", "Load it, and write it with adata.write_h5ad(path)."),
    b"\x80\x05\x95": ("a Python pickle", "Load it, and write it with adata.write_h5ad(path)."),
    b"\x93NUMPY": ("an array of NumPy, without names of cells and genes", "Make an .h5ad of it with anndata."),
    b"ARROW1": ("a Feather table", "Make an .h5ad of it with anndata."),
    b"MATLAB 5": ("a MATLAB file", "Make an .h5ad of it with anndata."),
    b"Rar!": ("a rar archive", "Unpack it, and give the path of what is inside."),
    b"7z\xbc\xaf": ("a 7z archive", "Unpack it, and give the path of what is inside."),
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
    if _is_tar(start):
        raise DataError(f"{path} is not an .h5ad file: it is a tar archive.", f"Unpack it: tar -xf {path}", path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt", ".tab") and b"\0" not in start:
        return "table"
    zeros = not any(start)
    raise DataError(
        f"{path} is not an .h5ad file: it does not begin as HDF5 does"
        + (", but with zeros: it was copied or downloaded in part." if zeros else "."),
        "Copy it again."
        if zeros
        else "Copy it again, check that a compressed file was unpacked, or write one with adata.write_h5ad(path).",
        path,
    )


def _folder(path):
    names = {entry.name for entry in path.iterdir()}
    if names & {".zgroup", ".zattrs", "zarr.json"}:
        return "zarr"
    if any(name.endswith(("matrix.mtx", "matrix.mtx.gz")) for name in names):
        return "10x folder"
    inside = [name for name in sorted(names) if name.endswith((".h5ad", ".h5", ".h5mu", ".zarr", ".loom"))]
    inside += [name for name in sorted(names) if (path / name).is_dir() and any((path / name).glob("*matrix.mtx*"))]
    there = f"(there {'are' if inside else 'is'}: {', '.join(inside[:5]) or 'none'})"
    raise DataError(
        f"{path} is a folder, neither a .zarr store nor a 10x folder (matrix.mtx, barcodes.tsv, features.tsv).",
        f"Give the path of an .h5ad file or a 10x folder inside it {there}.",
        path,
    )


def _gzipped(path, packed):
    """What an archive that its name does not tell holds, by its first bytes: the rest stays packed."""
    name = path.name.lower()
    if name.endswith((".csv.gz", ".tsv.gz", ".txt.gz", ".tab.gz")):
        return "table"
    try:
        start = b"" if name.endswith((".h5ad.gz", ".h5.gz", ".loom.gz")) else zlib.decompressobj(31).decompress(packed, 512)
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
    if _is_tar(start):
        raise DataError(f"{path} is not an .h5ad file: it is a tar archive, packed.", f"Unpack it: tar -xzf {path}", path)
    raise DataError(
        f"{path} is not an .h5ad file: it is compressed with gzip, and was not unpacked.", "Unpack it: gunzip FILE.", path
    )


def _is_tar(start):
    return start[257:262] == b"ustar"


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
    causes.filters()
    if (place := _endless_heap(path)) is not None:
        raise DataError(f"{path} is damaged: its heap of texts at byte {place:,} cannot be followed.", "Copy it again.", path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _not_opened(path, error) from error
    except (RuntimeError, ValueError, MemoryError) as error:
        raise DataError(f"{path} cannot be read: its HDF5 structure is damaged ({error}).", "Copy it again.", path) from error
    with file:
        yield file


def _endless_heap(path):
    """Where a heap of texts is damaged so that HDF5 would look for the next text for ever; None if nowhere.

    An object of number 0 is the free space that ends a heap; with a size of 0, HDF5 does not get past it.
    """
    size = path.stat().st_size
    if not 64 < size < 2**30:  # a larger file would be read for a minute, for damage that is rare
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GCOL\1\0\0\0")
        while 0 <= start < size - 32:
            end = min(start + struct.unpack_from("<Q", content, start + 8)[0], size)
            place = start + 16
            while place + 16 <= end:
                number, _, _, length = struct.unpack_from("<HHIQ", content, place)
                if number == 0 and length == 0:
                    return place
                place += length if number == 0 else 16 + (length + 7) // 8 * 8
            start = content.find(b"GCOL\1\0\0\0", start + 4)
    return None


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
