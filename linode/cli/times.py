"""Times on the command line: START:STOP:COUNT, numbers, or a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .errors import Refusal
from .systems import read_array
from .tables import Array, is_number, is_there

FORM = "START:STOP:COUNT (as in 0:10:1001), START:STOP:COUNT:log, numbers with commas between them, or a file"
MOST_TIMES = 10**8  # 0.8 GB


def read_times(text: str) -> Array:
    """Times (T,), float64.

    Raises:
        Refusal: the text is no range, no numbers and no file.
    """
    parts = text.split(":")
    if 3 <= len(parts) <= 4 and all(is_number(x) for x in parts[:3]):
        return _range(text, parts)
    cells = text.split(",")
    if all(is_number(cell) for cell in cells):
        t = np.array([float(cell) for cell in cells])
    elif is_there(Path(text)):
        t = np.asarray(read_array(Path(text), ("t", "time", "times"), "--times"))
    else:
        raise Refusal(f"--times {text!r} must be {FORM}")
    if t.dtype.kind == "c" or not np.isfinite(t).all():
        raise Refusal(f"--times {text!r} must be real and finite")
    return t


def _range(text: str, parts: list[str]) -> Array:
    start, stop = float(parts[0]), float(parts[1])
    is_log = len(parts) == 4
    if is_log and parts[3] != "log":
        raise Refusal(f"--times {text!r} must be {FORM}")
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise Refusal(f"--times {text!r}: START and STOP must be finite")
    if not parts[2].strip().isdigit() or not 1 <= int(parts[2]) <= MOST_TIMES:
        raise Refusal(f"--times {text!r}: COUNT must be a whole number of 1 to {MOST_TIMES:.0e}, got {parts[2]}")
    if is_log and not (start > 0 and stop > 0):
        raise Refusal(f"--times {text!r}: START and STOP must be positive on a logarithmic scale")
    return (np.geomspace if is_log else np.linspace)(start, stop, int(parts[2]))
