#!/usr/bin/env bash
# Set up what is missing and run the tests; arguments go to pytest (-m "not slow" is the fast part, or name a file).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh tests/run.sh
set -euo pipefail
unset CDPATH
script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # called through a link
  cd -P -- "$(dirname -- "$script")"
  script=$(readlink -- "$(basename -- "$script")")
done
cd -P -- "$(dirname -- "$script")/.."
source ./.setup.sh
paths=(tests lib)
for argument in "$@"; do
  if [[ ${argument%%::*} == *.py && -e ${argument%%::*} ]]; then
    paths=()
  fi
done
if [[ ${#paths[@]} -gt 0 && " $* " != *" -n"* && " $* " != *" --pdb"* ]]; then
  set -- -n 2 --dist loadfile "$@" # a file's tests in one process: they share what takes long to make
fi
exec "$PYTHON" -m pytest ${paths[@]+"${paths[@]}"} "$@"
