"""What notebooks show, tables of pandas, and names of states and channels, from facts and arrays that are passed in."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError


def html_table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A title and rows of a name and a value, as HTML; all text is escaped."""
    left = 'style="text-align: left"'
    cells = "".join(
        f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(str(value))}</td></tr>" for name, value in rows
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{cells}</tbody></table>"


def as_numpy(x: Any) -> NDArray[Any]:
    """x as an array; tensors are detached and copied from their device."""
    return np.asarray(x.numpy(force=True) if hasattr(x, "detach") else x)


def frame(t: NDArray[Any], columns: dict[str, NDArray[Any]], levels: dict[str, NDArray[Any]]) -> Any:
    """A DataFrame with the times as its index, below the levels if there are any.

    Args:
        t: (N,). columns, levels: (N,) by name.

    Raises:
        ImportError: pandas is not installed.
    """
    pandas = _pandas()
    index = pandas.MultiIndex.from_arrays([*levels.values(), t], names=[*levels, "t"]) if levels else None
    return pandas.DataFrame(columns, index=pandas.Index(t, name="t") if index is None else index)


def entries(parts: dict[str, tuple[NDArray[Any], NDArray[Any] | None]]) -> Any:
    """A DataFrame with a row for each entry of the parts, such as "Xi[0, 1]": its value, and its standard error.

    Args:
        parts: values and errors of equal shapes, by name; errors may be None, which become NaN.

    Raises:
        ImportError: pandas is not installed.
    """
    names: list[str] = []
    for name, (x, _) in parts.items():
        names += [f"{name}{list(where)}" if where else name for where in np.ndindex(x.shape)]
    values = [x.ravel() for x, _ in parts.values()]
    errors = [np.full(x.size, np.nan) if e is None else np.broadcast_to(e, x.shape).ravel() for x, e in parts.values()]
    return _pandas().DataFrame({"value": np.concatenate(values), "stderr": np.concatenate(errors)}, index=names)


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("tables need pandas: pip install pandas") from error


def numbered(letter: str, count: int) -> list[str]:
    """What states (z), channels (y) and inputs (u) are called that have no names: z1, z2, ..."""
    return [f"{letter}{i + 1}" for i in range(count)]


def columns_of(x: Any) -> tuple[str, ...]:
    """Names of the columns of a DataFrame, or of a Series; none where pandas numbered them, or two are the same."""
    if not hasattr(x, "to_numpy"):
        return ()
    return _different(x.columns if hasattr(x, "columns") else [getattr(x, "name", None)])


def states_of(z0: Any) -> tuple[str, ...]:
    """Names of the entries of a Series, or of the columns of a DataFrame, under the same conditions."""
    labels = z0.columns if hasattr(z0, "columns") else getattr(z0, "index", ())
    return _different(labels) if hasattr(z0, "to_numpy") else ()


def _different(labels: Iterable[Any]) -> tuple[str, ...]:
    every = list(labels)
    names = tuple(map(str, every))
    is_named = every != list(range(len(every))) and None not in every
    return names if is_named and len(set(names)) == len(names) else ()


def checked_names(names: Sequence[str] | None, count: int, letter: str) -> list[str]:
    """The names of columns, one for each; None: z1, z2, ...

    Raises:
        OptionError: they are too few or too many, or one is there twice.
    """
    if names is None:
        return numbered(letter, count)
    found = [names] if isinstance(names, str) else [str(name) for name in names]
    if len(found) != count or len(set(found)) != count:
        raise OptionError(f"names must be {count} different names, one for each column, got {found}")
    return found
