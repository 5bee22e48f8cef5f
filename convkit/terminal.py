"""Plain text for terminals: a table and a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns separated by two blanks, a rule under the headers; columns named in ``left`` align left, others right.

    A row of one cell is a section heading over the whole width.
    """
    cells = [row for row in rows if len(row) > 1]
    widths = [max(len(row[i]) for row in [headers, *cells]) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        if len(row) == 1:
            return row[0]
        padded = [
            cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])


class Progress:
    """A one-line progress bar on a terminal; silent elsewhere, so that logs stay readable."""

    def __init__(self, total: int, stream: TextIO | None = None, width: int = 30) -> None:
        self.total, self.stream, self.width = total, stream or sys.stderr, width
        self.done = 0
        self.shown = self.stream.isatty()

    def step(self, label: str = "") -> None:
        """One more of ``total`` is done; ``label`` names it."""
        self.done += 1
        if self.shown:
            filled = self.width * self.done // max(self.total, 1)
            bar = "#" * filled + "." * (self.width - filled)
            self.stream.write(f"\r[{bar}] {self.done}/{self.total} {label:<40.40}")
            self.stream.flush()

    def close(self) -> None:
        """Erases the bar."""
        if self.shown:
            self.stream.write("\r" + " " * (self.width + 60) + "\r")
            self.stream.flush()
