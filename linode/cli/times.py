"""Times on the command line: START:STOP:COUNT, numbers or dates, or a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .clock import Clock
from .errors import Refusal
from .files import is_there
from .systems import read_array
from .tables import Array, is_number

FORM = "START:STOP:COUNT (as in 0:10:1001), START:STOP:COUNT:log, numbers with commas between them, or a file"
DATED = "; this system has dates, so that START, STOP and the numbers may be dates too"
MOST_TIMES = 10**8  # 0.8 GB


def read_times(text: str, clock: Clock | None = None) -> Array:
    """Times (T,), float64; dates are numbers on the axis of the clock.

    Raises:
        Refusal: the text is no range, no numbers and no file.
    """
    form = FORM + (DATED if clock is not None else "")
    cells = [_time(cell, clock) for cell in text.split(",")]
    parts = _parts(text, clock)
    if all(x is not None for x in cells):  # first, as the colons of a date are none of a range
        t = np.array(cells, float)
    elif parts is not None:
        return _range(text, form, *parts)
    elif is_there(Path(text)):
        t = np.asarray(read_array(Path(text), ("t", "time", "times"), "--times", clock))
    else:
        raise Refusal(f"--times {text!r} must be {form}")
    if t.dtype.kind == "c" or not np.isfinite(t).all():
        raise Refusal(f"--times {text!r} must be real and finite")
    return t


def _time(cell: str, clock: Clock | None) -> float | None:
    if is_number(cell):
        return float(cell)
    return None if clock is None else clock.number(cell)


def _parts(text: str, clock: Clock | None) -> tuple[float, float, str, str] | None:
    """START, STOP, COUNT and what follows it, of which the first two may be dates with colons of their own."""
    words = text.split(":")
    for n_last in (1, 2)[: max(0, len(words) - 2)]:  # COUNT, or COUNT:log
        count, after = words[-n_last], words[-1] if n_last == 2 else ""
        for i in range(1, len(words) - n_last):
            start, stop = (_time(":".join(x), clock) for x in (words[:i], words[i:-n_last]))
            if start is not None and stop is not None and is_number(count):
                return start, stop, count, after
    return None


def _range(text: str, form: str, start: float, stop: float, count: str, after: str) -> Array:
    if after not in ("", "log"):
        raise Refusal(f"--times {text!r} must be {form}")
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise Refusal(f"--times {text!r}: START and STOP must be finite")
    if not count.strip().isdigit() or not 1 <= int(count) <= MOST_TIMES:
        raise Refusal(f"--times {text!r}: COUNT must be a whole number of 1 to {MOST_TIMES:.0e}, got {count}")
    if after and not (start > 0 and stop > 0):
        raise Refusal(f"--times {text!r}: START and STOP must be positive on a logarithmic scale")
    return (np.geomspace if after else np.linspace)(start, stop, int(count))
