"""linode: linear ODEs z'(t) = Xi z(t) in PyTorch, solved exactly, with gradients that never fail.

This file holds the public names and nothing else. The modules beside it are what a user meets: solvers (`ode`,
`switching`), functions on them (`odeint`, `exponential`, `discrete`, `statespace`), results and errors. Each may import
the folders below it (kernels, methods, engine, forcing). Numerics, checks of arguments and derivatives never stand
here: they belong to those folders.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import methods, nn
from .discrete import discretize
from .errors import (
    DeviceError,
    DtypeError,
    InaccurateWarning,
    LinodeError,
    MethodError,
    NonFiniteError,
    NotDifferentiableError,
    OptionError,
    OrderError,
    ShapeError,
    StaleError,
    UnresolvedInputWarning,
)
from .exponential import expm, expm_multiply
from .forcing import FirstOrderHold, Harmonics, Impulses, Input, Smooth, ZeroOrderHold
from .ode import LinearODE
from .odeint import odeint
from .solution import Solution, Stats, Status
from .switching import PiecewiseLinearODE

if TYPE_CHECKING:
    from .fitting.estimate import FitStatus
    from .fitting.fit import fit
    from .fitting.result import FitResult
    from .operators import Operator, SparseMatrix
    from .sparse_ode import SparseLinearODE

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "DtypeError",
    "FirstOrderHold",
    "FitResult",
    "FitStatus",
    "Harmonics",
    "Impulses",
    "InaccurateWarning",
    "Input",
    "LinearODE",
    "LinodeError",
    "MethodError",
    "NonFiniteError",
    "NotDifferentiableError",
    "Operator",
    "OptionError",
    "OrderError",
    "PiecewiseLinearODE",
    "ShapeError",
    "Smooth",
    "Solution",
    "SparseLinearODE",
    "SparseMatrix",
    "StaleError",
    "Stats",
    "Status",
    "UnresolvedInputWarning",
    "ZeroOrderHold",
    "discretize",
    "expm",
    "expm_multiply",
    "fit",
    "methods",
    "nn",
    "odeint",
]

_LATER = {
    "FitResult": "fitting.result",
    "FitStatus": "fitting.estimate",
    "Operator": "operators",
    "SparseLinearODE": "sparse_ode",
    "SparseMatrix": "operators",
    "fit": "fitting.fit",
}

if not TYPE_CHECKING:  # who checks types knows the names from above, and any other as a mistake

    def __getattr__(name: str) -> Any:
        """What only fits or large systems need is imported when it is first asked for: it is a third of the package."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        return value


def _fit_to_start_from(*question: Any) -> tuple[Any, bool, str]:
    """As `linode.fitting.initial.initial`, imported when it is first asked for."""
    found: tuple[Any, bool, str] = importlib.import_module(f"{__name__}.fitting.initial").initial(*question)
    return found


def _solver_of_large_systems() -> type[LinearODE]:
    """`linode.sparse_ode.SparseLinearODE`, imported when it is first asked for."""
    found: type[LinearODE] = importlib.import_module(f"{__name__}.sparse_ode").SparseLinearODE
    return found


LinearODE._sparse = staticmethod(_solver_of_large_systems)  # which is a LinearODE itself
nn.LinearDynamics._fit = staticmethod(_fit_to_start_from)  # layers know no fits, but fits make layers


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
