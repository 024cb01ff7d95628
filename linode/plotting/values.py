"""Arguments of plots as NumPy arrays, checked. Tensors are known by their methods: torch is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError

Array = NDArray[Any]
WIDE = 300.0  # ratio of gaps between times, or of decay rates, above which their axis is logarithmic; by hand

MOST_NAMED = 6  # names in a message


def as_array(x: Any, name: str) -> Array:
    """float64 or complex128; tensors may be on any device and need gradients, also inside lists."""
    try:
        array = np.asarray(_without_tensors(x))
    except ValueError as error:  # ragged lists
        raise ShapeError(f"{name} is no regular array: {error}") from None
    except (RuntimeError, TypeError) as error:  # sparse tensors, among others
        raise DtypeError(f"{name} is no array: {error}") from None
    if array.dtype.kind not in "fciub":
        raise DtypeError(f"{name} must hold real or complex numbers, got {type(x).__name__} of {array.dtype}")
    return array.astype(complex if array.dtype.kind == "c" else float)


def _without_tensors(x: Any) -> Any:
    """Nested lists with arrays in place of tensors."""
    if isinstance(x, (list, tuple)):
        return [_without_tensors(part) for part in x]
    return x.numpy(force=True) if hasattr(x, "detach") else x


def check_finite(x: Array, name: str) -> None:
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0]
        place = f"{name}[{', '.join(map(str, where))}]" if len(where) else name
        raise NonFiniteError(f"{name} must be finite, but {place} is {x[tuple(where)]}")


def as_times(x: Any, name: str) -> Array:
    times = as_array(x, name)
    if np.iscomplexobj(times):
        raise DtypeError(f"{name} must be real, got complex numbers")
    check_finite(times, name)
    return times


def is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def is_logarithmic(t: Array) -> bool:
    """Whether the last quarter of the gaps is longer than the first by orders of magnitude."""
    gaps = np.diff(np.unique(t))
    quarter = 1 + len(gaps) // 4
    return bool(len(gaps) and t[0] > 0 and np.median(gaps[-quarter:]) > WIDE * np.median(gaps[:quarter]))


def chosen(name: str, asked: Any, count: int, order: Array, most: int, known: Sequence[str] | None = None) -> list[int]:
    """The numbers asked for, also by the names `known`; if None, the first `most` of the order, ascending."""
    if asked is None:
        return sorted(order[:most].tolist())
    if isinstance(asked, (str, bytes)) or not isinstance(asked, Iterable):
        raise OptionError(f"{name} must be a list of numbers from 0 to {count - 1}, got {asked!r}")
    numbers = [known.index(j) if known is not None and isinstance(j, str) and j in known else j for j in asked]
    for j in numbers:
        if isinstance(j, (bool, np.bool_)) or not (isinstance(j, (int, np.integer)) and 0 <= j < count):
            words = f"; names are {', '.join(known[:MOST_NAMED])}" if known is not None and isinstance(j, str) else ""
            raise OptionError(f"{name} must be of 0 to {count - 1}, got {j!r}{words}")
    if not numbers:
        raise OptionError(f"{name} is empty")
    return [int(j) for j in numbers]
