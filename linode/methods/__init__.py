"""Methods by name; importing one registers it."""

from .auto import Auto, make_method
from .base import Method, Plan, Pullback, Workload, register, registry
from .chain import Chain
from .eig import Eig
from .propagator import Propagator
from .schur import Schur
from .taylor import Taylor

__all__ = [
    "Auto",
    "Chain",
    "Eig",
    "Method",
    "Plan",
    "Propagator",
    "Pullback",
    "Schur",
    "Taylor",
    "Workload",
    "make_method",
    "register",
    "registry",
]
