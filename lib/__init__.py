"""A single-cell foundation model, its rivals, and the question which of them names cell types better.

A folder is a stage on the way from a file to a figure, and imports point one way:
datasets → prepare → scbert → experiments → programs and notebooks; prepare → evaluate → paper and plots.
Beside them: ``arms`` (what is compared), ``plots`` (one style), ``files``, ``settings``, ``errors``.
Begin with README.md in this folder, then each folder's own first lines.
"""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("lazy_loader") is None:  # none of our own: the first package of others that is asked for
    _said = "The packages that lib needs are not installed for this Python. Run ./run_all.sh once: it installs them into .venv"
    if sys.argv[0] == "-m":  # as a program, which is looked for now: a sentence, no traceback
        raise SystemExit(f"{_said}. Then: .venv/bin/python {shlex.join(sys.orig_argv[1:])}")
    raise ModuleNotFoundError(f"{_said}; then use .venv/bin/python.", name="lazy_loader")

# What is started from a shell stands in programs/ and is typed without it: python -m lib.benchmark.
__path__.append(str(Path(__file__).parent / "programs"))
