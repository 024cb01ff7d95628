"""linode: linear ODEs z'(t) = Xi z(t) in PyTorch, solved exactly, with gradients that never fail."""

from . import methods
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
    "methods",
    "odeint",
]
