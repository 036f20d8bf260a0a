# Sourced by run_all.sh and tests/run.sh, in the root of the repository: sets PYTHON to an interpreter that has the
# pinned requirements. The active environment serves if it has them (conda, Binder); else .venv, made if missing.
has_requirements() {
  "$1" - requirements.txt 2>/dev/null <<'PY'
import re, sys
from importlib import metadata
assert sys.version_info[:2] == (3, 11)
for line in open(sys.argv[1]):
    if found := re.match(r"([\w.-]+)==([\w.]+)", line):
        assert metadata.version(found[1]).split("+")[0] == found[2], line
PY
}

PYTHON=.venv/bin/python
if has_requirements python; then
  PYTHON=$(command -v python)
elif ! has_requirements "$PYTHON"; then
  base=""
  for candidate in python3.11 python3 python; do
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      base=$candidate
      break
    fi
  done
  if [ -z "$base" ]; then
    echo "Python 3.11 was not found. Install it, or: conda env create -f environment.yml && conda activate scbert" >&2
    return 1
  fi
  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    echo "Making .venv with $base …"
    "$base" -m venv --clear .venv || return 1
  fi
  echo "Installing requirements.txt into .venv (once, a few minutes) …"
  # torch first: with it in place, no other package asks for another build of it.
  "$PYTHON" -m pip install --quiet "$(grep '^torch==' requirements.txt)" || return 1
  "$PYTHON" -m pip install --quiet -r requirements.txt || return 1
  if ! has_requirements "$PYTHON"; then
    echo "The packages in .venv are not those of requirements.txt. Delete .venv and run this again." >&2
    return 1
  fi
fi
# So that Jupyter's default kernel, which papermill starts, is this interpreter's.
export PATH="$(cd "$(dirname "$PYTHON")" && pwd):$PATH"
PYTHON="$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")"
export PYTHON
