#!/usr/bin/env bash
# Set up what is missing, run every notebook headless, write figures/<profile>/. ./run_all.sh --help lists the options.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh run_all.sh
set -euo pipefail
called_from=$PWD # paths in the arguments are meant from here
unset CDPATH
script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do # called through a link
  cd -P -- "$(dirname -- "$script")"
  script=$(readlink -- "$(basename -- "$script")")
done
cd -P -- "$(dirname -- "$script")"
source ./.setup.sh
exec "$PYTHON" -m lib.programs.run_notebooks --from "$called_from" "$@"
