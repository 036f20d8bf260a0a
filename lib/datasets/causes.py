"""Why a part of a file cannot be read: a filter that is missing, a damaged chunk and where, no memory, another version."""

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
import zarr
from anndata._io.specs.registry import IORegistryError

from lib.errors import DataError

# What anndata, h5py, zarr and pandas raise for a part that is damaged, foreign or too large.
ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError)
ERRORS += (MemoryError, EOFError, NotImplementedError, zlib.error, IORegistryError)
FILTERS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32018: "fcidecomp"}
FILTERS |= {32017: "sz", 32019: "jpeg", 32024: "sz3", 32026: "blosc2", 307: "bzip2", 4: "szip"}


def filters():
    """Let HDF5 have the filters of hdf5plugin (zstd, blosc …), where that package is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")


def plausible(held):
    """Refuse a data set that claims more than its file can hold: deflate packs 1032 bytes into one at most.

    Raises
    ------
    OSError
        As h5py raises for other damage.
    """
    if isinstance(held, h5py.Dataset) and held.nbytes > 1100 * Path(held.file.filename).stat().st_size:
        raise OSError(f"it claims {held.nbytes:,} bytes, more than its file can hold: damaged, or made to fill the memory")


def complete(held):
    """Refuse an array of zarr of which files are missing: zarr reads zeros there.

    Raises
    ------
    OSError
        As h5py raises for other damage.
    """
    if isinstance(held, zarr.Array) and held.nchunks_initialized < held.nchunks:
        missing = held.nchunks - held.nchunks_initialized
        raise OSError(f"{missing:,} of the {held.nchunks:,} files of {held.name} are missing")


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


@contextlib.contextmanager
def refusing(where: str, held=None, source=None) -> Iterator[None]:
    """Whatever anndata, h5py and zarr raise is one refusal with its cause.

    Parameters
    ----------
    where : str
        The part, as the sentence begins.
    held : h5py or zarr group or array, optional
        As :func:`reason` takes it.
    source : path or str, optional
        For the refusal's ``where``. Default: ``where``.
    """
    try:
        yield
    except DataError:
        raise
    except ERRORS as error:
        what, remedy = reason(error, held)
        raise DataError(f"{where} {what}.", remedy, source or where) from error


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
    try:
        plausible(array)
    except ERRORS as error:
        return str(error), None
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
