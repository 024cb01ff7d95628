"""Tables of numbers in text files; an error names the file, line and column of the cell."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import Refusal, bad_file

Array = NDArray[Any]
MOST_BYTES = 2**30  # of a file, 1 GiB
DELIMITERS = ",;\t|"
MISSING = {"", "nan", "na", "n/a", "null", "none", "-"}


@dataclass(frozen=True)
class Table:
    """Cells of a text file under a header; lines: the line of each row in the file, from 1 on."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def text(self, name: str) -> list[str]:
        j = self.index(name)
        return [row[j] for row in self.rows]

    def numbers(self, name: str, may_miss: bool = True) -> Array:
        """A column as floats; NaN for missing cells."""
        return np.array([number(self.path, x, i, name, may_miss) for x, i in zip(self.text(name), self.lines)])

    def index(self, name: str) -> int:
        if name not in self.names:
            raise bad_file(self.path, f"has no column {name!r}; its columns are {', '.join(map(repr, self.names))}")
        return self.names.index(name)


def number(path: Path, cell: str, line: int, column: object, may_miss: bool) -> float:
    text = cell.strip()
    if may_miss and text.lower() in MISSING:
        return math.nan
    try:
        value = as_float(text)
    except ValueError:
        value = math.nan
        if text.lower() not in MISSING:
            raise bad_file(path, f"line {line}, column {column}: {shown(cell)} is no number") from None
    if not math.isfinite(value):
        raise bad_file(path, f"line {line}, column {column}: {shown(cell)} is no finite number")
    return value


def shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


def read_table(path: Path, delimiter: str | None = None) -> Table:
    """A table with a header.

    Raises:
        Refusal: there is no such file, no text or no header; names repeat; rows differ in length.
    """
    rows, lines = read_rows(path, delimiter)
    names = [name.strip() for name in rows[0]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise bad_file(path, f"column {repeated[0]!r} is there {names.count(repeated[0])} times")
    if all(is_number(name) for name in names):
        raise bad_file(path, "the first line must hold the names of the columns, and holds numbers")
    if len(rows) == 1:
        raise bad_file(path, "has a header, and no rows")
    return Table(path, names, rows[1:], lines[1:])


def read_matrix(path: Path, delimiter: str | None = None) -> Array:
    """All cells as numbers, of a file without header."""
    rows, lines = read_rows(path, delimiter)
    return np.array([[number(path, x, i, j + 1, False) for j, x in enumerate(row)] for row, i in zip(rows, lines)])


def is_number(text: str) -> bool:
    try:
        as_float(text)
    except ValueError:
        return False
    return True


def as_float(text: str) -> float:
    """float(text), but 1_000, which Python accepts, is an error: in a table it is a typing mistake."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def is_there(path: Path) -> bool:
    """Whether there is a file of this name; False for a name that no file can have, such as a long one."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        return False


def read_rows(path: Path, delimiter: str | None) -> tuple[list[list[str]], list[int]]:
    """Rows of equal length and their line numbers, without empty lines."""
    text = read_text(path)
    if delimiter is None:
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key=first.count)
    elif len(delimiter) != 1:
        raise Refusal(f"--delimiter must be one character, got {delimiter!r}")
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or (len(row) > 1 and rows):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise bad_file(path, f"line {reader.line_num}: {error}") from None
    if not rows:
        raise bad_file(path, "is empty")
    for row, line in zip(rows, lines):
        if len(row) != len(rows[0]):
            raise bad_file(path, f"line {line} has {len(row)} cells, line {lines[0]} has {len(rows[0])}")
    return rows, lines


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_file(path, f"is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None


def read_bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise bad_file(path, f"is larger than {MOST_BYTES / 2**30:g} GiB")
        return path.read_bytes()
    except OSError as error:
        raise bad_file(path, f"cannot be read: {error.strerror or error}") from None
