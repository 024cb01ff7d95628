"""Arguments of pictures as NumPy arrays, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.problem import as_tensor
from ..errors import DtypeError, NonFiniteError, OptionError

Array = NDArray[Any]
WIDE = 300.0  # ratio of gaps between times, or of decay rates, from which on their axis is logarithmic


def as_array(x: Any, name: str) -> Array:
    """float64 or complex128; tensors may be anywhere and need gradients, also inside of lists."""
    x = _without_tensors(x, name) if isinstance(x, (list, tuple)) else x
    array = as_tensor(x, name, integers_become=torch.float64).numpy(force=True)
    return array.astype(complex if np.iscomplexobj(array) else float)


def _without_tensors(x: Any, name: str) -> Any:
    """Nested lists with arrays in place of tensors."""
    if isinstance(x, Tensor):
        return as_array(x, name)
    return [_without_tensors(part, name) for part in x] if isinstance(x, (list, tuple)) else x


def as_times(x: Any, name: str) -> Array:
    times = as_array(x, name)
    if np.iscomplexobj(times):
        raise DtypeError(f"{name} must be real, got complex numbers")
    if not np.isfinite(times).all():
        where = np.argwhere(~np.isfinite(times))[0]
        place = f"{name}[{', '.join(map(str, where))}]" if len(where) else name
        raise NonFiniteError(f"{name} must be finite, but {place} is {times[tuple(where)]}")
    return times


def is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def is_logarithmic(t: Array) -> bool:
    """Whether samples are dense at first and sparse later, by orders of magnitude."""
    gaps = np.diff(np.unique(t))
    quarter = 1 + len(gaps) // 4
    return bool(len(gaps) and t[0] > 0 and np.median(gaps[-quarter:]) > WIDE * np.median(gaps[:quarter]))


def chosen(name: str, asked: Any, count: int, order: Array, most: int) -> list[int]:
    """Those asked for, or the first of the order, ascending."""
    if asked is None:
        return sorted(order[:most].tolist())
    if isinstance(asked, (str, bytes)) or not isinstance(asked, Iterable):
        raise OptionError(f"{name} must be a list of numbers from 0 to {count - 1}, got {asked!r}")
    numbers = list(asked)
    for j in numbers:
        if isinstance(j, (bool, np.bool_)) or not (isinstance(j, (int, np.integer)) and 0 <= j < count):
            raise OptionError(f"{name} must be of 0 to {count - 1}, got {j!r}")
    if not numbers:
        raise OptionError(f"{name} is empty")
    return [int(j) for j in numbers]
