"""The errors that linode raises, each also a built-in error such as ValueError or TypeError, and its warning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LinodeError(Exception):
    """Base class of the errors of linode.

    Example:
        >>> import linode
        >>> try:
        ...     linode.expm([[1.0, 2.0]])
        ... except linode.LinodeError as error:
        ...     print(type(error).__name__, isinstance(error, ValueError))
        ShapeError True
    """


class ShapeError(LinodeError, ValueError):
    """An argument has the wrong shape; the message names it and the shape needed.

    Example:
        >>> import linode
        >>> linode.LinearODE([[1.0]], [1.0, 2.0])
        Traceback (most recent call last):
        linode.errors.ShapeError: z0 has last size 2, but Xi is 1 x 1; z0 must be (*batch, 1)
    """


class DtypeError(LinodeError, TypeError):
    """An argument is of a type that cannot be a real or complex array.

    Example:
        >>> import linode
        >>> linode.LinearODE("x", [1.0])
        Traceback (most recent call last):
        linode.errors.DtypeError: Xi must hold real or complex numbers, got str of <U1
    """


class DeviceError(LinodeError, ValueError):
    """Arguments live on different devices.

    Example:
        >>> import linode, torch
        >>> linode.LinearODE(torch.eye(2), torch.ones(2, device="meta"))
        Traceback (most recent call last):
        linode.errors.DeviceError: Xi and z0 must be on one device, got Xi on cpu, z0 on meta
    """


class NonFiniteError(LinodeError, ValueError):
    """An argument holds NaN or infinity.

    Example:
        >>> import linode
        >>> linode.LinearODE([[float("nan")]], [1.0])
        Traceback (most recent call last):
        linode.errors.NonFiniteError: Xi must be finite, but Xi[0, 0] is nan
    """


class NotDifferentiableError(LinodeError, RuntimeError):
    """A derivative that torch cannot compute through linode; the message names one that it can.

    Example:
        >>> import linode, torch
        >>> torch.func.jacfwd(torch.func.jacfwd(linode.expm))(torch.eye(2))  # hessian, or jacfwd(jacrev(f)), can
        Traceback (most recent call last):
        linode.errors.NotDifferentiableError: torch loses the outer tangents of a custom function ...
    """


class StaleError(LinodeError, RuntimeError):
    """A solver holds a tensor in whose place its module has put another; make the solver where it is used.

    Example:
        >>> import linode, torch
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.Xi = torch.nn.Parameter(-torch.eye(2))
        ...         self.ode = linode.LinearODE(self.Xi, torch.ones(2))  # wrong: it belongs into forward
        >>> model = Model()
        >>> _ = model.load_state_dict({"Xi": torch.eye(2)}, assign=True)
        >>> model.ode(1.0)
        Traceback (most recent call last):
        linode.errors.StaleError: Xi was Model.Xi when this solver was made and is not any more ...
    """


class OrderError(LinodeError, ValueError):
    """Times that must increase do not.

    Example:
        >>> import linode
        >>> linode.ZeroOrderHold([0.0, 2.0, 1.0], [[1.0], [2.0], [3.0]])
        Traceback (most recent call last):
        linode.errors.OrderError: times must increase strictly, but times[2] = 1 comes after 2
    """


class OptionError(LinodeError, ValueError):
    """An option has a value that is not allowed.

    Example:
        >>> import linode
        >>> linode.LinearODE([[1.0]], [1.0], rtol=-1.0)
        Traceback (most recent call last):
        linode.errors.OptionError: rtol must be None or a number between 0 and 1, got -1.0
    """


class MethodError(LinodeError, ValueError):
    """The method is unknown, or cannot be accurate for this Xi; the message names one that can.

    Example:
        >>> import linode
        >>> linode.LinearODE([[1.0]], [1.0], method="dopri5")
        Traceback (most recent call last):
        linode.errors.MethodError: method 'dopri5' is unknown; known are 'auto', 'chain', ...
    """


class UnresolvedInputWarning(UserWarning):
    """An input that is a function was not sampled densely enough: the solution may be wrong by more than 1e-6.

    Given where a solver is called whose `solve` would have the status UNRESOLVED_INPUT. A program that must not go on
    makes it an error: `warnings.simplefilter("error", linode.UnresolvedInputWarning)`.

    Example:
        >>> import linode, torch, warnings
        >>> u = linode.Smooth(lambda t: torch.sin(50 * t), m=1, n_panels=2)
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter("always")
        ...     z = linode.LinearODE([[-1.0]], [0.0], u=u)([1.0])
        >>> found[0].category.__name__
        'UnresolvedInputWarning'
    """


class InaccurateWarning(UserWarning):
    """States of a large system may be wrong by more than was asked for; the text says why and what to do.

    Given where a solver is called whose `solve` would have the status REGION, DECAY or NOT_CONVERGED.

    Example:
        >>> import linode
        >>> issubclass(linode.InaccurateWarning, UserWarning)
        True
    """


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a question for the known name that is nearly the same, or nothing.

    Example:
        >>> from linode.errors import meant
        >>> meant("EIG", ["eig", "taylor"]), meant("magic", ["eig", "taylor"])
        ("; did you mean 'eig'?", '')
    """
    names = list(known)
    near = difflib.get_close_matches(word.lower(), {name.lower() for name in names}, 1)
    alike = [name for name in names if name.lower() in near]
    # of names that differ in case only, the one with the case of the word
    best = max(alike, key=lambda name: difflib.SequenceMatcher(None, word, name).ratio(), default=None)
    return f"; did you mean {best!r}?" if best is not None else ""
