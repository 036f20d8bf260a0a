# Sourced with bash by run_all.sh and tests/run.sh, from any folder: sets PYTHON to an interpreter that has the pinned
# requirements. The active environment serves if it has them (conda, Binder); else .venv, made or completed if need be.
# shellcheck shell=bash
unset PYTHONOPTIMIZE # packages of others need their docstrings, and assert
SETUP_ROOT=$(unset CDPATH && cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || return 1
SETUP_VENV=$SETUP_ROOT/.venv
# The number of the process that installs into .venv; it stays there if the installation is broken off.
SETUP_MARK=$SETUP_VENV/installing

setup_says() { printf '%s\n' "$@" >&2; }

is_311() {
  "$1" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}

# Prints the interpreter's own path if it has every pinned version.
with_requirements() {
  "$1" -c '
import re, sys
from importlib import metadata
if sys.version_info[:2] != (3, 11):
    raise SystemExit(1)
for line in open(sys.argv[1], encoding="utf-8"):
    if found := re.match(r"([\w.-]+)==([\w.]+)", line):
        if metadata.version(found[1]).split("+")[0] != found[2]:
            raise SystemExit(1)
print(sys.executable)' "$SETUP_ROOT/requirements.txt" 2>/dev/null
}

is_complete() {
  [ ! -e "$SETUP_MARK" ] && with_requirements "$SETUP_VENV/bin/python" >/dev/null
}

# pip quietly; only if it fails, a sentence on what happened and its last lines. Warnings about places where it also
# looks are left out. What pip says is kept in a variable: a full disk may leave no room for a file.
setup_pip() {
  local output reason
  if output=$(PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$@" 2>&1); then
    return 0
  fi
  if pip_said "No space left|Errno 28|Disk quota"; then
    reason="the disk is full. $SETUP_ROOT needs 3 GB, with the CUDA build of torch 10 GB, and so does ${TMPDIR:-/tmp}."
  elif pip_said "Permission denied|Errno 13|Read-only file system"; then
    reason="a folder cannot be written to, $SETUP_VENV or the one named below."
  elif pip_said "connection broken|Failed to establish|name resolution|getaddrinfo|unreachable|timed out|ProxyError" ||
    pip_said "SSLError|CERTIFICATE|Connection (refused|reset|aborted)|Max retries|IncompleteRead|HTTP error 5"; then
    rm -f -- "$SETUP_MARK" # nothing is half installed: pip downloads first
    reason="the package index (PyPI) cannot be reached. Is there a network? Behind a proxy, set HTTPS_PROXY."
  elif pip_said "No matching distribution|Could not find a version|different Python"; then
    rm -f -- "$SETUP_MARK"
    reason="the package index has no such version for this Python and this kind of machine."
  else
    reason="see below."
  fi
  setup_says "The installation failed: $reason Run the same command again once that is mended. The end of pip's output:"
  { printf '%s\n' "$output" | grep -v "^WARNING: Location .* is ignored" || true; } |
    tail -n 8 | cut -c 1-300 | sed 's/^/  /' >&2
  return 1
}
pip_said() { printf '%s\n' "$output" | grep -iE "$1" >/dev/null; }

mark() { echo "$$" 2>/dev/null >"$SETUP_MARK"; }

# True while the process that left the mark is at work; the number alone could be another program's by now.
is_installing() {
  local number
  number=$(cat "$SETUP_MARK" 2>/dev/null) && [ -n "$number" ] && [ "$number" != "$$" ] || return 1
  case $(ps -p "$number" -o args= 2>/dev/null) in
  *run_all.sh* | *run.sh* | *setup.sh*) return 0 ;;
  *) return 1 ;;
  esac
}

# .venv itself, with pip in it.
make_venv() {
  local base="" candidate output
  for candidate in python3.11 python3 python; do
    if is_311 "$candidate"; then
      base=$candidate
      break
    fi
  done
  if [ -z "$base" ]; then
    setup_says "Python 3.11 was not found. Install it, or: conda env create -f environment.yml && conda activate scbert"
    return 1
  fi
  setup_says "Making .venv with $base ..."
  # Emptied, not removed: it may be a link to another disk.
  if ! { mkdir -p -- "$SETUP_VENV" && find "$SETUP_VENV/" -mindepth 1 -maxdepth 1 -exec rm -rf {} + && mark; }; then
    setup_says "The folder $SETUP_VENV cannot be written. Is the disk full?"
    return 1
  fi
  if output=$("$base" -m venv "$SETUP_VENV" 2>&1); then
    return 0
  fi
  # Debian and Ubuntu keep venv's pip in a package of its own; a pip beside the interpreter can stand in.
  if "$base" -c 'import ensurepip.__main__' 2>/dev/null; then
    setup_says "Making .venv failed (is the disk full?):"
    printf '%s\n' "$output" | tail -n 8 | sed 's/^/  /' >&2
    return 1
  fi
  if "$base" -m venv --without-pip "$SETUP_VENV" >/dev/null 2>&1 &&
    "$base" -m pip --python "$SETUP_VENV/bin/python" --version >/dev/null 2>&1; then
    setup_pip "$base" -m pip --python "$SETUP_VENV/bin/python" install --quiet pip
    return
  fi
  setup_says "$base cannot make a virtual environment with pip, because its module ensurepip is missing." \
    "On Debian and Ubuntu: sudo apt install python3.11-venv; then run the same command again."
  return 1
}

install_requirements() {
  if is_installing; then # the other of the two commands: its work serves both
    setup_says "Another process, $(cat "$SETUP_MARK"), is installing into .venv; waiting for it ..."
    while is_installing; do
      sleep 1
    done
    if is_complete; then
      return 0
    fi
  fi

  if [ -e "$SETUP_MARK" ]; then
    setup_says "The last installation was broken off; it is begun again (downloads are kept)."
    make_venv || return 1
  elif ! "$SETUP_VENV/bin/python" -c "" >/dev/null 2>&1; then
    if [ -e "$SETUP_VENV/bin/python" ] ||
      { [ ! -e "$SETUP_VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$SETUP_VENV" 2>/dev/null)" ]; }; then
      setup_says "$SETUP_VENV holds no virtual environment that works. Move it away and run the same command again."
      return 1
    fi
    make_venv || return 1
  elif ! is_311 "$SETUP_VENV/bin/python"; then
    setup_says "The Python in $SETUP_VENV is not 3.11. Delete or rename that folder and run the same command again."
    return 1
  elif ! "$SETUP_VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    make_venv || return 1
  fi

  setup_says "Installing requirements.txt into .venv (once, a few minutes) ..."
  if ! mark; then
    setup_says "The folder $SETUP_VENV cannot be written. Is the disk full?"
    return 1
  fi
  # torch first: with it in place, no other package asks for another build of it.
  setup_pip "$SETUP_VENV/bin/python" -m pip install --quiet "$(grep '^torch==' "$SETUP_ROOT/requirements.txt")" &&
    setup_pip "$SETUP_VENV/bin/python" -m pip install --quiet -r "$SETUP_ROOT/requirements.txt" || return 1
  rm -f -- "$SETUP_MARK"
  if ! is_complete; then
    setup_says "The packages in .venv are not those of requirements.txt. Delete .venv and run the same command again."
    return 1
  fi
}

if ! PYTHON=$(with_requirements python) && ! PYTHON=$(with_requirements python3); then
  if ! is_complete; then
    install_requirements || return 1
  fi
  PYTHON=$SETUP_VENV/bin/python
fi
export PYTHON
# So that Jupyter's default kernel, which papermill starts, is this interpreter's; and so that lib is found in all
# processes, also where PYTHONSAFEPATH keeps the working folder out.
export PATH="${PYTHON%/*}:$PATH"
export PYTHONPATH="$SETUP_ROOT${PYTHONPATH:+:$PYTHONPATH}"
