"""Linear dynamics as a layer: `LinearDynamics`, and parametrisations that keep its Xi in a set of matrices.

It may import solvers and all below them. Here belongs what is an nn.Module. The mathematics of a set of matrices stands
in `linode.matrices`, which fits share; fits themselves are never imported here.
"""

import importlib

from .base import Parametrization, register, registry
from .dynamics import LinearDynamics
from .sets import Compartmental, Free, LowRank, Skew, Stable, Symmetric


def _on_pattern() -> type[LinearDynamics]:
    """Layers with a pattern, and with them what large systems need, are imported when they are first asked for."""
    found: type[LinearDynamics] = importlib.import_module("linode.nn.sparse").PatternDynamics
    return found


LinearDynamics._on_pattern = staticmethod(_on_pattern)

__all__ = [
    "Compartmental",
    "Free",
    "LinearDynamics",
    "LowRank",
    "Parametrization",
    "Skew",
    "Stable",
    "Symmetric",
    "register",
    "registry",
]
