"""``python -m lib.datasets NAME…``: download by hand; without a name, list what there is."""

import sys

from lib.datasets.downloads import main
from lib.errors import DataError

try:
    main(sys.argv[1:])
except DataError as refusal:
    raise SystemExit(f"lib.datasets: {refusal}") from None
