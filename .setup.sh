# Sourced with bash by run_all.sh and tests/run.sh, from any folder: sets PYTHON to an interpreter that has the pinned
# requirements. The active environment serves if it has them (conda, Binder); else .venv, made or completed if need be.
# shellcheck shell=bash
unset PYTHONOPTIMIZE # packages of others need their docstrings, and assert
SETUP_ROOT=$(unset CDPATH && cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || return 1
SETUP_VENV=$SETUP_ROOT/.venv
# The number of the process that installs into .venv; it stays there if the installation is broken off.
SETUP_MARK=$SETUP_VENV/installing

setup_says() { printf '%s\n' "$@" >&2; }

# Whether an interpreter is one of those that the pinned versions have wheels for.
serves() {
  "$1" -c 'import sys; raise SystemExit(not (3, 11, 5) <= sys.version_info[:3] < (3, 14))' >/dev/null 2>&1
}

# Prints the interpreter's own path if it has every pinned version.
with_requirements() {
  "$1" -c '
import sys
from importlib import metadata
if not (3, 11, 5) <= sys.version_info[:3] < (3, 14):
    raise SystemExit(1)
from packaging.requirements import Requirement  # one of the pinned ones
for line in open(sys.argv[1], encoding="utf-8"):
    if line.strip() and not line.startswith("#"):
        wanted = Requirement(line.strip())
        if wanted.marker is None or wanted.marker.evaluate():  # else it is for another Python or another system
            if "==" + metadata.version(wanted.name).split("+")[0] != str(wanted.specifier):
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
  elif pip_said "from versions: none" && ! index_answers; then
    rm -f -- "$SETUP_MARK"
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

# Whether pip finds any version of pip itself: where not, it is the index that is missing, not a version.
index_answers() { "$SETUP_VENV/bin/python" -m pip index versions pip >/dev/null 2>&1; }

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
  local base="" candidate output found seen=""
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if serves "$candidate"; then
      base=$candidate
      break
    fi
    found=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) &&
      seen="${seen:+$seen, }$candidate is $found"
  done
  if [ -z "$base" ]; then
    setup_says "No Python from 3.11.5 to 3.13 was found${seen:+ ($seen)}. Install one (python.org, apt, brew, uv python install 3.12)" \
      "and run the same command again; or: conda env create -f environment.yml && conda activate scbert"
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
    "On Debian and Ubuntu: sudo apt install ${base##*/}-venv; then run the same command again."
  return 1
}

# Where pip finds torch without CUDA (0.2 GB instead of 2.7), for a Linux machine without an NVIDIA GPU; nothing where that place
# cannot be reached, or the caller chose one.
torch_index() {
  local place=https://download.pytorch.org/whl/cpu
  if [ "$(uname -s)" = Linux ] && [ -z "${PIP_EXTRA_INDEX_URL:-}" ] && ! command -v nvidia-smi >/dev/null 2>&1 &&
    "$SETUP_VENV/bin/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)' "$place/torch/" \
      >/dev/null 2>&1; then
    echo "--extra-index-url $place"
  fi
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
  elif ! serves "$SETUP_VENV/bin/python"; then
    setup_says "The Python in $SETUP_VENV is $("$SETUP_VENV/bin/python" -c 'import platform; print(platform.python_version())'), not one" \
      "from 3.11.5 to 3.13. Delete or rename that folder and run the same command again."
    return 1
  elif ! "$SETUP_VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    make_venv || return 1
  fi

  setup_says "Installing requirements.txt into .venv (once, a few minutes; 0.5 GB to download, 2 GB on disk; beside a GPU 3 GB and 7 GB) ..."
  if ! mark; then
    setup_says "The folder $SETUP_VENV cannot be written. Is the disk full?"
    return 1
  fi
  # torch first: with it in place, no other package asks for another build of it.
  # shellcheck disable=SC2046 # two words, or none
  setup_pip "$SETUP_VENV/bin/python" -m pip install --quiet $(torch_index) "$(grep '^torch==' "$SETUP_ROOT/requirements.txt")" &&
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
