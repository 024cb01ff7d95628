"""Conversion from and to state-space objects of scipy.signal and python-control, by their attributes A to D and dt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from .engine.problem import is_dense
from .errors import DtypeError, OptionError


def matrices_of(system: Any) -> tuple[NDArray[Any], ...]:
    """A, B, C and D of a continuous-time system; one without A is converted by its method `to_ss`."""
    convert = getattr(system, "to_ss", None)
    if not hasattr(system, "A") and convert is not None:
        system = convert()
    missing = [name for name in "ABCD" if not hasattr(system, name)]
    if missing:
        raise DtypeError(
            f"system must have A, B, C and D, as scipy.signal.StateSpace and control.StateSpace have; "
            f"{type(system).__name__} has no {', '.join(missing)}"
        )
    dt = getattr(system, "dt", None)
    if dt is not None and (dt is True or dt != 0):
        raise OptionError(f"system is in discrete time (dt = {dt!r}); linode needs one in continuous time")
    found = (getattr(system, name) for name in "ABCD")
    return tuple(np.asarray(x) if is_dense(x) else x for x in found)


def make_state_space(make: Callable[..., Any] | None, *matrices: Any) -> Any:
    """`make`, or scipy.signal.StateSpace if it is None, of A, B, C and D as NumPy arrays."""
    arrays = (x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x) for x in matrices)
    return (make or scipy.signal.StateSpace)(*arrays)  # scipy imports signal here; it takes long
