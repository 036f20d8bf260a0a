"""In which arithmetic a model is computed here: fp32 or bf16, and by compiled functions or by PyTorch alone.

On a GPU of CUDA it is bf16. On a CPU, models as wide as scBERT are computed in bf16 where a measurement of this machine says
that it pays (made once, kept in the cache folder; ``SCBERT_PRECISION`` overrules it), and small ones always in fp32. A training
that was interrupted goes on in the arithmetic it began with.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from lib import settings
from lib.files import fingerprint, write_text
from lib.scbert import fused
from lib.scbert.fused import SMALL
from lib.scbert.model import ScBert, ScBertConfig

PAYS = 1.2  # how many times faster a training step in bf16 must be
SETTLED = []  # of each model that was trained or asked in this process, in turn


def on_cuda(accelerator: str = "auto") -> bool:
    """Whether a training is on GPUs of CUDA."""
    return accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()


def settle(model: ScBert, checkpoint: str | Path | None = None, accelerator: str = "auto") -> str:
    """Let a model be computed in the arithmetic that its interrupted training began with, or else in the best one.

    Returns
    -------
    str
        ``"fp32"`` or ``"bf16"``, with ``", compiled"`` where compiled functions do it; also kept as ``model.arithmetic``.
    """
    model.arithmetic = _began_with(checkpoint) or choose(model.config.dim, accelerator)
    for attention, _ in model.performer.net.layers:
        attention.fn.fast_attention.compiled = model.arithmetic.endswith("compiled")
    SETTLED.append(model.arithmetic)
    return model.arithmetic


def choose(width: int, accelerator: str = "auto") -> str:
    """The best arithmetic for models of this width on this machine, in the words of :func:`settle`."""
    if on_cuda(accelerator):
        return "bf16"
    if width < SMALL or accelerator not in ("auto", "cpu") or torch.backends.mps.is_available():
        return "fp32"
    chosen = settings.precision() or measured()["chosen"]
    return chosen + (", compiled" if fused.can(getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[chosen])) else "")


def measured() -> dict:
    """Seconds of a training step of one block on this machine, by one thread, in fp32 and bf16; and what is ``chosen``."""
    kind = fingerprint(f"{fused.processor()} {torch.__version__} {fused.can(torch.float32)} {fused.can(torch.bfloat16)}")
    path = settings.cache() / "compiled" / f"{kind}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["chosen"] in ("fp32", "bf16")
    except (OSError, ValueError, KeyError, AssertionError):
        found = _measure()
        write_text(path, json.dumps(found | {"processor": fused.processor().split("\n")[0]}, indent=1))
    return found


def _measure():
    kinds, threads = {"fp32": torch.float32, "bf16": torch.bfloat16}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):  # a training that is about to begin draws what it would have drawn
            products = _fastest(lambda x: x @ x, {name: torch.randn(256, 256).to(dtype) for name, dtype in kinds.items()}, 5)
            if products["bf16"] > products["fp32"]:
                return {"seconds": {}, "chosen": "fp32"}  # bf16 is but imitated, and a block might take a minute
            model, tokens = ScBert(ScBertConfig(genes=2000, depth=1), torch.randn(2000, 200)), torch.randint(0, 6, (1, 2001))

            def step(dtype):
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    model(tokens).float().square().mean().backward()

            seconds = _fastest(step, kinds, 3)
    finally:
        torch.set_num_threads(threads)
    return {"seconds": seconds, "chosen": "bf16" if seconds["fp32"] > PAYS * seconds["bf16"] else "fp32"}


def _fastest(function, arguments, repeats):
    """Seconds of the processor, the fewest of some in turns for each argument: what else the machine does must not decide."""
    times = {name: [] for name in arguments}
    for name, argument in [*arguments.items()] * (repeats + 1):
        begun = time.process_time()
        function(argument)
        times[name].append(time.process_time() - begun)
    return {name: min(found[1:]) for name, found in times.items()}


def _began_with(checkpoint):
    """The arithmetic in a training's checkpoint; a file that cannot be read is :func:`lib.scbert.training.fit`'s to judge."""
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["arithmetic"]
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        return None
