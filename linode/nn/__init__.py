"""Linear dynamics as a layer: `LinearDynamics`, and the sets that its Xi may be kept in."""

from .base import Parametrization, register, registry
from .compartmental import Compartmental
from .dynamics import LinearDynamics
from .elementary import Free, Skew, Symmetric
from .low_rank import LowRank
from .stable import Stable

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
