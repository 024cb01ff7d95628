"""Methods by name; importing one registers it."""

from .base import Method, Plan, Workload, register, registry
from .eig import Eig
from .propagator import Propagator
from .auto import Auto, make_method

__all__ = ["Auto", "Eig", "Method", "Plan", "Propagator", "Workload", "make_method", "register", "registry"]
