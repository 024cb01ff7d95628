"""What linode raises. Every error is also the built-in that Python users expect."""

from __future__ import annotations


class LinodeError(Exception):
    """Base class of everything that linode raises on purpose."""


class ShapeError(LinodeError, ValueError):
    """An argument has the wrong shape; the message names it and says what was needed."""


class DtypeError(LinodeError, TypeError):
    """An argument is of a type that cannot be a real or complex array."""


class DeviceError(LinodeError, ValueError):
    """Arguments live on different devices."""


class NonFiniteError(LinodeError, ValueError):
    """An argument holds NaN or infinity."""


class NotDifferentiableError(LinodeError, RuntimeError):
    """A derivative that torch cannot carry through; the message names one that it can."""


class OrderError(LinodeError, ValueError):
    """Times that must increase do not."""


class OptionError(LinodeError, ValueError):
    """An option has a value that means nothing."""


class MethodError(LinodeError, ValueError):
    """The method is unknown, or cannot be accurate for this Xi; the message names one that can."""
