"""Inputs u(t), and the solution of z'(t) = Xi z(t) + b + B u(t) that they drive.

Here belongs each kind of input (one file a kind: a subclass of `Input` that describes itself as `Pieces`), how it acts
within a piece (`block`, `powers`), the steps from break to break (`drive`), the sum over inputs (`total`), and where a
function of t is sampled (`mesh`). It may import kernels, methods and engine. Solvers and
fits import it, never the other way round. No method is written here: states come from the engine.
"""

from __future__ import annotations

from typing import Any

from ..errors import DtypeError
from .base import Input, Sum
from .harmonics import Harmonics
from .holds import FirstOrderHold, ZeroOrderHold
from .impulses import Impulses
from .pieces import Pieces
from .smooth import Smooth

__all__ = ["FirstOrderHold", "Harmonics", "Impulses", "Input", "Pieces", "Smooth", "Sum", "ZeroOrderHold", "make_input"]


def make_input(u: Any, m: int) -> Input:
    """u if it is an `Input`; `Smooth(u, m)` if it is a function of t."""
    if isinstance(u, Input):
        return u
    if callable(u):
        return Smooth(u, m)
    raise DtypeError(
        f"u must be an input such as linode.ZeroOrderHold(times, values), or a function of t, got {type(u).__name__}"
    )
