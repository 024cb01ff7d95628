"""`linode fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..fitting.estimate import FitStatus
from ..fitting.fit import fit as fit_data
from ..fitting.result import FitResult
from ..forcing import ZeroOrderHold
from .clock import Clock, clock_of, unit_of
from .console import progress, remark
from .errors import OK, TROUBLE, Refusal, bad_file, listed
from .files import check_stdin, is_there
from .output import (
    PICTURES,
    SYSTEMS,
    TABLES,
    Output,
    json_text,
    keep_apart,
    named_apart,
    sheet,
    write_picture,
    write_system,
    write_table,
)
from .solving import label_of_time, read_inputs
from .tables import Array, Table, clean, read_table

MOST_FORECAST = 20000  # times that a forecast has at most
MOST_STATES = 10**6  # beyond which no data have enough values


@dataclass(frozen=True)
class Question:
    """Options of the command."""

    path: Path
    time: str
    time_unit: str | None
    columns: str | None
    inputs: str | None
    group: str | None
    rank: int | str | None
    bias: bool
    stable: bool
    structure: str | None
    feedthrough: bool
    sigma: float | None
    forecast: float
    holdout: float
    delimiter: str | None
    decimal: str | None


@dataclass(frozen=True)
class Axis:
    """The column of times: its name, the unit of its numbers ("" if it is not known), and the clock of its dates."""

    name: str
    unit: str
    clock: Clock | None

    def shown(self, t: Array) -> Array:
        return t if self.clock is None else self.clock.texts(t)


@dataclass(frozen=True)
class Series:
    """A trajectory: its name, all of its times, and how many of them are fitted; u: samples at these times, or none."""

    name: str
    t: Array
    z: Array
    u: Array | None
    n_fitted: int


def fit(
    question: Question, out: Path | None, plot: Path | None, save: Path | None, *, as_json: bool, force: bool
) -> int:
    check_stdin(question.path, question.inputs)
    table_out = None if out is None else Output(out, TABLES, force)
    picture = None if plot is None else Output(plot, PICTURES, force)
    system = None if save is None else Output(save, SYSTEMS, force)
    if not np.isfinite(question.forecast):
        raise Refusal(f"--forecast must be finite, got {question.forecast}")
    unit = None if question.time_unit is None else unit_of(question.time_unit)
    table = read_table(question.path, question.delimiter, question.decimal)
    inputs, held = inputs_of(question, table)
    keep_apart([question.path, held], [table_out, picture, system])
    names = columns_of(question, table, inputs)
    axis = axis_of(question, table, unit)
    series = series_of(question, table, names, inputs, axis)
    u = None
    if held is not None:
        times, values, _ = read_inputs(held, axis.name, axis.clock)
        u = ZeroOrderHold(times, values)
    result = fitted(question, series, u, names, inputs)
    forecasts = forecasts_of(question, result, series)
    errors = None if not question.holdout else holdout_errors(forecasts, series)
    if system is not None:
        write_system(system, system_arrays(result, names, axis))
    if table_out is not None:
        write_table(table_out, columns_out(question, forecasts, series, names, axis))
    if picture is not None:
        with progress("drawing"):
            write_picture(picture, drawn(question, result, series, names, axis))
    if as_json:
        wanted = forecasts if question.forecast or question.holdout else None
        print(json_of(result, names, errors, wanted, axis))
    else:
        print(result.summary())
        if axis.clock is not None:
            print(f"time: {axis.clock.words}")
        for name, error in zip(names, errors or []):
            print(f"held out: {name}: root mean square error {error[0]:.4g}, {error[1]:.3g} standard deviations")
    if not result:
        remark(f"{result.status.name}: {result.message.replace('feedthrough=True', '--feedthrough')}")
    return TROUBLE if result.status is FitStatus.NOT_CONVERGED else OK


def rank_of(text: str) -> int | str:
    """The number of states, or "auto".

    Raises:
        Refusal: it is neither.
    """
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= MOST_STATES:
        raise Refusal(f"--rank {text[:40]!r} must be a whole number of 1 to {MOST_STATES}, or auto")
    return int(text)


def inputs_of(question: Question, table: Table) -> tuple[list[str], Path | None]:
    """Columns of the table that are inputs, or the table of its own that holds them."""
    if question.inputs is None:
        return [], None
    try:
        return table.chosen(question.inputs), None
    except Refusal:
        path = Path(question.inputs)
        if not is_there(path):
            told = f"--inputs {question.inputs!r} names neither columns of {question.path} nor a file"
            raise bad_file(question.path, f"{told}; its columns are {listed(table.names)}") from None
        return [], path


def columns_of(question: Question, table: Table, inputs: list[str]) -> list[str]:
    taken = {question.time, question.group, *inputs}
    table.index(question.time)
    # a column without a name is an index that pandas wrote
    every = [name for name in table.names if name and name not in taken]
    names = every if question.columns is None else table.chosen(question.columns)
    if not names:
        raise bad_file(question.path, f"has no column to fit beside {listed(table.names)}")
    if len(set(names)) < len(names):
        raise Refusal(f"--columns: {next(x for x in names if names.count(x) > 1)!r} is there twice")
    if set(names) & taken:
        raise Refusal(f"--columns: {sorted(set(names) & taken)[0]!r} is the time, the group or an input too")
    return names


def axis_of(question: Question, table: Table, unit: str | None) -> Axis:
    """Dates become numbers in the unit asked for, or days; the unit of numbers is what the user says."""
    clock = clock_of(table.text(question.time), unit or "day")
    return Axis(question.time, unit or ("" if clock is None else "day"), clock)


def series_of(question: Question, table: Table, names: list[str], inputs: list[str], axis: Axis) -> list[Series]:
    t = table.times(question.time, axis.clock)
    z = np.stack([table.numbers(name) for name in names], -1)
    u = np.stack([table.numbers(name, may_miss=False) for name in inputs], -1) if inputs else None
    groups = table.text(question.group) if question.group is not None else [""] * len(t)
    places: dict[str, list[int]] = {}
    for i, name in enumerate(groups):
        places.setdefault(clean(name), []).append(i)
    found = []
    for name, rows in places.items():
        own = np.array(rows)[np.argsort(t[rows], kind="stable")]
        n_fitted = max(1, round((1 - question.holdout) * len(own)))
        found.append(Series(name, t[own], z[own], None if u is None else u[own], n_fitted))
    return found


@dataclass(frozen=True)
class Named:
    """An array with names of its columns, as `linode.fit` reads them of a DataFrame."""

    columns: list[str]
    values: Array

    def to_numpy(self, dtype: Any = None, na_value: Any = None) -> Array:
        return self.values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.values


def fitted(question: Question, series: list[Series], u: Any, channels: list[str], inputs: list[str]) -> FitResult:
    """u: an input on the axis of the times, in place of samples at these; names of the channels and of the samples."""
    ts = [x.t[: x.n_fitted] for x in series]
    zs = [x.z[: x.n_fitted] for x in series]
    us = [u if x.u is None else Named(inputs, x.u[: x.n_fitted]) for x in series]
    is_one = len(series) == 1
    names = ("rank", "bias", "stable", "structure", "feedthrough", "sigma")
    options: dict[str, Any] = {name: getattr(question, name) for name in names}
    given = None if us[0] is None else us[0] if is_one else us
    return fit_data(ts[0] if is_one else ts, zs[0] if is_one else zs, given, names=channels, **options)


def forecasts_of(question: Question, result: FitResult, series: list[Series]) -> list[tuple[Array, Array, Array]]:
    """For each trajectory times (T,), of the data and after, predictions (T, p) and their standard errors (T, p)."""
    ts = [times_and_beyond(x.t, question.forecast) for x in series]
    # inputs of all rows, also of those held out; the last row holds on; those of a table of their own the fit knows
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


def drawn(question: Question, result: FitResult, series: list[Series], names: list[str], axis: Axis) -> Any:
    """Data, fit and forecast, and the values that were held out, which the fit has not seen."""
    ahead = question.forecast + max(float(x.t[-1] - x.t[x.n_fitted - 1]) for x in series)
    held_out = [(x.t[x.n_fitted :], x.z[x.n_fitted :]) for x in series] if question.holdout else None
    xlabel = label_of_time(axis.name, axis.unit, axis.clock)
    return result.plot(sheet(), ahead=ahead, held_out=held_out, labels=names, xlabel=xlabel).figure


def system_arrays(result: FitResult, names: list[str], axis: Axis) -> dict[str, Array]:
    """The system for `linode solve`, with what makes the channels of the data from its states, and their axes.

    y(t) = C z(t - t0) + D u(t) + offset; z0 is the state of the first trajectory at t0.
    """
    matrices = ("Xi", "b", "B", "C", "D", "offset", "stderr", "b_stderr", "B_stderr", "C_stderr", "D_stderr")
    found = {name: getattr(result, name, None) for name in matrices}
    found |= {name: x if x is None else np.atleast_2d(x)[0] for name, x in z0_of(result).items()}
    found |= {"t0": result.observations[0][0][0]}
    found |= {"names": np.array(names), "time_name": axis.name}
    found |= {"time_unit": axis.unit} if axis.unit else {}
    found |= {} if axis.clock is None else {"time_origin": axis.clock.text}
    return {name: np.asarray(x) for name, x in found.items() if x is not None}


def z0_of(result: FitResult) -> dict[str, Any]:
    return {"z0": result.z0, "z0_stderr": result.z0_stderr}


def columns_out(
    question: Question,
    forecasts: list[tuple[Array, Array, Array]],
    series: list[Series],
    names: list[str],
    axis: Axis,
) -> dict[str, Array]:
    columns = [(axis.name, axis.shown(np.concatenate([t for t, _, _ in forecasts])))]
    if question.group is not None:
        groups = np.array([x.name for x in series])
        columns.append((question.group, np.repeat(groups, [len(t) for t, _, _ in forecasts])))
    for j, name in enumerate(names):
        columns.append((name, np.concatenate([y[:, j] for _, y, _ in forecasts])))
        columns.append((f"{name}_stderr", np.concatenate([e[:, j] for _, _, e in forecasts])))
    return named_apart(columns)


def json_of(
    result: FitResult,
    names: list[str],
    errors: Any,
    forecasts: list[tuple[Array, Array, Array]] | None,
    axis: Axis,
) -> str:
    found = {
        "status": result.status.name,
        "message": result.message,
        "converged": bool(result.converged),
        "columns": names,
        "time": axis.name,
        "time_unit": axis.unit,
        "time_origin": None if axis.clock is None else axis.clock.text,
        **{name: getattr(result, name) for name in ("Xi", "B", "b", "C", "D", "stderr", "eigenvalues", "sigma")},
        **{name: getattr(result, name) for name in ("B_stderr", "b_stderr", "C_stderr", "D_stderr")},
        **z0_of(result),
        "eigenvalue_stderr": result.eigenvalue_stderr,
        "cost": result.cost,
        "dof": result.dof,
    }
    if result.ranks:
        found["ranks"] = [vars(x) for x in result.ranks]
    if errors is not None:
        found["holdout"] = {name: {"rmse": e, "relative": r} for name, (e, r) in zip(names, errors)}
    if forecasts is not None:
        found["forecast"] = [
            {"t": t, "z": y, "stderr": e} | ({} if axis.clock is None else {"date": axis.shown(t)})
            for t, y, e in forecasts
        ]
    return json_text(found)
