"""Methods by name, one file each; importing a file registers its method. `auto` chooses among those registered.

It may import kernels and errors. A method belongs here: whether it applies to Xi, what it costs, its plan, and the
states and gradients that the plan gives (the contract is in `base`). Times before 0, gradients with respect to times,
batch dimensions and autograd never do: the engine handles them for every method.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .auto import Auto, make_method
from .base import Method, Plan, Pullback, Workload, register, registry
from .chain import Chain
from .eig import Eig
from .large import large_registry, later
from .metzler import Metzler
from .propagator import Propagator
from .schur import Schur
from .taylor import Taylor

if TYPE_CHECKING:
    from .faber import Faber
    from .rational import Rational

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

# methods for large Xi are imported when they are first asked for: with scipy.sparse, which nothing else needs
_LATER = {
    "Faber": lambda: importlib.import_module("linode.methods.faber"),
    "Rational": lambda: importlib.import_module("linode.methods.rational"),
}
later.extend(_LATER.values())

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_LATER[name](), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
