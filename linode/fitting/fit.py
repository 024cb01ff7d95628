"""fit: a linear system from data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..display import checked_names, columns_of
from ..errors import OptionError, ShapeError
from .complex_result import ComplexFitResult
from .complexes import as_complex, as_real, complex_entries, complex_structure, identify_complex, is_complex, real_form
from .data import Data, as_array, make_data
from .identify import Question, identify
from .order import RankScore, choose_rank
from .products import Array
from .progress import Progress
from .result import FitResult
from .structures import Function, Structure

Read = Callable[[Any, str], Array]  # the entries of an argument, by name
Z0_WITHOUT_BASIS = "z0 is known, but not in which basis: give C, or as many states as channels"


def fit(
    t: Any,
    z: Any,
    u: Any = None,
    *,
    rank: int | Literal["auto"] | None = None,
    B: Any = None,
    C: Any = None,
    D: Any = None,
    b: Any = None,
    bias: bool = False,
    feedthrough: bool = False,
    delay: Any = 0.0,
    structure: Any = None,
    stable: bool | str = False,
    eigenvalues: Any = None,
    sigma: Any = None,
    z0: Any = None,
    t0: Any = None,
    names: Any = None,
    standard_errors: bool = True,
    progress: Any = None,
) -> FitResult:
    """Fit z'(t) = Xi z(t) + b + B u(t - delay), seen as y = C z + D u with noise, to data: maximum likelihood.

    Least squares with exact derivatives from several starts, until two of them agree. Initial states are unknowns.
    Of B, C, D, b and z0 some entries may be known: an array of numbers, in which NaN stands for a free entry, or of
    booleans, in which True does and other entries are 0.

    Args:
        t: (T,), times in any unit, with any gaps, not decreasing; equal ones are repeated measurements.
        z: (T, p) or (T,), observations; NaN where one is missing. Lists of both for several trajectories, each with
            times and an initial state of its own; one t for all of them; or z (K, T, p) with t (T,) or (K, T). Arrays,
            tensors, pandas Series and DataFrames. Complex observations give a complex system; then there are no stable,
            eigenvalues and rank="auto", C is known, from structure or left out, and without it there are more states
            than channels for one channel only.
        u: input: samples (T, m), of which the i-th holds from t[i] to t[i + 1], or an input such as
            `linode.FirstOrderHold` on the axis of t; a list of these for several trajectories, or one for all.
        rank: number of states, if it is not that of the channels. With fewer, the states are the directions in which
            the data are largest; with more, Xi is known up to a change of basis only. "auto": the smallest that
            predicts every fifth sample as well as any from the others; `FitResult.ranks` has the figures.
        B: (n, m), of which entries may be free. None: all are.
        C: (p, n) observation matrix, y = C z, of which entries may be free (NaN alone: all are). None: the channels are
            the states, or, with another rank, it is unknown.
        D: (p, m), of which entries may be free. feedthrough: True: all are. Else D is 0.
        b: (n,), of which entries may be free. bias: True: all are. Else b is 0.
        delay: time by which the input acts later; NaN where it is unknown, between 0 and a fifth of the longest
            trajectory.
        structure: what Xi may be. A function theta -> Xi (n, n), best of tensors; (function, theta0) or
            (function, theta0, (lowest, highest)); a mask (n, n) of entries that are not 0; an array (n, n) of known
            entries with NaN for free ones; or "symmetric", "skew", "diagonal", "metzler" (off the diagonal positive),
            "compartmental" (flows and outflows positive). The function may return (Xi, B, C, D, b, z0), or the first
            ones of them, or a dictionary with these names. Of complex data the parts are complex, theta is where theta0
            is, and the names are "diagonal" alone.
        stable: True: eigenvalues with negative real parts only; "auto": if that predicts the last fifth of the data
            better.
        eigenvalues: "imaginary" (oscillations that neither grow nor decay), "pairs" (conjugate pairs only; one of an
            odd number of states is real), or a number, the largest real part. None: any.
        sigma: standard deviation of the noise, a number, (p,) or as z. None: one number, estimated.
        z0: (n,), or (K, n) for several trajectories: initial states, of which entries may be free. None: all are.
        t0: time at which z0 holds and from which on inputs act, not after the first sample; (K,) for several
            trajectories. None: the first time of each.
        names: of the p channels, for pictures, tables and messages. None: those of the columns of z, else y1, y2, ...
        standard_errors: False leaves them out, which saves time where there are many states.
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
    if eigenvalues is not None and (structure is not None or stable is not False):
        raise OptionError("eigenvalues, structure and stable exclude each other: give one of them")
    for name, whole, part in (("feedthrough", feedthrough, D), ("bias", bias, b)):
        if not isinstance(whole, (bool, np.bool_)):
            raise OptionError(f"{name} must be True or False, got {whole!r}")
        if whole and part is not None:
            raise OptionError(f"{name} and {'D' if name == 'feedthrough' else 'b'} are both given: give one of them")
    if is_complex(z):
        asked = {"eigenvalues": eigenvalues, "stable": stable or None, "rank='auto'": rank == "auto" or None}
        parts = {"B": B, "C": C, "D": True if feedthrough else D, "b": b, "z0": z0}
        return _fit_complex(
            t, z, u, rank, structure, parts, bool(bias), delay, sigma, t0, names, bool(standard_errors), progress, asked
        )
    data, is_list = make_data(t, z, u, sigma, t0, names)
    C_given = None if C is None else _observations(C, data.p)
    n_of_C = None if C_given is None or C_given.ndim < 2 else C_given.shape[1]
    is_auto = isinstance(rank, str) and rank == "auto"
    if is_auto and (structure is not None or any(x is not None for x in (B, C, b, z0))):
        raise OptionError("rank='auto' needs states without a meaning: leave out structure, B, C, b and z0")
    rank = None if is_auto else rank
    structure = _prepared(structure, rank if n_of_C is None else n_of_C, data.p)
    sized = {"C": n_of_C, "B": _length(B, "B"), "b": _length(b, "b")}
    n = _number_of_states(rank, sized, structure, data.p)
    named = structure.names if isinstance(structure, Structure) else ()
    parts = {"B": B, "C": C_given, "D": True if feedthrough else D, "b": True if bias else b, "z0": z0}
    known = _known(data.K, data.p, data.m, n, named, _entries, **parts)
    known["delay"] = _delay(delay, data)
    if isinstance(structure, Function):
        _check_parts(structure, data)
    if z0 is not None and C is None and structure is None and n != data.p:
        raise OptionError(Z0_WITHOUT_BASIS)
    question = Question(data, n, structure, stable, _eigenvalues(eigenvalues), known)
    ranks: tuple[RankScore, ...] = ()
    bar = Progress(progress)
    try:
        if is_auto:
            question = replace(question, known={name: x for name, x in known.items() if name in ("D", "delay")})
            question = replace(question, free_b=bool(bias))
            rank, ranks = choose_rank(question, bar)
            question = replace(question, n=rank)
        found = identify(question, bar)
    finally:
        bar.close()
    options = {"sigma": sigma, "is_list": is_list, "like": z, "standard_errors": bool(standard_errors), "ranks": ranks}
    return FitResult(found, data, **options)


def _fit_complex(
    t: Any, z: Any, u: Any, rank: Any, structure: Any, parts: dict[str, Any], bias: bool, delay: Any, sigma: Any,
    t0: Any, names: Any, errors: bool, progress: Any, asked: dict[str, Any],
) -> FitResult:  # fmt: skip
    """The fit of complex observations; parts: B, C, D, b and z0 as given; asked: options that it does not know."""
    unknown = [name for name, value in asked.items() if value is not None]
    if unknown:
        raise OptionError(
            f"z is complex, and {unknown[0]} is for real data: leave it out, or fit real and imaginary parts"
        )
    real = as_real(z)
    data, is_list = make_data(t, real, u, sigma, t0)
    p, C = data.p // 2, parts.pop("C")
    labels = tuple(checked_names(names, p, "y")) if names is not None else columns_of(z[0] if is_list else z)
    data = replace(data, names=tuple(f"{part} {name}" for part in ("Re", "Im") for name in labels))
    C = None if C is None else np.atleast_2d(as_complex(C))
    if C is not None and (C.shape[0] != p or not np.isfinite(C).all()):
        raise ShapeError(
            f"C has shape {C.shape}; for complex data it must be (p, n) with p = {p}, and known, or come from structure"
        )
    size = None if C is None else C.shape[1]
    structure = complex_structure(structure, rank if size is None else size, p)
    own = None if structure is None else structure.n // 2
    lengths = {name: _length(parts[name], name, complex_entries) for name in ("B", "b")}
    n = _number_of_states(rank, {"C": size, **lengths, "structure": own}, None, p)
    if parts["z0"] is not None and C is None and structure is None and n != p:
        raise OptionError(Z0_WITHOUT_BASIS)
    parts["b"] = True if bias else parts["b"]
    taken = () if structure is None else structure.names
    known = _known(data.K, p, data.m, n, taken, complex_entries, **parts)
    known = {name: real_form(name, x) for name, x in known.items()} | {"delay": _delay(delay, data)}
    if isinstance(structure, Function):
        _check_parts(structure, data)
    bar = Progress(progress)
    try:
        found = identify_complex(data, n, C, structure, known, bar)
    finally:
        bar.close()
    result = FitResult(found, data, sigma=sigma, is_list=is_list, like=real, standard_errors=errors)
    return ComplexFitResult(result, z[0] if is_list else z, labels)


def _eigenvalues(asked: Any) -> str | float | None:
    if asked is None or (isinstance(asked, str) and asked in ("imaginary", "pairs")):
        return asked
    needed = "eigenvalues must be 'imaginary', 'pairs' or a finite number, the largest real part"
    if isinstance(asked, (bool, str)) or np.ndim(asked):
        raise OptionError(f"{needed}, got {asked!r}")
    try:
        bound = float(asked)
    except (TypeError, ValueError):
        raise OptionError(f"{needed}, got {asked!r}") from None
    if not np.isfinite(bound):
        raise OptionError(f"{needed}, got {asked!r}")
    return bound


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


def _observations(C: Any, p: int) -> Array:
    matrix = _entries(C, "C")
    if matrix.ndim == 1 and p == 1:
        matrix = matrix[None]
    if matrix.ndim and (matrix.ndim != 2 or matrix.shape[0] != p):
        raise ShapeError(f"C has shape {matrix.shape}; C must be (p, n) with p = {p}, the channels of z")
    if np.isinf(matrix).any() or (matrix.ndim and not matrix.any(1).all()):
        raise OptionError("C must be finite, or NaN where it is free, and no row of it may be zero")
    return matrix


def _entries(x: Any, name: str) -> Array:
    """Known values, with NaN for free ones, of an array of either, or of booleans that are true where it is free."""
    is_mask = getattr(getattr(x, "dtype", None), "kind", "") == "b" or "bool" in str(getattr(x, "dtype", ""))
    if is_mask or np.asarray(x).dtype.kind == "b":
        return np.where(np.asarray(x), np.nan, 0.0)
    return as_array(x, name)


def _length(x: Any, name: str, read: Read = _entries) -> int | None:
    """The first size of an array of at least one dimension."""
    entries = None if x is None else read(x, name)
    return len(entries) if entries is not None and entries.ndim else None


def _known(K: int, p: int, m: int, n: int, named: tuple[str, ...], read: Read, **parts: Any) -> dict[str, Array]:
    """The parts that were given, each of its full shape; named: those that the structure gives."""
    shapes = {"B": (n, m), "C": (p, n), "D": (p, m), "b": (n,), "z0": (K, n)}
    words = {"B": "(n, m)", "C": "(p, n)", "D": "(p, m)", "b": "(n,)", "z0": "(n,)" if K == 1 else "(n,) or (K, n)"}
    found = {}
    for name, value in parts.items():
        if value is None:
            continue
        if name in named:
            raise OptionError(f"{name} is given, but structure gives it too")
        entries, shape = read(value, name), shapes[name]
        if name in ("B", "D") and not m:
            raise OptionError(f"{'feedthrough' if value is True else name} needs an input u")
        if name != "z0" and entries.ndim == 1 and entries.size == np.prod(shape) and 1 in shape:
            entries = entries.reshape(shape)
        is_fit = entries.ndim == 0 or entries.shape == shape or (name == "z0" and entries.shape == (n,))
        if not is_fit:
            size = words[name] if name != "z0" else f"{(n,) if K == 1 else (K, n)}"
            raise ShapeError(f"{name} has shape {entries.shape}; {name} must be {size}")
        if np.isinf(entries).any():
            raise OptionError(f"{name} must be finite, or NaN where it is free")
        found[name] = np.broadcast_to(entries, shape).copy()
    return found


def _check_parts(structure: Function, data: Data) -> None:
    """Raise where a part that a function gives has not the size of the data."""
    n, p, m = structure.n, data.p, data.m
    wanted = {"B": (n, m), "C": (p, n), "D": (p, m), "b": (n,), "z0": (n,)}
    for name, shape in structure.shapes.items():
        if name == "Xi" or shape == wanted[name] or (name == "z0" and shape == (data.K, n)):
            continue
        if not (len(shape) == 1 and 1 in wanted[name] and np.prod(shape) == np.prod(wanted[name])):
            how = "" if structure.reals == 1 else ", of real parts and then imaginary parts"
            raise ShapeError(f"structure returns {name} of shape {shape}; it must be {wanted[name]}{how}")


def _delay(delay: Any, data: Data) -> Array:
    value = as_array(delay, "delay")
    if value.ndim or np.isinf(value) or value < 0:
        raise OptionError(f"delay must be a time of at least 0, or NaN where it is unknown, got {delay!r}")
    if value != 0 and not data.m:
        raise OptionError("delay needs an input u")
    return value


def _number_of_states(rank: Any, sized: dict[str, int | None], structure: Any, p: int) -> int:
    if rank is not None and not (isinstance(rank, (int, np.integer)) and not isinstance(rank, bool) and rank >= 1):
        raise OptionError(f"rank must be a positive integer, or 'auto', got {rank!r}")
    sizes = {} if rank is None else {"rank": int(rank)}
    sizes |= {name: size for name, size in sized.items() if size is not None}
    if isinstance(structure, Structure):
        sizes["structure"] = structure.n
    elif structure is not None and not isinstance(structure, str):
        sizes["structure"] = len(np.asarray(structure))
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ShapeError(f"arguments disagree on the number of states: {found}")
    return next(iter(sizes.values()), p)
