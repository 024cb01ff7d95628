"""Methods by name; importing one registers it."""

from .auto import Auto, make_method
from .base import Method, Plan, Pullback, Workload, register, registry
from .eig import Eig
from .propagator import Propagator
from .schur import Schur

__all__ = [
    "Auto",
    "Eig",
    "Method",
    "Plan",
    "Propagator",
    "Pullback",
    "Schur",
    "Workload",
    "make_method",
    "register",
    "registry",
]
