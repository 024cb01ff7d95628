"""Linear dynamics as a layer: `LinearDynamics`, and parametrisations that keep its Xi in a set of matrices."""

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
