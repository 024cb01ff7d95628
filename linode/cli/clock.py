"""Dates of ISO 8601 as numbers: units of time since a first moment, exact to the nanosecond before they are rounded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import Refusal, bad_file

NANO = 10**9
UNITS = {  # seconds; a year is the mean one of 365.25 days
    "s": 1,
    "min": 60,
    "h": 3600,
    "day": 86400,
    "week": 7 * 86400,
    "year": 31557600,
}
WORDS = {"second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "d": "day", "w": "week", "y": "year"}
PLURAL = {"s": "seconds", "min": "minutes", "h": "hours", "day": "days", "week": "weeks", "year": "years"}
DATE = re.compile(
    r"(\d{4})-(\d\d)(?:-(\d\d)(?:[T ](\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?\s*"
    r"(Z|UTC|[+-]\d\d(?::?\d\d)?)?(?:\[[\w/+-]+\])?)?)?",
    re.IGNORECASE,
)
EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Moment:
    """Nanoseconds since 1970, and the offset from UTC in minutes; None where the text has no time zone."""

    nanoseconds: int
    offset: int | None


def moment(text: str) -> Moment | None:
    """The moment that a date says, such as 2024-02-29, 2024-02-29 13:05 or 2024-02-29T13:05:00.25+01:00, or None."""
    found = DATE.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(x) if x else 0 for x in found.groups()[:6])
    try:
        since = datetime(year, month, day or 1, hour, minute, second) - EPOCH
    except ValueError:  # the 30th of February
        return None
    fraction, zone = (found[7] or "").ljust(9, "0"), found[8]
    offset = None if zone is None else _minutes(zone)
    if offset is not None and abs(offset) >= 24 * 60:
        return None
    whole = since.days * 86400 + since.seconds - 60 * (offset or 0)
    return Moment(whole * NANO + int(fraction), offset)


def _minutes(zone: str) -> int:
    if zone.upper() in ("Z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return (-1 if zone[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))


def unit_of(text: str, where: str = "--time-unit") -> str:
    """A key of UNITS; where: what the message names.

    Raises:
        Refusal: there is no such unit.
    """
    word = text.strip().lower()
    for name in (word, word.removesuffix("s")):
        if name in UNITS or name in WORDS:
            return WORDS.get(name, name)
    raise Refusal(f"{where} {text[:40]!r} is unknown; known are {', '.join(UNITS)}")


@dataclass(frozen=True)
class Clock:
    """The axis of a column of dates: a number is a time since the first moment, in a unit."""

    first: Moment
    unit: str

    @property
    def step(self) -> int:
        return UNITS[self.unit] * NANO

    def number(self, text: str) -> float | None:
        """The number of a date; None if the text is none, or if one has a time zone and the axis has none."""
        found = moment(text)
        if found is None or (found.offset is None) != (self.first.offset is None):
            return None
        return (found.nanoseconds - self.first.nanoseconds) / self.step  # of whole numbers: rounded once

    def texts(self, t: NDArray[Any]) -> NDArray[Any]:
        """Dates of numbers, to the microsecond, in the time zone of the first moment.

        Raises:
            Refusal: there are no such dates: years are of 1 to 9999.
        """
        offset = self.first.offset
        zone = None if offset is None else timezone(timedelta(minutes=offset))
        found = []
        for x in t.tolist():
            if not math.isfinite(x):
                raise Refusal(f"{x} {PLURAL[self.unit]} after {self.text} is no date")
            since = self.first.nanoseconds + 60 * NANO * (offset or 0) + round(x * self.step)
            try:
                found.append((EPOCH + timedelta(microseconds=(since + 500) // 1000)).replace(tzinfo=zone))
            except OverflowError:
                raise Refusal(f"{x:g} {PLURAL[self.unit]} after {self.text} is after the year 9999") from None
        begins = self.first.nanoseconds % (UNITS["day"] * NANO)
        is_days = zone is None and not begins and all(x.time() == EPOCH.time() for x in found)
        return np.array([x.date().isoformat() if is_days else x.isoformat() for x in found], dtype=str)

    @property
    def text(self) -> str:
        """The first moment."""
        return str(self.texts(np.zeros(1))[0])

    @property
    def words(self) -> str:
        return f"{PLURAL[self.unit]} since {self.text}"


def clock_of(cells: Sequence[str], unit: str) -> Clock | None:
    """The axis that begins with the earliest of the dates; None if the first cell is no date."""
    first = moment(cells[0]) if cells else None
    if first is None:
        return None
    found = [x for x in map(moment, cells) if x is not None and (x.offset is None) == (first.offset is None)]
    earliest = min(x.nanoseconds for x in found)
    return Clock(Moment(earliest, first.offset), unit)


def numbers_of(path: object, cells: Sequence[str], lines: Sequence[int], column: str, clock: Clock) -> NDArray[Any]:
    """Numbers of a column of dates.

    Raises:
        Refusal: a cell is no date, or has a time zone where others have none.
    """
    found = []
    for cell, line in zip(cells, lines):
        x = clock.number(cell)
        if x is None:
            told = "is no date such as 2024-02-29T13:05"
            if moment(cell) is not None:
                told = f"has {'a' if clock.first.offset is None else 'no'} time zone, unlike the first date"
            raise bad_file(path, f"line {line}, column {column}: {cell[:40]!r} {told}")
        found.append(x)
    return np.array(found)
