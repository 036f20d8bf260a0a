"""Measuring in turns: each model in a process of its own, until the ratios are known, and nothing that is known twice."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from scipy import stats

from lib import settings
from lib.files import fingerprint, write_text
from lib.programs.benchmark_jobs import flops, make_job, peak, timed
from lib.scbert.model import ScBertConfig

SPAWN = multiprocessing.get_context("spawn")
NARROW = 1.1  # upper end of a ratio's interval over its lower end, at which turns end


def _measure(connection, model, job, genes, cells, threads, device, size):
    """In a process of its own: do the job whenever asked, answer with the seconds; at the end, with the peak memory."""
    torch.set_num_threads(threads)
    work = make_job(model, job, genes, cells, ScBertConfig(genes=genes, **size), device)
    base = torch.cuda.memory_allocated() if device == "cuda" else peak(device)
    work()
    while connection.recv():
        connection.send(timed(work, device))
    connection.send(peak(device) - base)


def ratio(stock: list[float], model: list[float]) -> tuple[float, float, float]:
    """How many times faster a model is than stock, turn by turn: the geometric mean, and its 95 % interval (Student's).

    >>> ratio([8.0, 8.0], [2.0, 2.0])
    (4.0, 4.0, 4.0)
    """
    logs = np.log(stock) - np.log(model)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 1 else np.nan
    return tuple(float(np.exp(value).round(6)) for value in (logs.mean(), logs.mean() - half, logs.mean() + half))


def compare(
    job: str, genes: int, cells: dict[str, int], threads: int, device: str, turns: tuple[int, int], size: dict | None = None
) -> list[dict]:
    """Times and memory of some models doing one job, in turns.

    Parameters
    ----------
    cells : dict
        The models, and the cells of a batch for each; the result is per cell. Stock, where there, is the first.
    turns : (int, int)
        The fewest; the most, where the interval of a ratio to stock stays wide.
    size : dict, optional
        Sizes of the model that are not the paper's.

    Returns
    -------
    list of dict
        ``model``, ``job``, ``genes``, ``cells``, ``turns``, ``seconds`` (median, per cell), ``fastest`` and ``slowest``,
        ``bytes`` (peak above the model and its data, per cell), ``flops``; ``ratio`` with ``ratio_low`` and ``ratio_high``,
        and ``memory_ratio`` to stock, if there.
    """
    peers, seconds, rows = {}, {model: [] for model in cells}, []
    for model in cells:
        here, there = SPAWN.Pipe()
        process = SPAWN.Process(target=_measure, args=(there, model, job, genes, cells[model], threads, device, size or {}))
        process.start()
        there.close()  # so that a process that dies is noticed
        peers[model] = here, process
    for turn in range(turns[1]):
        for model in cells:
            peers[model][0].send(True)
            seconds[model].append(peers[model][0].recv() / cells[model])
        if turn + 1 >= turns[0] and not _wide(seconds):
            break
    for model, (pipe, process) in peers.items():
        pipe.send(False)
        row = {"model": model, "job": job, "genes": genes, "cells": cells[model], "threads": threads, "turns": turn + 1}
        row |= {"seconds": statistics.median(seconds[model]), "fastest": min(seconds[model]), "slowest": max(seconds[model])}
        row |= {"bytes": pipe.recv() / cells[model], "flops": flops(genes, ScBertConfig(**size or {}), job)}
        process.join()
        rows.append(row)
        if (stock := rows[0])["model"] == "stock":
            row |= dict(zip(("ratio", "ratio_low", "ratio_high"), ratio(seconds["stock"], seconds[model]), strict=True))
            row["memory_ratio"] = row["bytes"] / stock["bytes"] if stock["bytes"] else np.nan
    return rows


def _wide(seconds):
    """Whether the interval of some ratio to stock is still too wide; with one turn there is none."""
    if "stock" not in seconds or len(seconds["stock"]) < 2:
        return "stock" in seconds
    intervals = [ratio(seconds["stock"], found) for model, found in seconds.items() if model != "stock"]
    return any(high > NARROW * low for _, low, high in intervals)


class Measured:
    """What was measured, each thing once: a file in the cache keeps it, so that what was interrupted goes on.

    Parameters
    ----------
    kind : str
        All that measurements depend on: the machine, the code, what was asked.
    """

    def __init__(self, kind: str):
        self.path = settings.cache() / "benchmark" / f"{fingerprint(kind)}.json"
        self.rows, self.kept = [], {}
        with contextlib.suppress(OSError, ValueError):  # none, or damaged: measured anew
            self.kept = dict(json.loads(self.path.read_text(encoding="utf-8")))
            print(f"{len(self.kept)} measurements of an interrupted run are kept in {self.path}: it goes on.", flush=True)

    def __call__(self, key: str, function: Callable[..., list[dict]], *arguments) -> list[dict]:
        """The rows that a function gives, or gave before."""
        if key not in self.kept:
            self.kept[key] = function(*arguments)
            write_text(self.path, json.dumps(self.kept))
        self.rows += self.kept[key]
        return self.kept[key]


def apart(function: Callable[..., dict], *arguments) -> dict:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, SPAWN) as pool:
        return pool.submit(function, *arguments).result()
