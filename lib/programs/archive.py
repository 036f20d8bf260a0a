"""Publish the finished runs of a profile: ``python -m lib.archive laptop``, with ``-p dataset liver`` for another data set."""

from __future__ import annotations

import argparse
import sys

import yaml

from lib.errors import DataError
from lib.experiments import archive, profiles


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.archive", description="Write data/runs/<profile>.zip from the store.")
    parser.add_argument("profile")
    value = "an entry of the profile, its value as YAML; may be repeated"
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)
    given = parser.parse_args(arguments)
    chosen = profiles.load(given.profile, **{name: yaml.safe_load(value) for name, value in given.parameters})
    path, count = archive.write(chosen["name"], {chosen["fingerprint"]})
    print(f"{path}: {count} runs, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except DataError as refusal:
        print(f"python -m lib.archive: {refusal}", file=sys.stderr)
        status = 2
    raise SystemExit(status)
