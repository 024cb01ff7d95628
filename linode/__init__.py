"""linode: linear ODEs z'(t) = Xi z(t) in PyTorch, solved exactly, with gradients that never fail."""

from . import methods, nn
from .discrete import discretize
from .errors import (
    DeviceError,
    DtypeError,
    LinodeError,
    MethodError,
    NonFiniteError,
    NotDifferentiableError,
    OptionError,
    OrderError,
    ShapeError,
)
from .exponential import expm, expm_multiply
from .fit import fit
from .fitted import FitResult
from .fitting.estimate import FitStatus
from .inputs import FirstOrderHold, Harmonics, Impulses, Input, Smooth, ZeroOrderHold
from .ode import LinearODE
from .odeint import odeint
from .solution import Solution, Stats, Status
from .switching import PiecewiseLinearODE

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "DtypeError",
    "FirstOrderHold",
    "FitResult",
    "FitStatus",
    "Harmonics",
    "Impulses",
    "Input",
    "LinearODE",
    "LinodeError",
    "MethodError",
    "NonFiniteError",
    "NotDifferentiableError",
    "OptionError",
    "OrderError",
    "PiecewiseLinearODE",
    "ShapeError",
    "Smooth",
    "Solution",
    "Stats",
    "Status",
    "ZeroOrderHold",
    "discretize",
    "expm",
    "expm_multiply",
    "fit",
    "methods",
    "nn",
    "odeint",
]
