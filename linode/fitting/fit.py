"""fit: a linear system from data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import OptionError, ShapeError
from .data import as_array, make_data
from .identify import Question, identify
from .products import Array
from .progress import Progress
from .result import FitResult
from .structures import Function, Structure


def fit(
    t: Any,
    z: Any,
    u: Any = None,
    *,
    rank: int | None = None,
    C: Any = None,
    bias: bool = False,
    structure: Any = None,
    stable: bool | str = False,
    sigma: Any = None,
    z0: Any = None,
    progress: Any = None,
) -> FitResult:
    """Fit z'(t) = Xi z(t) + b + B u(t), seen as y = C z with noise, to data: maximum likelihood, with error bars.

    Least squares with exact derivatives from several starts, until two of them agree. Initial states are unknowns.

    Args:
        t: (T,), times in any unit, with any gaps, not decreasing; equal ones are repeated measurements.
        z: (T, p) or (T,), observations; NaN where one is missing. Lists of both for several trajectories, each with
            times and an initial state of its own, or z (K, T, p) with t (T,) or (K, T). Arrays, tensors, pandas Series
            and DataFrames.
        u: input: samples (T, m), of which the i-th holds from t[i] to t[i + 1], or an input such as
            `linode.FirstOrderHold` on the axis of t; a list of these for several trajectories, or one for all.
        rank: number of states, if it is not that of the channels. With fewer, the states are the directions in which
            the data are largest; with more, Xi is known up to a change of basis only.
        C: (p, n) observation matrix, y = C z, if it is known. None: the channels are the states, or, with another
            rank, it is unknown.
        bias: whether there is a constant forcing b.
        structure: what Xi may be. A function theta -> Xi (n, n), best of tensors; (function, theta0) or
            (function, theta0, (lowest, highest)); a mask (n, n) of entries that are not 0; or "symmetric", "skew",
            "diagonal", "metzler" (off the diagonal positive), "compartmental" (flows and outflows positive).
        stable: True: eigenvalues with negative real parts only; "auto": if that predicts the last fifth of the data
            better.
        sigma: standard deviation of the noise, a number, (p,) or as z. None: one number, estimated.
        z0: (n,), or (K, n) for several trajectories: initial states, if they are known.
        progress: whether to show a bar (None: after a second, in a terminal, where tqdm is installed), or a function of
            (name of the start, step, cost).

    Returns:
        `FitResult`, with arrays for arrays and tensors for tensors. It is truthy if its status is OK; else status and
        message say what the data do not determine.

    Raises:
        ShapeError, DtypeError, NonFiniteError, OrderError, OptionError: an argument that cannot be used, by name; fewer
        values than unknowns.

    Source: Golub & Pereyra (2003), Inverse Problems 19, R1 (separable least squares); Askham & Kutz (2018), SIAM J.
    Appl. Dyn. Syst. 17, 380 (its use for linear dynamics).

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> z = linode.LinearODE([[-0.1, 2.0], [-2.0, -0.1]], [1.0, 0.0])(t)
        >>> result = linode.fit(t, z + 1e-3 * np.random.default_rng(0).standard_normal(z.shape))
        >>> bool(np.abs(result.Xi - [[-0.1, 2.0], [-2.0, -0.1]]).max() < 3 * result.stderr.max())
        True
    """
    if not (isinstance(stable, bool) or stable == "auto"):
        raise OptionError(f"stable must be True, False or 'auto', got {stable!r}")
    if structure is not None and stable is not False:
        raise OptionError("structure and stable exclude each other: let the structure be stable")
    data, is_list = make_data(t, z, u, sigma)
    C_matrix = None if C is None else _matrix(C, data.p)
    structure = _prepared(structure, rank if C_matrix is None else C_matrix.shape[1], data.p)
    n = _number_of_states(rank, C_matrix, structure, data.p)
    known = None if z0 is None else _initial_states(z0, data.K, n)
    if known is not None and C_matrix is None and n != data.p:
        raise OptionError("z0 is known, but not in which basis: give C, or as many states as channels")
    question = Question(data, n, C_matrix, bool(bias), structure, stable, known)
    bar = Progress(progress)
    try:
        found = identify(question, bar)
    finally:
        bar.close()
    return FitResult(found, data, sigma=sigma, is_list=is_list, bias=bool(bias), like=z, z0_is_known=known is not None)


def _prepared(structure: Any, n: Any, p: int) -> Any:
    """The structure with a function as a `Function` of n states if n is known, else of p if the function allows it."""
    if isinstance(structure, Structure) or structure is None or isinstance(structure, str):
        return structure
    if callable(structure):
        structure = (structure, getattr(structure, "theta0", None), getattr(structure, "bounds", None))
    if isinstance(structure, tuple) and structure and callable(structure[0]):
        if len(structure) > 3:
            raise OptionError(f"structure must be (function, theta0, bounds) at most, got {len(structure)} parts")
        function, theta0, bounds = (*structure, None, None)[:3]
        if n is not None or theta0 is not None:
            return Function(function, theta0, bounds, n if theta0 is None else None)
        try:
            return Function(function, None, bounds, p)
        except OptionError:
            return Function(function, None, bounds)
    if np.ndim(structure) != 2:
        raise OptionError(f"structure must be a name, a mask, or a function of theta, got {structure!r}")
    return structure


def _matrix(C: Any, p: int) -> Array:
    matrix = as_array(C, "C")
    if matrix.ndim == 1 and p == 1:
        matrix = matrix[None]
    if matrix.ndim != 2 or matrix.shape[0] != p:
        raise ShapeError(f"C has shape {matrix.shape}; C must be (p, n) with p = {p}, the channels of z")
    if not np.isfinite(matrix).all() or not matrix.any(1).all():
        raise OptionError("C must be finite, and no row of it may be zero")
    return matrix


def _number_of_states(rank: Any, C: Array | None, structure: Any, p: int) -> int:
    if rank is not None and not (isinstance(rank, (int, np.integer)) and not isinstance(rank, bool) and rank >= 1):
        raise OptionError(f"rank must be a positive integer, got {rank!r}")
    sizes = {}
    if rank is not None:
        sizes["rank"] = int(rank)
    if C is not None:
        sizes["C"] = C.shape[1]
    if isinstance(structure, Structure):
        sizes["structure"] = structure.n
    elif structure is not None and not isinstance(structure, str):
        sizes["structure"] = len(np.asarray(structure))
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ShapeError(f"arguments disagree on the number of states: {found}")
    return next(iter(sizes.values()), p)


def _initial_states(z0: Any, K: int, n: int) -> Array:
    states = as_array(z0, "z0")
    if states.shape not in ((n,), (K, n)) or (states.ndim == 1 and K > 1):
        raise ShapeError(f"z0 has shape {states.shape}; z0 must be {(n,) if K == 1 else (K, n)}")
    if not np.isfinite(states).all():
        raise OptionError("z0 must be finite")
    return states.reshape(K, n)
