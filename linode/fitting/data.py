"""The validated data: trajectories with times, observations, weights and inputs of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..display import checked_names, columns_of, numbered
from ..errors import DtypeError, NonFiniteError, OptionError, OrderError, ShapeError
from ..forcing import Input, ZeroOrderHold
from ..forcing.shifted import Shifted
from .products import Array, matmul

SAME = 1e-9  # of the shortest gap: times nearer to each other are equal but for rounding
UNIFORM = 1e-6  # relative differences of steps below this are taken as rounding of the times, as in float32


@dataclass(frozen=True)
class Data:
    """K trajectories, padded to T times by repeating the last one with weight 0.

    t (K, T), since the time at which z0 holds; y (K, T, p) and weights w (K, T, p), both zero where a value is missing;
    u (K, T, m), held from each time on, or None; counts (K,), times without padding; starts (K,), the times of z0 on
    the user's axis; inputs, one for each trajectory, or none; names of channels and of inputs, where they have any.
    """

    t: Array
    y: Array
    w: Array
    u: Array | None
    counts: Array
    starts: Array
    inputs: tuple[Input, ...] = ()
    names: tuple[str, ...] = ()
    input_names: tuple[str, ...] = ()

    @property
    def channels(self) -> list[str]:
        """What the channels are called."""
        return list(self.names) or numbered("y", self.p)

    @property
    def K(self) -> int:
        return self.t.shape[0]

    @property
    def p(self) -> int:
        return self.y.shape[2]

    @property
    def m(self) -> int:
        return self.u.shape[2] if self.u is not None else self.inputs[0].m if self.inputs else 0

    @property
    def n_values(self) -> int:
        return int(np.count_nonzero(self.w))

    @property
    def span(self) -> float:
        """Duration of the longest trajectory."""
        return float(self.t.max()) or 1.0

    @cached_property
    def u_between(self) -> Array | None:
        """Input between each time and the next, (K, T - 1, m): held samples, or the mean of an input at both ends."""
        if self.inputs:
            times = self.t + self.starts[:, None]
            values = np.stack([as_array(u(t), "u(t)") for u, t in zip(self.inputs, times)])
            return (values[:, 1:] + values[:, :-1]) / 2
        return None if self.u is None else self.u[:, :-1]

    @cached_property
    def is_whole(self) -> bool:
        """Whether all weights are 1."""
        return bool((self.w == 1).all())

    @property
    def is_time(self) -> Array:
        """(K, T): whether a time is no padding."""
        return np.arange(self.t.shape[1]) < self.counts[:, None]

    @property
    def shortest_gap(self) -> float:
        h = np.diff(self.t, axis=1)
        return float(h[h > 0].min(initial=np.inf))

    @property
    def gap_ratio(self) -> float:
        """Ratio of long gaps (90 % quantile) to short ones (10 %); some 20 for random times."""
        h = np.diff(self.t, axis=1)
        short, long = np.quantile(h[h > 0], (0.1, 0.9))
        return float(long / short)

    @property
    def step(self) -> float | None:
        """The step of a uniform grid; None where times are irregular."""
        h = np.diff(self.t, axis=1)[self.is_time[:, 1:]]
        if not len(h):
            return None
        mean = float(np.median(h))
        return mean if (np.abs(h - mean) <= UNIFORM * mean).all() else None

    def input_of(self, k: int, delay: float = 0.0) -> Input | None:
        """The input of trajectory k, delayed; its time 0 is that of z0."""
        if self.inputs:
            return Shifted(self.inputs[k], float(self.starts[k]) - delay)
        count = self.counts[k]
        return None if self.u is None else hold(self.t[k, :count] + delay, self.u[k, :count])

    def inputs_at(self, delay: float = 0.0) -> Array:
        """u(t - delay) at all times, (K, T, m); of held samples the first one holds before its time too."""
        if self.u is not None and delay == 0:
            return self.u
        found = np.zeros((*self.t.shape, self.m))
        for k in range(self.K):
            if self.inputs:
                found[k] = as_array(self.inputs[k](self.t[k] + self.starts[k] - delay), "u(t)")
            elif self.u is not None:
                found[k] = self.u[k, self._held(k, self.t[k] - delay)]
        return found

    def _held(self, k: int, times: Array) -> Array:
        """Indices of the samples that are held at times (*,); a time counts as reached SAME gaps before it."""
        reached = np.searchsorted(self.t[k, : self.counts[k]], times + SAME * self.shortest_gap, side="right")
        return np.maximum(reached - 1, 0)

    def timeline(self, delay: float) -> tuple[Array, Array, Array | None]:
        """Times (K, G) of all observations and changes of the held input since z0, u (K, G, m), and where t is in it.

        The last is (K, T), or None where the times are those of the observations.
        """
        assert self.u is not None  # inputs have pieces of their own
        if delay == 0 and not self.t[:, 0].any():
            return self.t, self.u, None
        grids = []
        for k in range(self.K):
            changes = self.t[k, : self.counts[k]] + delay
            near = self.t[k, np.minimum(np.searchsorted(self.t[k], changes), self.t.shape[1] - 1)]
            changes = np.where(np.abs(near - changes) <= SAME * self.shortest_gap, near, changes)
            grids.append(np.unique(np.r_[0.0, self.t[k], changes[changes < self.t[k, -1]]]))
        length = max(map(len, grids))
        times = np.stack([np.pad(x, (0, length - len(x)), mode="edge") for x in grids])
        u = np.stack([self.u[k, self._held(k, x - delay)] for k, x in enumerate(times)])
        return times, u, np.stack([np.searchsorted(x, t) for x, t in zip(grids, self.t)])

    def segments(self, length: int) -> Data:
        """The data cut into trajectories of at most `length` times, each with its own initial state."""
        parts = [
            (k, i, min(i + length, int(self.counts[k])))
            for k in range(self.K)
            for i in range(0, int(self.counts[k]), length)
        ]
        parts = [part for part in parts if part[2] - part[1] >= 2]
        width = max(stop - start for _, start, stop in parts)
        index = np.stack([np.minimum(np.arange(start, start + width), stop - 1) for _, start, stop in parts])
        k, counts = np.array([part[0] for part in parts]), np.array([stop - start for _, start, stop in parts])
        row = k[:, None]
        inside = (np.arange(width) < counts[:, None])[..., None]
        t = self.t[row, index]
        y, w = self.y[row, index] * inside, self.w[row, index] * inside
        u = None if self.u is None else self.u[row, index]
        return Data(t - t[:, :1], y, w, u, counts, self.starts[k] + t[:, 0])

    def mapped(self, G: Array) -> Data:
        """Observations G y, G (q, p), with weight 1 at times where all channels have values, and 0 at others."""
        seen = (self.w > 0).all(-1, keepdims=True)
        y = np.where(seen, matmul(self.y, G.T), 0.0)
        return Data(
            self.t, y, np.broadcast_to(seen, y.shape).astype(float), self.u, self.counts, self.starts, self.inputs
        )


def make_data(
    t: Any, z: Any, u: Any, sigma: Any, t0: Any = None, names: Sequence[str] | None = None
) -> tuple[Data, bool]:
    """Checked data, and whether several trajectories came as lists; t0: when z0 holds, None: at the first times.

    names: of the channels; None: those of the columns of z.

    Raises:
        ShapeError, DtypeError, NonFiniteError, OrderError, OptionError: an argument that cannot be used, by name.
    """
    t, z, u = stacked_as_lists(t, z, u)
    is_list = is_several(t, z)
    ts, zs = (list(x) if is_list else [x] for x in (t, z))
    if len(ts) != len(zs) or not ts:
        raise ShapeError(f"t holds {len(ts)} trajectories, z holds {len(zs)}; they must be as many, at least one")
    words = [(f"t[{k}]", f"z[{k}]", f"u[{k}]") if is_list else ("t", "z", "u") for k in range(len(ts))]
    ts = [make_times(x, word[0]) for x, word in zip(ts, words)]
    for x, time, word in zip(zs, ts, words):
        check_columns(x, time, word[1])
    labels = columns_of(zs[0])
    zs = [make_observations(x, len(time), word[1]) for x, time, word in zip(zs, ts, words)]
    p = zs[0].shape[1]
    labels = labels if names is None else tuple(checked_names(names, p, "y"))
    for x, word in zip(zs, words):
        if x.shape[1] != p:
            raise ShapeError(f"{word[1]} has {x.shape[1]} channels, but {words[0][1]} has {p}")
    empty = np.all([np.isnan(x).all(0) for x in zs], axis=0)
    if empty.any():
        j = int(np.argmax(empty))
        which = f"{j} ({labels[j]})" if labels else str(j)
        raise NonFiniteError(f"channel {which} of z holds nothing but NaN; leave it out")
    for x, word in zip(zs, words):
        if np.isnan(x).all():
            raise NonFiniteError(f"{word[1]} holds nothing but NaN; leave it out")
    weights = make_weights(sigma, zs, is_list)
    held, inputs = make_inputs(u, ts, words, is_list)
    drives = columns_of(u[0] if isinstance(u, (list, tuple)) and u else u)
    counts, T = np.array([len(x) for x in ts]), max(len(x) for x in ts)

    def padded(xs: Sequence[Array], mode: str) -> Array:
        rows = [np.pad(x, [(0, T - len(x))] + [(0, 0)] * (x.ndim - 1), mode=mode) for x in xs]  # type: ignore[call-overload]
        return np.stack(rows)

    starts = make_origins(t0, ts)
    y, w = padded([np.nan_to_num(x) for x in zs], "constant"), padded(weights, "constant")
    times = padded([x - start for x, start in zip(ts, starts)], "edge")
    u_held = None if held is None else padded(held, "edge")
    return Data(times, y, w, u_held, counts, starts, inputs, labels, drives), is_list


def stacked_as_lists(t: Any, z: Any, u: Any) -> tuple[Any, Any, Any]:
    """Lists of trajectories where these came as one array (K, T, p), with times (T,) or (K, T)."""
    if getattr(z, "ndim", 0) == 3:
        times = t if getattr(t, "ndim", np.ndim(t)) == 2 else [t] * len(z)
        return list(times), list(z), list(u) if getattr(u, "ndim", 0) == 3 else u
    if isinstance(z, (list, tuple)) and z and not holds_arrays(t) and np.ndim(t) == 1:
        # rows of one trajectory have p values each, trajectories with the same times have T
        is_whole = all(getattr(x, "ndim", 0) in (1, 2) and len(x) == len(t) for x in z)
        if is_whole and (len(z) != len(t) or z[0].ndim == 2):
            return [t] * len(z), z, u
    return t, z, u


def holds_arrays(t: Any) -> bool:
    """Whether t is a list of times of several trajectories."""
    return (
        isinstance(t, (list, tuple))
        and len(t) > 0
        and all(getattr(x, "ndim", None) == 1 or (isinstance(x, (list, tuple)) and not hasattr(x, "ndim")) for x in t)
    )


def is_several(t: Any, z: Any) -> bool:
    """Whether t and z are lists of trajectories."""
    return isinstance(z, (list, tuple)) and holds_arrays(t)


def make_origins(t0: Any, ts: list[Array]) -> Array:
    """(K,), the times at which z0 holds: t0, one number or one for each trajectory, or the first times."""
    first = np.array([x[0] for x in ts])
    if t0 is None:
        return first
    origins = as_array(t0, "t0")
    if origins.shape not in ((), first.shape):
        raise ShapeError(
            f"t0 has shape {origins.shape}; t0 must be a number, or one for each of {len(ts)} trajectories"
        )
    if not np.isfinite(origins).all():
        raise NonFiniteError(f"t0 must be finite, got {t0!r}")
    origins = np.broadcast_to(origins, first.shape)
    if (origins > first).any():
        k = int(np.argmax(origins > first))
        raise OrderError(f"t0 = {origins[k]:.17g} comes after the first time {first[k]:.17g} of trajectory {k}")
    return origins.copy()


def as_array(x: Any, name: str) -> Array:
    """A real float64 array of a tensor, an array, nested lists, or a pandas Series or DataFrame."""
    if is_date(getattr(x, "dtype", None)):
        raise DtypeError(f"{name} holds dates; make them numbers: ({name} - {name}[0]) / np.timedelta64(1, 'D')")
    for column, kind in zip(x.columns, x.dtypes) if hasattr(x, "columns") and hasattr(x, "dtypes") else ():
        if is_date(kind):
            raise DtypeError(f"column {str(column)!r} of {name} holds dates: leave it out, as times stand in t")
    if isinstance(x, torch.Tensor):
        if x.layout != torch.strided:
            raise DtypeError(f"{name} must be a dense tensor, got layout {x.layout}")
        x = x.detach().cpu()
        x = (x.double() if x.is_floating_point() else x).numpy()
    elif isinstance(x, np.ma.MaskedArray):
        x = np.ma.filled(x.astype(float), np.nan)
    elif hasattr(x, "to_numpy") and np.asarray(x).dtype.kind != "c":
        try:
            x = x.to_numpy(dtype=float, na_value=np.nan)
        except (TypeError, ValueError):
            x = x.to_numpy()
    try:
        array = np.asarray(x)
        if array.dtype.kind == "O":  # None for what is missing
            array = array.astype(float)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DtypeError(f"{name} is no array of numbers: {error}") from None
    if array.dtype.kind == "c":
        raise DtypeError(
            f"{name} is complex; pass real and imaginary parts as channels: np.c_[{name}.real, {name}.imag]"
        )
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"{name} must hold real numbers, got {type(x).__name__} of {array.dtype}")
    return array.astype(np.float64)


def is_date(dtype: Any) -> bool:
    """Whether it is that of dates, durations or periods, of NumPy or pandas."""
    return getattr(dtype, "kind", "") in ("M", "m") or str(dtype).startswith("period[")


def make_times(t: Any, name: str) -> Array:
    times = as_array(t, name)
    if times.ndim != 1:
        raise ShapeError(f"{name} has shape {times.shape}; {name} must be (T,), or a list of such arrays")
    if len(times) < 2:
        raise ShapeError(f"{name} holds {len(times)} time{'s' * (len(times) != 1)}; a fit needs at least 2")
    if not np.isfinite(times).all():
        i = int(np.argmin(np.isfinite(times)))
        raise NonFiniteError(f"{name} must be finite, but {name}[{i}] is {times[i]}")
    back = np.diff(times) < 0
    if back.any():
        i = int(np.argmax(back)) + 1
        raise OrderError(
            f"{name} must not decrease, but {name}[{i}] = {times[i]:.17g} comes after {times[i - 1]:.17g}; "
            f"sort t, z and u by np.argsort(t, kind='stable')"
        )
    if times[-1] == times[0]:
        raise ShapeError(f"all {len(times)} times of {name} are {times[0]:.17g}; a fit needs at least 2 different ones")
    return times


def check_columns(z: Any, times: Array, name: str) -> None:
    """Raise where a column of a DataFrame numbers its rows or repeats its times: it is no observation."""
    for column in list(getattr(z, "columns", [])):
        text = str(column)
        values = np.asarray(z[column])
        if values.shape != times.shape or values.dtype.kind not in "iuf":
            continue
        is_number = (values == values[0] + np.arange(len(values))).all()
        is_index = is_number and (text.lower() in ("", "index", "level_0") or text.startswith("Unnamed:"))
        if is_index or (values == times).all():
            what = "numbers the rows" if is_index else "is the times"
            raise OptionError(f"column {text!r} of {name} {what}; leave it out: {name}.drop(columns=[{column!r}])")


def make_observations(z: Any, T: int, name: str) -> Array:
    y = as_array(z, name)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[0] != T:
        hint = "; time comes first" if y.ndim == 2 and y.shape[1] == T else ""
        raise ShapeError(f"{name} has shape {y.shape}; {name} must be (T, p) with T = {T}, the number of times{hint}")
    if y.shape[1] == 0:
        raise ShapeError(f"{name} has no channels")
    if np.isinf(y).any():
        i, j = np.argwhere(np.isinf(y))[0]
        raise NonFiniteError(f"{name} must be finite, or NaN where nothing was seen, but {name}[{i}, {j}] is infinite")
    return y


def make_weights(sigma: Any, zs: list[Array], is_list: bool) -> list[Array]:
    """1 / sigma, and 0 where a value is missing; sigma is a number, (p,), or of the shape of z."""
    if sigma is None:
        return [np.where(np.isnan(x), 0.0, 1.0) for x in zs]
    if getattr(sigma, "ndim", 0) == 3:
        sigma = list(sigma)
    several = is_list and isinstance(sigma, (list, tuple)) and any(np.ndim(x) > 0 for x in sigma)
    sigmas = list(sigma) if several else [sigma] * len(zs)
    if len(sigmas) != len(zs):
        raise ShapeError(f"sigma holds {len(sigmas)} trajectories, but z holds {len(zs)}")
    weights = []
    for s, x in zip(sigmas, zs):
        size = as_array(s, "sigma")
        if size.ndim == 1 and size.shape == x.shape[:1] and x.shape[1] != len(size):
            size = size[:, None]  # one number for each time
        try:
            size = np.broadcast_to(size, x.shape)
        except ValueError:
            raise ShapeError(
                f"sigma has shape {size.shape}; sigma must be a number, (p,) or {x.shape}, as z is"
            ) from None
        if not (np.isfinite(size) & (size > 0))[~np.isnan(x)].all():
            raise OptionError("sigma must be positive and finite")
        weights.append(np.where(np.isnan(x), 0.0, 1 / np.where(np.isnan(x), 1.0, size)))
    return weights


def make_inputs(
    u: Any, ts: list[Array], names: list[tuple[str, str, str]], is_list: bool
) -> tuple[list[Array] | None, tuple[Input, ...]]:
    """Samples held from each time on, or None; and input objects, or none."""
    if u is None:
        return None, ()
    if isinstance(u, Input) or (is_list and isinstance(u, (list, tuple)) and any(isinstance(x, Input) for x in u)):
        inputs = tuple(u) if isinstance(u, (list, tuple)) else (u,) * len(ts)
        if len(inputs) != len(ts) or not all(isinstance(x, Input) for x in inputs):
            raise ShapeError(f"u holds {len(inputs)} inputs; it must hold one for each of {len(ts)} trajectories")
        for x in inputs:
            if x.batch or x.m != inputs[0].m:
                raise ShapeError("inputs of a fit have no batch dimensions, and all have as many channels")
        return None, inputs
    if callable(u):
        raise DtypeError("u is a function; wrap it as linode.Smooth(u, m)")
    us = list(u) if is_list and isinstance(u, (list, tuple)) and len(u) == len(ts) else [u] * len(ts)
    if is_list and isinstance(u, (list, tuple)) and len(u) != len(ts) and np.ndim(u[0]) > 0:
        raise ShapeError(f"u holds {len(u)} trajectories, but t holds {len(ts)}")
    held = []
    for x, times, name in zip(us, ts, names):
        values = as_array(x, name[2])
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != len(times):
            raise ShapeError(f"{name[2]} has shape {values.shape}; {name[2]} must be (T, m) with T = {len(times)}")
        if not np.isfinite(values).all():
            i, j = np.argwhere(~np.isfinite(values))[0]
            raise NonFiniteError(f"{name[2]} must be finite, but {name[2]}[{i}, {j}] is {values[i, j]}")
        held.append(values)
    if len({x.shape[1] for x in held}) > 1:
        raise ShapeError("u must have as many channels in every trajectory")
    return held, ()


def hold(times: Array, values: Array) -> ZeroOrderHold:
    """The input that holds each sample until the next time; where times repeat, the last sample counts."""
    last = np.append(np.diff(times) > 0, True)
    return ZeroOrderHold(times[last], values[last])
