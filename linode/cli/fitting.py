"""`linode fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..fitting.estimate import FitStatus
from ..fitting.fit import fit as fit_data
from ..fitting.result import FitResult
from .console import progress, remark
from .errors import OK, TROUBLE, Refusal, bad_file
from .output import PICTURES, SYSTEMS, TABLES, Output, json_text, keep_apart, write_picture, write_system, write_table
from .tables import Array, Table, read_table

MOST_FORECAST = 20000  # times that a forecast has at most


@dataclass(frozen=True)
class Question:
    """Options of the command."""

    path: Path
    time: str
    columns: str | None
    inputs: str | None
    group: str | None
    rank: int | None
    bias: bool
    stable: bool
    structure: str | None
    sigma: float | None
    forecast: float
    holdout: float
    delimiter: str | None


@dataclass(frozen=True)
class Series:
    """A trajectory: all of its times, and how many of them are fitted."""

    t: Array
    z: Array
    u: Array | None
    n_fitted: int


def fit(
    question: Question, out: Path | None, plot: Path | None, save: Path | None, *, as_json: bool, force: bool
) -> int:
    table_out = None if out is None else Output(out, TABLES, force)
    picture = None if plot is None else Output(plot, PICTURES, force)
    system = None if save is None else Output(save, SYSTEMS, force)
    keep_apart([question.path], [table_out, picture, system])
    if not np.isfinite(question.forecast):
        raise Refusal(f"--forecast must be finite, got {question.forecast}")
    table = read_table(question.path, question.delimiter)
    names = columns_of(question, table)
    series = series_of(question, table, names)
    result = fitted(question, series)
    forecasts = forecasts_of(question, result, series)
    errors = None if not question.holdout else holdout_errors(forecasts, series)
    if system is not None:
        write_system(system, system_arrays(result))
    if table_out is not None:
        write_table(table_out, columns_out(forecasts, names))
    if picture is not None:
        ahead = question.forecast + max(float(x.t[-1] - x.t[x.n_fitted - 1]) for x in series)
        with progress("drawing"):
            write_picture(picture, result.plot(ahead=ahead, labels=names, xlabel=question.time).figure)
    if as_json:
        print(json_of(result, names, errors, forecasts if question.forecast or question.holdout else None))
    else:
        print(result.summary())
        for name, error in zip(names, errors or []):
            print(f"held out: {name}: root mean square error {error[0]:.4g}, {error[1]:.3g} standard deviations")
    if not result:
        remark(f"{result.status.name}: {result.message}")
    return TROUBLE if result.status is FitStatus.NOT_CONVERGED else OK


def columns_of(question: Question, table: Table) -> list[str]:
    taken = {question.time, question.group, *split(question.inputs)}
    table.index(question.time)
    names = split(question.columns) or [name for name in table.names if name not in taken]
    if not names:
        raise bad_file(question.path, f"has no column beside {', '.join(map(repr, table.names))}")
    if len(set(names)) < len(names):
        raise Refusal(f"--columns: {next(x for x in names if names.count(x) > 1)!r} is there twice")
    if set(names) & taken:
        raise Refusal(f"--columns: {sorted(set(names) & taken)[0]!r} is the time, the group or an input too")
    return names


def split(names: str | None) -> list[str]:
    return [] if names is None else [name.strip() for name in names.split(",") if name.strip()]


def series_of(question: Question, table: Table, names: list[str]) -> list[Series]:
    t = table.numbers(question.time, may_miss=False)
    z = np.stack([table.numbers(name) for name in names], -1)
    inputs = split(question.inputs)
    u = np.stack([table.numbers(name, may_miss=False) for name in inputs], -1) if inputs else None
    groups = table.text(question.group) if question.group is not None else [""] * len(t)
    found = []
    for name in dict.fromkeys(groups):
        own = np.array([g == name for g in groups])
        order = np.argsort(t[own], kind="stable")
        n_fitted = max(1, round((1 - question.holdout) * int(own.sum())))
        found.append(Series(t[own][order], z[own][order], None if u is None else u[own][order], n_fitted))
    return found


def fitted(question: Question, series: list[Series]) -> FitResult:
    ts = [x.t[: x.n_fitted] for x in series]
    zs = [x.z[: x.n_fitted] for x in series]
    us = None if series[0].u is None else [x.u[: x.n_fitted] for x in series if x.u is not None]
    is_one = len(series) == 1
    names = ("rank", "bias", "stable", "structure", "sigma")
    options: dict[str, Any] = {name: getattr(question, name) for name in names}
    return fit_data(
        ts[0] if is_one else ts,
        zs[0] if is_one else zs,
        us[0] if us is not None and is_one else us,
        **options,
    )


def forecasts_of(question: Question, result: FitResult, series: list[Series]) -> list[tuple[Array, Array, Array]]:
    """For each trajectory times (T,), of the data and after, predictions (T, p) and their standard errors (T, p)."""
    ts = [times_and_beyond(x.t, question.forecast) for x in series]
    # inputs of all rows, also of those held out; the last row holds on
    us = [None if x.u is None else x.u[np.minimum(np.arange(len(t)), len(x.u) - 1)] for x, t in zip(series, ts)]
    ys = [result.predict(ts[0], u=us[0])] if len(series) == 1 else result.predict(ts, u=us)
    errors = [result.predict_stderr(t, k) for k, t in enumerate(ts)]
    return [(t, y.reshape(len(t), -1), e.reshape(len(t), -1)) for t, y, e in zip(ts, ys, errors)]


def times_and_beyond(t: Array, ahead: float) -> Array:
    """t and further times, a median step apart, until `ahead` after the last."""
    if not ahead:
        return t
    steps = np.diff(t)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else ahead
    count = int(np.clip(np.ceil(ahead / step), 1, MOST_FORECAST))
    return np.r_[t, t[-1] + ahead * np.arange(1, count + 1) / count]


def holdout_errors(forecasts: list[tuple[Array, Array, Array]], series: list[Series]) -> list[tuple[float, float]]:
    """For each column the root mean square error of the held-out values, absolute and over their deviation."""
    off = np.concatenate([(y[: len(x.t)] - x.z)[x.n_fitted :] for (_, y, _), x in zip(forecasts, series)])
    truth = np.concatenate([x.z[x.n_fitted :] for x in series])
    found = []
    for e, z in zip(off.T, truth.T):
        seen = ~np.isnan(e)
        error = float(np.sqrt(np.mean(e[seen] ** 2))) if seen.any() else float("nan")
        spread = float(np.std(z[seen])) if seen.any() else float("nan")
        found.append((error, error / spread if spread > 0 else float("nan")))
    return found


def system_arrays(result: FitResult) -> dict[str, Array]:
    """The system for `linode solve`, and C, offset and t0, which give the columns y = C z(t - t0) + offset.

    z0 is the state of the first trajectory at its first time t0.
    """
    names = ("Xi", "b", "B", "C", "offset", "stderr")
    found = {name: getattr(result, name) for name in names}
    found |= {"z0": np.atleast_2d(result.z0)[0], "t0": result.observations[0][0][0]}
    return {name: np.asarray(x) for name, x in found.items() if x is not None}


def columns_out(forecasts: list[tuple[Array, Array, Array]], names: list[str]) -> dict[str, Array]:
    columns = {"t": np.concatenate([t for t, _, _ in forecasts])}
    if len(forecasts) > 1:
        columns["trajectory"] = np.repeat(np.arange(len(forecasts)), [len(t) for t, _, _ in forecasts])
    for j, name in enumerate(names):
        columns[name] = np.concatenate([y[:, j] for _, y, _ in forecasts])
        columns[f"{name}_stderr"] = np.concatenate([e[:, j] for _, _, e in forecasts])
    return columns


def json_of(
    result: FitResult, names: list[str], errors: Any, forecasts: list[tuple[Array, Array, Array]] | None
) -> str:
    found = {
        "status": result.status.name,
        "message": result.message,
        "converged": bool(result.converged),
        "columns": names,
        **{name: getattr(result, name) for name in ("Xi", "B", "b", "C", "z0", "stderr", "eigenvalues", "sigma")},
        "eigenvalue_stderr": result.eigenvalue_stderr,
        "cost": result.cost,
        "dof": result.dof,
    }
    if errors is not None:
        found["holdout"] = {name: {"rmse": e, "relative": r} for name, (e, r) in zip(names, errors)}
    if forecasts is not None:
        found["forecast"] = [{"t": t, "z": y, "stderr": e} for t, y, e in forecasts]
    return json_text(found)
