"""The one exception for input that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Input was refused.

    Parameters
    ----------
    what : str
        What is wrong, and where: a whole sentence.
    remedy : str, optional
        What to do about it: one more sentence, or some.
    where : str or path, optional
        The place alone: a file, a part of it, a column.

    Attributes
    ----------
    what, remedy, where : str
        As given; the message is the first two.
    """

    def __init__(self, what: str, remedy: str = "", where: object = ""):
        super().__init__(f"{what} {remedy}".strip())
        self.what, self.remedy, self.where = what, remedy, str(where)
