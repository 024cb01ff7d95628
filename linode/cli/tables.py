"""Tables of numbers in text files; an error names the file, line and column of the cell.

Cells are separated by , ; tab | or spaces, numbers have a point or a comma, lines that begin with # are comments; which
of these a file uses is seen from its first lines, or told by options.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clock import Clock, moment, numbers_of
from .console import counted
from .errors import Refusal, bad_file, listed, one_line
from .files import read_text

Array = NDArray[Any]
DELIMITERS = ",;\t| "
MISSING = {"", "nan", "na", "n/a", "null", "none", "-"}
N_SEEN = 50  # lines from which the delimiter is seen
WITH_COMMA = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*")
WITH_POINT = re.compile(r"\s*[+-]?\d*\.\d+(?:[eE][+-]?\d+)?\s*")
THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(?:,\d{3})+\s*")


@dataclass(frozen=True)
class Table:
    """Cells of a text file under a header; lines: the line of each row in the file, from 1 on."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal: str = "."

    def text(self, name: str) -> list[str]:
        j = self.index(name)
        return [row[j] for row in self.rows]

    def numbers(self, name: str, may_miss: bool = True) -> Array:
        """A column as floats; NaN for missing cells."""
        cells = zip(self.text(name), self.lines)
        return np.array([number(self.path, x, i, name, may_miss, self.decimal) for x, i in cells])

    def times(self, name: str, clock: Clock | None) -> Array:
        """A column of times: numbers, or dates, if there is a clock that makes numbers of them."""
        cells = self.text(name)
        if clock is None or not any(moment(cell) is not None for cell in cells[:1]):
            return self.numbers(name, may_miss=False)
        return numbers_of(self.path, cells, self.lines, name, clock)

    def index(self, name: str) -> int:
        if name not in self.names:
            raise bad_file(self.path, f"has no column {name!r}; its columns are {listed(self.names)}")
        return self.names.index(name)

    def chosen(self, text: str) -> list[str]:
        """The columns that a text names, with commas between them, though names may hold commas themselves.

        Raises:
            Refusal: a name is not that of a column.
        """
        known = {_key(name): name for name in self.names if name}
        parts = next(csv.reader([text], skipinitialspace=True), [])
        found, i = [], 0
        while i < len(parts):
            ends = range(len(parts), i, -1)  # the longest name first
            j = next((j for j in ends if _key(",".join(parts[i:j])) in known), i + 1)
            name = _key(",".join(parts[i:j]))
            if name:
                self.index(known.get(name, name))
                found.append(known[name])
            i = j
        return found


def _key(name: str) -> str:
    """A name without blanks beside its commas, which a list of names may lose."""
    return re.sub(r"\s*,\s*", ",", clean(name))


def clean(name: str) -> str:
    """A name as it is shown: in one line, without characters that a terminal acts on."""
    return one_line(name)


def number(path: Path, cell: str, line: int, column: object, may_miss: bool, decimal: str = ".") -> float:
    text = cell.strip()
    if may_miss and text.lower() in MISSING:
        return math.nan
    try:
        value = as_float(text, decimal)
    except ValueError:
        value = math.nan
        if text.lower() not in MISSING:
            raise bad_file(path, f"line {line}, column {column}: {shown(cell)} is no number") from None
    if not math.isfinite(value):
        raise bad_file(path, f"line {line}, column {column}: {shown(cell)} is no finite number")
    return value


def shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


def read_table(path: Path, delimiter: str | None = None, decimal: str | None = None) -> Table:
    """A table with a header, which may be a comment.

    Raises:
        Refusal: there is no such file, no text or no header; names repeat; rows differ in length.
    """
    table = _table(path, read_text(path), delimiter, decimal)
    if not table.names:
        raise bad_file(path, "the first line must hold the names of the columns, and holds numbers")
    if not table.rows:
        raise bad_file(path, "has a header, and no rows")
    return table


def read_matrix(path: Path, text: str) -> Array:
    """All cells as numbers, of a text without header."""
    rows, lines, decimal, _ = read_rows(path, text, None, None)
    return np.array(
        [[number(path, x, i, j + 1, False, decimal) for j, x in enumerate(row)] for row, i in zip(rows, lines)]
    )


def read_column(path: Path, text: str, names: tuple[str, ...], clock: Clock | None) -> Array:
    """The first column that has one of the names, else the first of all; without a header all cells."""
    table = _table(path, text, None, None)
    if not table.names:
        cells = [(cell, i) for row, i in zip(table.rows, table.lines) for cell in row]
        table = Table(path, ["1"], [[cell] for cell, _ in cells], [i for _, i in cells], table.decimal)
    return table.times(next((x for x in names if x in table.names), table.names[0]), clock)


def _table(path: Path, text: str, delimiter: str | None, decimal: str | None) -> Table:
    """A table, without names if there is no header."""
    rows, lines, decimal, comment = read_rows(path, text, delimiter, decimal)
    header = rows[0] if not all(is_value(cell, decimal) for cell in rows[0]) else comment
    if header is None or all(is_value(cell, decimal) for cell in header):
        return Table(path, [], rows, lines, decimal)
    names = [clean(name) for name in header]
    name, count = Counter(name for name in names if name).most_common(1)[0] if any(names) else ("", 1)
    if count > 1:
        raise bad_file(path, f"column {name!r} is there {count} times")
    start = int(header is rows[0])
    return Table(path, names, rows[start:], lines[start:], decimal)


def is_number(text: str, decimal: str = ".") -> bool:
    try:
        as_float(text, decimal)
    except ValueError:
        return False
    return True


def is_value(cell: str, decimal: str) -> bool:
    return is_number(cell, decimal) or moment(cell) is not None


def as_float(text: str, decimal: str = ".") -> float:
    """float(text), but 1_000, which Python accepts, is an error: in a table it is a typing mistake."""
    if "_" in text or (decimal == "," and "." in text):
        raise ValueError(text)
    return float(text.replace(",", ".") if decimal == "," else text)


# ---- rows ------------------------------------------------------------------------------------------------------------


def read_rows(
    path: Path, text: str, delimiter: str | None, decimal: str | None
) -> tuple[list[list[str]], list[int], str, list[str] | None]:
    """Rows of equal length and their line numbers, without empty lines; the decimal mark; the comment before them.

    The comment is the last one before the first row if it has as many cells, as a header that numpy.savetxt writes.
    """
    if delimiter is not None and len(delimiter) != 1:
        raise Refusal(f"--delimiter must be one character, got {delimiter!r}")
    if delimiter is not None and not _can_delimit(delimiter):
        raise Refusal(f"--delimiter {delimiter!r} is a part of numbers, quotes, comments or lines")
    if decimal not in (None, ".", ","):
        raise Refusal(f"--decimal must be a point or a comma, got {decimal!r}")
    if decimal is not None and decimal == delimiter:
        raise Refusal(f"--delimiter and --decimal are both {decimal!r}")
    told = re.match(r"sep=(.)\r?\n", text)  # Excel
    if told and _can_delimit(told[1]):
        delimiter, text = delimiter or told[1], "\n" + text[told.end() :]
    if delimiter is None:
        delimiter = _delimiter(text, decimal)
    rows: list[list[str]] = []
    lines: list[int] = []
    source = _Lines(text)
    reader = csv.reader(_cut(source.kept(), delimiter), delimiter=_mark(delimiter), strict=True)
    try:
        with counted(f"reading {path}", len(text)) as advance:
            for row in reader:
                if any(cell.strip() for cell in row) or (len(row) > 1 and rows):
                    rows.append(row)
                    lines.append(source.number)
                    advance(source.taken())
    except csv.Error as error:
        raise bad_file(path, f"line {source.number}: {error}") from None
    if not rows:
        raise bad_file(path, "is empty")
    for row, line in zip(rows, lines):
        if len(row) != len(rows[0]):
            raise bad_file(path, f"line {line} has {len(row)} cells, line {lines[0]} has {len(rows[0])}")
    if decimal is None:
        decimal = _decimal(path, rows, lines, delimiter, text)
    comment = next(csv.reader(_cut([source.comment], delimiter), delimiter=_mark(delimiter)), [])
    return rows, lines, decimal, comment if len(comment) == len(rows[0]) else None


class _Lines:
    """The lines of a text without comments; which one was given last, and the last comment before the first of them."""

    def __init__(self, text: str) -> None:
        self.text, self.number, self.comment = text, 0, ""
        self._n_letters = 0

    def kept(self) -> Iterator[str]:
        is_quoted = is_begun = False  # inside of a cell with line breaks, # is a letter
        for line in _split(self.text):
            self.number += 1
            self._n_letters += len(line)
            bare = line.strip()
            if bare.startswith("#") and not is_quoted:
                self.comment = self.comment if is_begun else bare.lstrip("#").strip()
                continue
            is_begun |= bool(bare)
            is_quoted ^= line.count('"') % 2 == 1
            yield line if is_quoted else line.rstrip(" \r\n") + "\n"

    def taken(self) -> int:
        """Letters since the last call."""
        n, self._n_letters = self._n_letters, 0
        return n


def _split(text: str) -> Iterator[str]:
    """Lines with their ends, one at a time: \\n, \\r\\n or \\r; other marks that str.splitlines knows are letters."""
    return (found[0] for found in re.finditer(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", text))


def _can_delimit(mark: str) -> bool:
    return mark == "\t" or (mark.isprintable() and not mark.isalnum() and mark not in "\"'.+-#_")


def _cut(lines: Iterable[str], delimiter: str) -> Iterable[str]:
    """The lines, with one tab for every run of blanks where those delimit."""
    return ("\t".join(line.split()) for line in lines) if delimiter == " " else lines


def _mark(delimiter: str) -> str:
    return "\t" if delimiter == " " else delimiter


def _delimiter(text: str, decimal: str | None) -> str:
    """The character that cuts the first lines into equally many cells, of which most are numbers."""
    sample: list[str] = []
    for line in _Lines(text).kept():
        if line.strip(" \r\n"):
            sample.append(line)
        if len(sample) == N_SEEN:
            break

    def score(delimiter: str) -> tuple[float, float, int]:
        try:
            rows = [row for row in csv.reader(_cut(sample, delimiter), delimiter=_mark(delimiter), strict=True) if row]
        except csv.Error:
            return (0.0, 0.0, 0)
        if not rows or len(rows[0]) < 2:
            return (0.0, 0.0, 0)
        even = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        mark = decimal or ("," if delimiter != "," else ".")
        cells = [cell for row in rows[1:] or rows for cell in row]
        values = sum(is_value(x, ".") or is_value(x, mark) or x.strip().lower() in MISSING for x in cells)
        return (even, values / len(cells), len(rows[0]))

    return max((x for x in DELIMITERS if x != decimal), key=score)


def _decimal(path: Path, rows: list[list[str]], lines: list[int], delimiter: str, text: str) -> str:
    """The decimal mark that the cells have.

    Raises:
        Refusal: some have a point and some a comma; or what the commas are is unclear.
    """
    if delimiter == "," and '"' not in text:
        return "."
    with_comma = _first(rows, lines, WITH_COMMA)
    if with_comma is None:
        return "."
    with_point = _first(rows, lines, WITH_POINT)
    if with_point is not None:
        told = f"line {with_comma[1]} has {with_comma[0]}, line {with_point[1]} has {with_point[0]}"
        raise bad_file(path, f"{told}: give --decimal, and numbers without marks of thousands")
    commas = (x for row in rows for x in row if WITH_COMMA.fullmatch(x))
    if delimiter != ";" and all(THOUSANDS.fullmatch(x) for x in commas):
        raise bad_file(path, f"line {with_comma[1]} has {with_comma[0]}: give --decimal , if this is no thousand")
    return ","


def _first(rows: Iterable[list[str]], lines: list[int], form: re.Pattern[str]) -> tuple[str, int] | None:
    return next(((x.strip(), line) for row, line in zip(rows, lines) for x in row if form.fullmatch(x)), None)
