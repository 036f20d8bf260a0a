"""What is started from a shell.

run_notebooks (``./run_all.sh``), benchmark (``python -m lib.benchmark``) and its jobs.
"""
