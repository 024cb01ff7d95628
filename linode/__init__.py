"""linode."""
from .ode import LinearODE
