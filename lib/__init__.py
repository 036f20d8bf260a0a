"""A single-cell foundation model, its rivals, and the question which of them names cell types better.

A folder is a stage on the way from a file to a figure, and imports point one way:
datasets → prepare → scbert → experiments → programs and notebooks; prepare → evaluate → paper and plots.
Beside them: ``arms`` (what is compared), ``plots`` (one style), ``files``, ``settings``, ``errors``.
Begin with README.md in this folder, then each folder's own first lines.
"""

from pathlib import Path

# What is started from a shell stands in programs/ and is typed without it: python -m lib.benchmark.
__path__.append(str(Path(__file__).parent / "programs"))
