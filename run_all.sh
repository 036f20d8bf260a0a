#!/usr/bin/env bash
# Set up what is missing, run every notebook headless, write figures/<profile>/. ./run_all.sh --help lists the options.
set -euo pipefail
export SCBERT_CALLED_FROM="$PWD" # paths in the arguments are meant from here
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./.setup.sh
exec "$PYTHON" -m lib.execute "$@"
