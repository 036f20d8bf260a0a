#!/usr/bin/env bash
# Set up what is missing and run the tests; arguments go to pytest (-m "not slow" is the fast part).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./.setup.sh
exec "$PYTHON" -m pytest tests "$@"
