"""What is started from a shell; nothing imports it. ``programs`` is left out when typing: ``python -m lib.benchmark``.

Read: run_notebooks (``./run_all.sh``), command_line (its options and parameters), report (executed notebooks as pages, and
the index of a profile), committed (the published figures, and how those made here differ), runs (look after the store, and
publish finished runs), predict (name the cells of a file), texts and speed (made from the figures), readme (which puts
them in their places), coverage (how often our intervals are right), benchmark (speed, memory, exactness) with benchmark_jobs
and benchmark_turns.
"""
