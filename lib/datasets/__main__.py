"""``python -m lib.datasets NAME…``: download by hand; without a name, list what there is."""

import sys

from lib.datasets import downloads
from lib.errors import DataError

try:
    for name in sys.argv[1:]:
        print(downloads.fetch(name))
except DataError as refusal:
    raise SystemExit(f"lib.datasets: {refusal}") from None
if not sys.argv[1:]:
    for name, entry in downloads.registry().items():
        print(f"{name:22s} {'there' if downloads.have(name) else 'not downloaded':15s} {entry['title']}")
