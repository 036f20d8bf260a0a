"""One training on several devices: a process for each, by Lightning Fabric's DDP strategy, and the same numbers as by one.

A batch is shared among the processes; gradients are those of the whole batch, and so are the draws (see
:func:`lib.scbert.training.fit`). Each process is given the same model, cells and random state, through files in a temporary
folder; the first one's result is taken. All end with whoever started them, and when one of them ends.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import distributed

from lib import settings
from lib.errors import DataError
from lib.scbert.arithmetic import SMALL, on_cuda, settle


def on_devices(train: Callable) -> Callable:
    """Let a function (model, …) that trains by :func:`lib.scbert.training.fit` do so in this machine's arithmetic
    (:func:`lib.scbert.arithmetic.settle`), on several devices.

    It gains the keyword ``devices``: GPUs, or processes on a CPU. Default: ``SCBERT_DEVICES``, or all visible GPUs, or one
    process on a CPU; one for models narrower than 100, since starting several takes longer than they save.
    """

    @functools.wraps(train)
    def run(model, *args, devices: int | None = None, **kwargs):
        accelerator = kwargs.get("accelerator", "auto")
        number = _number(model, accelerator, devices)
        settle(model, kwargs.get("checkpoint"), accelerator)
        return train(model, *args, **kwargs) if number == 1 else _together(number, train, model, args, kwargs)

    return run


def _number(model, accelerator, devices):
    there = torch.cuda.device_count() if on_cuda(accelerator) else None
    if devices is None:
        devices = 1 if model.config.dim < SMALL else settings.devices() or there or 1
    if there is not None and devices > there:
        raise DataError(f"{devices} devices are asked for, and {there} GPUs are visible. Give SCBERT_DEVICES={there} or less.")
    return devices


def _together(number, train, model, args, kwargs):
    """Start the processes, wait for them, and take what the first one has: the result, weights and random state."""
    with tempfile.TemporaryDirectory(prefix="scbert-") as folder:
        work = (train.__module__, train.__name__, model.cpu(), args, kwargs, random_state())
        joblib.dump(work, Path(folder) / "work")
        processes = []
        try:
            processes += [_start(rank, number, folder) for rank in range(number)]
            _wait(processes, Path(folder))
        finally:
            for process in processes:
                process.kill()
                process.wait()
                process.stdin.close()
        result, state, model.redraws, random = joblib.load(Path(folder) / "result")
    model.load_state_dict(state)
    restore_random_state(random)
    model.eval()
    return result


def _start(rank, number, folder):
    own = {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // number))}
    if rank:  # one bar is enough
        own["TQDM_DISABLE"] = "1"
    code = f"from lib.scbert import ranks; ranks.main({rank}, {number}, {folder!r})"
    # A session of its own: who presses Ctrl-C interrupts the process that waits, and that ends these.
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code], env=settings.handed_on(own), stdin=subprocess.PIPE, start_new_session=True
    )


def _wait(processes, folder):
    """Until all have ended well; the first that has not is said, or its error raised."""
    while any(process.poll() is None for process in processes):
        time.sleep(0.05)
        if any(process.poll() for process in processes):
            break
    ended = {rank: process.returncode for rank, process in enumerate(processes) if process.poll()}
    killed = [rank for rank, code in ended.items() if code < 0]
    said = sorted(folder.glob("error.*"), key=lambda path: path.stat().st_mtime_ns)
    if said and not killed:  # the others lost touch with the one that ended first
        raise pickle.loads(said[0].read_bytes())
    if ended:
        rank = (killed or list(ended))[0]
        how = f"signal {-ended[rank]}" if killed else f"exit status {ended[rank]}"
        short = ", as it is where memory is short" if ended[rank] == -signal.SIGKILL else ""
        raise DataError(
            f"Process {rank + 1} of {len(processes)} that trained together was ended from outside ({how}){short}; the others "
            "were ended too. What is done is kept: call again."
        )


def main(rank: int, number: int, folder: str) -> None:
    """What each process does."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    folder = Path(folder)
    try:
        module, name, model, args, kwargs, random = joblib.load(folder / "work", mmap_mode="c")
        cuda = on_cuda(kwargs.get("accelerator", "auto"))
        if cuda:
            torch.cuda.set_device(rank)
        meeting = {"init_method": f"file://{folder / 'meeting'}", "rank": rank, "world_size": number}
        distributed.init_process_group("nccl" if cuda else "gloo", **meeting)
        restore_random_state(random)
        result = getattr(importlib.import_module(module), name).__wrapped__(model, *args, **kwargs)
        if rank == 0:
            joblib.dump((result, model.cpu().state_dict(), model.redraws, random_state()), folder / "result")
        distributed.barrier()  # nobody leaves while another still reads what it sent
    except BaseException as error:  # noqa: BLE001 - whatever it is, the process that waits raises it
        try:
            content = pickle.dumps(error)
            pickle.loads(content)
        except Exception:  # noqa: BLE001 - an error that cannot travel goes as words
            content = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        (folder / f"error.{rank}").write_bytes(content)
        os._exit(1)
    # Not by the interpreter's end: gloo's threads may still run then, and C++ aborts a process whose threads nobody waits for.
    os._exit(0)


def _end_with_parent(folder):
    os.read(0, 1)  # returns when the other end is closed, by whatever ends the process that holds it
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def random_state() -> dict:
    """The state of torch's own generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# What fit and evaluations do with the other processes; by one process alone, nothing.


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def parts(batch: np.ndarray, at_once: int | None, weight_of: Callable) -> list[tuple[np.ndarray, float | None]]:
    """A batch in consecutive parts of at most ``at_once`` cells, with what each weighs in the mean; None: another process's.

    A process without a cell of the batch is given one that weighs nothing, since it has to count the forward as others do.
    """
    this, number = place()
    if number == 1 and (at_once or len(batch)) >= len(batch):
        return [(batch, 1.0)]
    plan, step, whole = [], at_once or len(batch), weight_of(batch) or 1
    for rank, share in enumerate(np.array_split(batch, number)):
        own = rank == this
        some = [share[i : i + step] for i in range(0, len(share), step)]
        plan += [(part, weight_of(part) / whole if own else None) for part in some]
        if own and not len(share):
            plan.append((batch[:1], 0.0))
    return plan


def sum_gradients(parameters: list, fabric) -> None:
    """Let every process have the sum of all processes' gradients.

    In one message after all parts of a batch: what ``DistributedDataParallel`` does from inside ``forward`` is not to be had,
    since the parts of the model are called one by one, and a process may have no cell of a batch.
    """
    flat = torch.cat([torch.zeros_like(x).flatten() if x.grad is None else x.grad.flatten() for x in parameters])
    flat = fabric.all_reduce(flat, reduce_op="sum")
    for parameter, grad in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.grad = grad.view_as(parameter)


def in_order(mine: list) -> list:
    """What was computed of a list of batches, in their order: this process had every n-th, of n processes."""
    _, number = place()
    if number == 1:
        return mine
    everyone = [None] * number
    distributed.all_gather_object(everyone, mine)
    return [everyone[k % number][k // number] for k in range(sum(map(len, everyone)))]
