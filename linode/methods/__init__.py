"""Methods by name, one file each; importing a file registers its method. `auto` chooses among those registered.

It may import kernels and errors. A method belongs here: whether it applies to Xi, what it costs, its plan, and the
states and gradients that the plan gives (the contract is in `base`). Times before 0, gradients with respect to times,
batch dimensions and autograd never do: the engine handles them for every method.
"""

from .auto import Auto, make_method
from .base import Method, Plan, Pullback, Workload, register, registry
from .chain import Chain
from .eig import Eig
from .faber import Faber
from .large import large_registry
from .metzler import Metzler
from .propagator import Propagator
from .rational import Rational
from .schur import Schur
from .taylor import Taylor

__all__ = [
    "Auto",
    "Chain",
    "Eig",
    "Faber",
    "Method",
    "Metzler",
    "Plan",
    "Propagator",
    "Pullback",
    "Rational",
    "Schur",
    "Taylor",
    "Workload",
    "large_registry",
    "make_method",
    "register",
    "registry",
]
