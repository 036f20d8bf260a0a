"""The one exception for input that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Input was refused.

    The message says what is wrong, where, and what to do about it.
    """
