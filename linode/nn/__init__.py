"""Linear dynamics as a layer: `LinearDynamics`, and parametrisations that keep its Xi in a set of matrices.

It may import solvers and all below them. Here belongs what is an nn.Module. The mathematics of a set of matrices stands
in `linode.matrices`, which fits share; fits themselves are never imported here.
"""

from .base import Parametrization, register, registry
from .dynamics import LinearDynamics
from .sets import Compartmental, Free, LowRank, Skew, Stable, Symmetric

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
