"""FitResult: the fitted system with its standard errors, predictions, solver and plots."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..display import as_numpy, checked_names, entries, frame, html_table
from ..errors import OptionError, ShapeError
from ..forcing import Input
from ..forcing.shifted import Shifted
from ..nn import LinearDynamics
from ..ode import LinearODE
from .bands import standard_errors
from .by_states import is_identity
from .data import Data, as_array, hold
from .estimate import Estimate
from .judgement import judge
from .order import RankScore
from .products import Array
from .uncertainty import covariances_by_matrix, covariances_by_rates

LARGEST_STATE = 1e300  # states are clipped to this, so that a sum over them does not overflow
MOST_ROWS = 40  # of a matrix that the summary shows

MOST = float(np.finfo(float).max)
ERRORS = (
    *("covariance", "stderr", "B_stderr", "b_stderr", "C_stderr", "D_stderr", "z0_stderr", "delay_stderr"),
    *("theta_stderr", "eigenvalue_covariance", "eigenvalue_stderr"),
)


class FitResult:
    """A fitted linear system z'(t) = Xi z(t) + b + B u(t), y = C z + D u + offset; truthy if its status is OK.

    Times are those of the data; `z0` is the state at the first time of each trajectory, or at t0.

    Attributes:
        Xi: (n, n). B: (n, m) or None. b: (n,) or None. C: (p, n). D: (p, m) or None. offset: (p,) or None: with bias
            and fewer states than channels, the constant part of y that no state explains.
        z0: (n,), or (K, n) where lists came. delay: of the input, in the unit of t.
        eigenvalues: (n,), complex, the slowest decay first. modes: (p, n), complex; without forcing
            y = Re sum_j modes[:, j] amplitudes[j] exp(eigenvalues[j] (t - first t)). amplitudes: (n,) or (K, n).
        stderr: (n, n), standard errors of Xi; B_stderr, b_stderr, z0_stderr: of B, b and z0, where a change of basis
            leaves z0 open infinite; C_stderr, D_stderr, delay_stderr: of what was fitted together with Xi. None where
            nothing was fitted. Without `standard_errors` all are None. eigenvalue_stderr: (n,),
            complex: those of the real parts + 1j times those of the imaginary parts. eigenvalue_covariance: (n, 2, 2).
        covariance: of Xi, B and b, row by row, one after the other: sigma^2 (J^T J)^-1.
        theta, theta_stderr: parameters of a structure, or None.
        sigma: as given, or the estimate sqrt(cost / dof). cost: sum of squared residuals, over sigma^2 where it was
            given. dof: values less unknowns. chi2: sum of squared residuals over sigma^2.
        t0: time at which z0 holds, (K,) where lists came. names: of the p channels. ranks: of `rank="auto"`, the
            figures of each rank.
        status: a `FitStatus`. converged: bool. message: what happened, in words. starts: each with name, cost, n_steps
            and converged.

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 40)
        >>> z = np.exp(-t) + 1e-3 * np.random.default_rng(0).standard_normal(40)
        >>> result = linode.fit(t, z)

        >>> bool(result), result.Xi.shape, bool(abs(result.Xi + 1.0) < 4 * result.stderr)
        (True, (1, 1), True)
    """

    covariance: Any
    stderr: Any
    B_stderr: Any
    b_stderr: Any
    C_stderr: Any
    D_stderr: Any
    z0_stderr: Any
    delay_stderr: float | None
    theta_stderr: Any
    eigenvalue_covariance: Any
    eigenvalue_stderr: Any

    def __init__(
        self,
        found: Estimate,
        data: Data,
        *,
        sigma: Any,
        is_list: bool,
        like: Any,
        standard_errors: bool = True,
        ranks: tuple[RankScore, ...] = (),
    ) -> None:
        self._found, self._data, self._is_list = found, data, is_list
        self._sigma_is_known, self._has_errors = sigma is not None, standard_errors
        bias, self.ranks = found.unknowns.has_b, ranks
        self.t0 = data.starts if is_list else float(data.starts[0])
        first = like[0] if is_list else like
        self.names = data.channels
        self._like = first if isinstance(first, torch.Tensor) else None
        self._is_flat = getattr(first, "ndim", np.ndim(first) if self._like is None else 2) == 1
        m = found.B.shape[1]
        self.dof = data.n_values - found.n_unknowns
        self.cost = found.cost
        estimated = float(np.sqrt(found.cost / self.dof)) if self.dof > 0 else float("inf")
        self.sigma = estimated if sigma is None else sigma
        self.chi2 = found.cost if sigma is not None else float(max(self.dof, 0))
        scale = 1.0 if sigma is not None else estimated**2
        self.Xi, self.C = self._out(found.Xi), self._out(found.C)
        self.B = self._out(found.B) if m else None
        self.b = self._out(found.b) if bias else None
        self.D = self._out(found.D) if found.D.any() or "D" in found.other_variances else None
        self.delay = found.delay
        self.offset = None if found.offset is None else self._out(found.offset)
        self.z0 = self._out(found.z0 if is_list else found.z0[0])
        lam, V = np.linalg.eig(found.Xi)
        order = np.lexsort((lam.imag, np.abs(lam.imag), -lam.real))
        lam, V = lam[order].astype(complex), V[:, order].astype(complex)
        self.eigenvalues, self.modes = self._out(lam), self._out(found.C @ V)
        amplitudes = np.linalg.lstsq(V, found.z0.T.astype(complex), rcond=None)[0].T
        self.amplitudes = self._out(amplitudes if is_list else amplitudes[0])
        self.theta = self._out(found.theta) if found.theta is not None else None
        for name in ERRORS:
            setattr(self, name, None)
        if standard_errors:
            self._add_errors(lam, scale)
        self.converged, self.starts = found.converged, found.starts
        self.status, self.message = judge(found, data, sigma is not None)

    def _add_errors(self, lam: Array, scale: float) -> None:
        """Set all standard errors; lam: sorted eigenvalues, scale: the variance of noise of weight 1."""
        found, (n, m) = self._found, self._found.B.shape

        def root(variances: Array) -> Array:
            known = np.isfinite(variances) & np.isfinite(scale)
            return np.where(known, np.sqrt(np.maximum(np.where(known, variances, 0.0), 0.0) * min(scale, MOST)), np.inf)

        covariance = found.covariance * scale if np.isfinite(scale) else np.full_like(found.covariance, np.inf)
        errors = root(np.diag(found.covariance))
        self.covariance, self.stderr = self._out(covariance), self._out(errors[: n * n].reshape(n, n))
        self.B_stderr = self._out(errors[n * n : n * n + n * m].reshape(n, m)) if m else None
        self.b_stderr = self._out(errors[n * n + n * m :]) if self.b is not None else None
        others = {name: root(x) for name, x in found.other_variances.items()}
        self.C_stderr = self._out(others["C"].reshape(found.C.shape)) if "C" in others else None
        self.D_stderr = self._out(others["D"].reshape(found.D.shape)) if "D" in others else None
        if "z0" in others:
            self.z0_stderr = self._out(others["z0"] if self._is_list else others["z0"][0])
        self.delay_stderr = float(others["delay"][0]) if "delay" in others else None
        if found.rates is not None:
            factors, rates, rates_covariance = found.rates
            spread = covariances_by_rates(factors, rates, rates_covariance * scale, lam)
        else:
            spread = covariances_by_matrix(found.Xi, lam, covariance[: n * n, : n * n])
        self.eigenvalue_covariance = self._out(spread)
        widths = np.sqrt(np.maximum(np.stack([spread[:, 0, 0], spread[:, 1, 1]], -1), 0.0))
        self.eigenvalue_stderr = self._out(widths.view(complex)[:, 0])  # 1j * inf would be NaN
        if found.theta_variances is not None and found.theta is not None:
            self.theta_stderr = self._out(root(found.theta_variances))

    def __bool__(self) -> bool:
        return bool(self.status)

    def __repr__(self) -> str:
        return f"FitResult({self._found.Xi.shape[0]} states, {self.status.name}, sigma {self._sigma_words()})"

    # ---- use -------------------------------------------------------------------------------------------------------

    def predict(self, t: Any, *, z0: Any = None, u: Any = None) -> Any:
        """Observations y of the fitted system at times t, on the axis of the data, in any order, also beyond them.

        Args:
            t: (T,), or a number. Where the fit had lists, for all trajectories, or a list of one for each.
            z0: (n,), state at the first time of the data, or at t0 of the fit (of the first trajectory), in place of
                the fitted one; then t is (T,).
            u: input in place of that of the fit: samples (T, m), each of which holds from its time in t on, or an
                input. None: that of the fit, whose last sample holds on.

        Returns:
            (T, p), or (T,) where z came as (T,); a list of these where the fit had lists and z0 is None.

        Raises:
            ShapeError, DtypeError, NonFiniteError: an argument that cannot be used, by name.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> result.predict([10.0]).shape, bool(abs(result.predict(4.0) - 0.0625) < 0.01)
            ((1,), True)
        """
        if not self._is_list or z0 is not None:
            return self._predicted(t, 0, z0, u)
        if not isinstance(t, (list, tuple)) or all(np.ndim(x) == 0 for x in t):
            t = [t] * self._data.K
        if len(t) != self._data.K:
            raise ShapeError(
                f"t holds {len(t)} arrays; it must be (T,), or hold one for each of {self._data.K} trajectories"
            )
        us = list(u) if isinstance(u, (list, tuple)) else [u] * len(t)
        if len(us) != len(t):
            raise ShapeError(f"u holds {len(us)} inputs; it must be one, or hold one for each of {len(t)} trajectories")
        return [self._predicted(x, k, None, us[k]) for k, x in enumerate(t)]

    def predict_stderr(self, t: Any, k: int = 0) -> Any:
        """Standard errors of `predict(t)`, of trajectory k: those of the curve, to which an observation adds sigma.

        Args:
            t: (T,), on the axis of the data.

        Returns:
            (T, p), or (T,) where z came as (T,); infinite where there are as many unknowns as values.

        Raises:
            ShapeError, DtypeError, OptionError: an argument that cannot be used, by name.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> bool((result.predict_stderr([1.0, 2.0]) < result.sigma).all())  # less than that of one observation
            True
        """
        times = as_array(t, "t")
        if times.ndim != 1:
            raise ShapeError(f"t has shape {times.shape}; t must be (T,)")
        noise = 1.0 if self._sigma_is_known else float(self.sigma)
        if not np.isfinite(noise):
            errors = np.full((len(times), self._data.p), np.inf)
        else:
            self._input(k)  # checks k
            since = times - float(self._data.starts[k])
            errors = standard_errors(self._found, self._data, k, since, noise)
        return self._out(errors[:, 0] if self._is_flat else errors)

    @property
    def observations(self) -> list[tuple[Array, Array]]:
        """The data of each trajectory: times (T,) as given, and values (T, p), NaN where one is missing.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> times, values = result.observations[0]
            >>> times.shape, values.shape
            ((4,), (4, 1))
        """
        data = self._data
        seen = np.where(data.w > 0, data.y, np.nan)
        return [(data.t[k, :n] + data.starts[k], seen[k, :n]) for k, n in enumerate(data.counts)]

    def ode(self, z0: Any = None, k: int = 0) -> LinearODE:
        """The solver of the fitted system; its t = 0 is the first time of the data (of trajectory k).

        Args:
            z0: (n,) or (*batch, n), state at t = 0; None: the fitted one.

        Raises:
            ShapeError, DtypeError, OptionError: an argument that cannot be used, by name.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> result.ode(z0=[2.0])(0.0).tolist()
            [2.0]
        """
        return self._solver(z0, k, self._input(k))

    def to_module(self) -> LinearDynamics:
        """A `linode.nn.LinearDynamics` that starts from this fit, to be trained further.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> module = result.to_module()
            >>> bool(abs(float(module.Xi.detach()) - result.Xi) < 1e-12)
            True
        """
        n, m = self._found.B.shape
        dtype, device = (torch.float64, "cpu") if self._like is None else (self.Xi.dtype, self.Xi.device)
        module = LinearDynamics(n, m=m, bias=self.b is not None, dtype=dtype, device=device)
        with torch.no_grad():
            module.Xi = torch.from_numpy(self._found.Xi).to(dtype)
            for own, value in ((module.B, self._found.B), (module.b, self._found.b)):
                if own is not None:
                    own.copy_(torch.from_numpy(value))
        return module

    def summary(self) -> str:
        """The result as text: what was fitted, how well, eigenvalues and matrices with their standard errors.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> print(result.summary().splitlines()[0])
            1 states, 1 channels, 1 trajectories, 4 values
        """
        found, data = self._found, self._data
        lam = np.asarray(self.eigenvalues)
        spread = np.asarray(self.eigenvalue_stderr) if self._has_errors else np.full(len(lam), np.nan)
        lines = [
            f"{len(found.Xi)} states, {data.p} channels, {data.K} trajectories, {data.n_values} values",
            *([f"channels {', '.join(data.names)}"] if data.names else []),
            self.message,
            f"sigma {self._sigma_words()}, chi2 {self.chi2:.6g}, {self.dof} degrees of freedom",
            "",
            f"{'eigenvalue':>28}  {'standard error':>24}  {'period':>10}  {'time constant':>13}",
        ]
        for x, e in zip(lam, spread):
            period = f"{2 * np.pi / abs(x.imag):.4g}" if x.imag else "-"
            constant = f"{-1 / x.real:.4g}" if x.real else "inf"
            lines.append(
                f"{x.real:>13.6g} {x.imag:>+13.6g}i  {e.real:>11.3g} {e.imag:>+11.3g}i  {period:>10}  {constant:>13}"
            )
        if self.ranks:
            lines += ["", f"{'rank':>6}  {'singular value':>14}  {'held-out error':>14}"]
            lines += [f"{x.rank:>6}  {x.singular_value:>14.3g}  {x.held_out_error:>14.4g}" for x in self.ranks]
        if self.delay:
            error = "" if self.delay_stderr is None else f" ({self.delay_stderr:.2g})"
            lines += ["", f"delay {self.delay:.6g}{error}"]
        for name in ("theta", "Xi", "B", "b", "C", "D", "z0"):
            value, errors = getattr(self, name), getattr(self, "stderr" if name == "Xi" else f"{name}_stderr")
            if value is None or (name in ("C", "theta") and errors is None):
                continue
            lines += ["", f"{name} (standard error)" if errors is not None else name]
            value = np.asarray(value)
            if errors is None:
                lines += ["  ".join(f"{x:>12.5g}" for x in row) for row in np.atleast_2d(value)[:MOST_ROWS]]
            else:
                rows = zip(np.atleast_2d(value)[:MOST_ROWS], np.atleast_2d(np.asarray(errors)))
                lines += ["  ".join(f"{x:>12.5g} ({e:.2g})" for x, e in zip(*row)) for row in rows]
                lines += ["..."] * (value.ndim == 2 and len(value) > MOST_ROWS)
        return "\n".join(lines)

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Data and fit; see `linode.plotting.plot_fit`. Needs matplotlib. Channels have the names of the data."""
        labels = list(self._data.names) or None
        return importlib.import_module("linode.plotting").plot_fit(self, ax=ax, **{"labels": labels} | options)

    def plot_eigenvalues(self, ax: Any = None, **options: Any) -> Any:
        """Eigenvalues with 95 % ellipses; see `linode.plotting.plot_eigenvalues`. Needs matplotlib."""
        return importlib.import_module("linode.plotting").plot_eigenvalues(self, ax=ax, **options)

    def to_dataframe(self, names: Sequence[str] | None = None) -> Any:
        """Data and fit as a pandas DataFrame: for each channel a column, and one with " fit" after its name.

        Its index are the times, below a level "trajectory" where the fit had lists. NaN is a missing value.

        Args:
            names: of the p channels; None: `names`, those of the data, else y1, y2, ...

        Raises:
            ImportError: pandas is not installed. OptionError: names are too few or too many.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> list(result.to_dataframe(["level"]).columns)  # doctest: +SKIP
            ['level', 'level fit']
        """
        seen = self.observations
        fits = [as_numpy(self._predicted(t, k, None, None)).reshape(len(t), -1) for k, (t, _) in enumerate(seen)]
        z, y = np.concatenate([values for _, values in seen]), np.concatenate(fits)
        channels = checked_names(self.names if names is None else names, z.shape[1], "y")
        columns: dict[str, Array] = {}
        for j, name in enumerate(channels):
            columns |= {name: z[:, j], f"{name} fit": y[:, j]}
        levels = {"trajectory": np.repeat(np.arange(len(seen)), [len(t) for t, _ in seen])} if self._is_list else {}
        return frame(np.concatenate([t for t, _ in seen]), columns, levels)

    def parameters(self) -> Any:
        """Everything that was fitted as a pandas DataFrame: a row for each entry, with its "value" and "stderr".

        Rows are called as in Python, such as "Xi[0, 1]" or "z0[0]". An error is NaN where there is none, infinite where
        the data, or the basis of the states, leave the value open.

        Raises:
            ImportError: pandas is not installed.

        Example:
            >>> import linode
            >>> result = linode.fit([0.0, 1.0, 2.0, 3.0], [0.99, 0.51, 0.25, 0.12])  # halved in each unit of time
            >>> list(result.parameters().index)  # doctest: +SKIP
            ['Xi[0, 0]', 'C[0, 0]', 'z0[0]']
        """
        parts = {}
        for name in ("theta", "Xi", "B", "b", "C", "D", "offset", "z0", "delay"):
            value, errors = getattr(self, name), getattr(self, "stderr" if name == "Xi" else f"{name}_stderr", None)
            if value is not None and (name != "delay" or value or errors is not None):
                parts[name] = (as_numpy(value), None if errors is None else as_numpy(errors))
        return entries(parts)

    def _repr_html_(self) -> str:
        n, data = len(self._found.Xi), self._data
        lam, spread = np.asarray(self.eigenvalues), self.eigenvalue_stderr
        errors = np.full(len(lam), np.nan) if spread is None else np.asarray(spread)
        rows = [
            ("status", self.status),
            ("message", self.message),
            ("fitted", f"{n} states, {data.p} channels, {data.K} trajectories, {data.n_values} values"),
            *([("channels", ", ".join(data.names))] if data.names else []),
            ("sigma", self._sigma_words()),
            *(
                (f"eigenvalue {i}", f"{x.real:.5g} ± {e.real:.2g} {x.imag:+.5g}i ± {e.imag:.2g}")
                for i, (x, e) in enumerate(zip(lam, errors))
            ),
        ]
        return html_table("Fit of a linear ODE", rows)

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _out(self, x: Array) -> Any:
        """x as an array or a tensor, as the data came."""
        if self._like is None:
            return x
        dtype = torch.float32 if self._like.dtype == torch.float32 else torch.float64
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(self._like.device)
        return tensor.to(torch.promote_types(dtype, torch.complex64) if tensor.is_complex() else dtype)

    def _predicted(self, t: Any, k: int, z0: Any, u: Any) -> Any:
        times = as_array(t, "t")
        if times.ndim > 1:
            raise ShapeError(f"t has shape {times.shape}; t must be (T,)")
        start = float(self._data.starts[k])
        if u is None:
            given = self._input(k)
        elif isinstance(u, Input):
            if u.m != self._found.B.shape[1]:
                raise ShapeError(f"u has {u.m} channels, but the fit had {self._found.B.shape[1]}")
            given = Shifted(u, start - self.delay)
        else:
            values = as_array(u, "u")
            values = values[:, None] if values.ndim == 1 else values
            if values.ndim != 2 or values.shape != (times.size, self._found.B.shape[1]):
                raise ShapeError(
                    f"u has shape {values.shape}; u must be (T, m) = {(times.size, self._found.B.shape[1])}"
                )
            given = hold(np.atleast_1d(times) - start + self.delay, values)
        z = self._solver(z0, k, given)(times - start)
        z = z.numpy(force=True) if isinstance(z, torch.Tensor) else z
        y = observed_states(self._found.C, z) + (0.0 if self._found.offset is None else self._found.offset)
        if given is not None and self._found.D.any():
            y = y + as_array(given(times - start), "u(t)") @ self._found.D.T
        return self._out(y[..., 0] if self._is_flat else y)

    def _solver(self, z0: Any, k: int, u: Input | None) -> LinearODE:
        found = self._found
        start = found.z0[k] if z0 is None else as_array(z0, "z0")
        B = found.B if u is not None and found.B.shape[1] else None
        ode = LinearODE(found.Xi, start, b=found.b if self.b is not None else None, B=B, u=u)
        if is_identity(found.C):  # the channels are the states
            ode.state_names = self._data.names
        return ode

    def _input(self, k: int) -> Input | None:
        """The input of trajectory k in the fit, whose time 0 is the first time of the trajectory."""
        if not (isinstance(k, (int, np.integer)) and 0 <= k < self._data.K):
            raise OptionError(f"k must be of 0 to {self._data.K - 1}, a trajectory, got {k!r}")
        return self._data.input_of(k, self.delay)

    def _sigma_words(self) -> str:
        return f"{self.sigma:.4g}" if np.ndim(self.sigma) == 0 else "as given"


def observed_states(C: Array, z: Array) -> Array:
    """z C^T; infinite where it uses a state that is, with the sign of the sum of the clipped states."""
    if np.isfinite(z).all():
        return z @ C.T
    limited = np.clip(z, -LARGEST_STATE, LARGEST_STATE) @ C.T
    grown = (~np.isfinite(z)).astype(float) @ np.abs(C).T > 0
    return np.where(grown, np.copysign(np.inf, limited), limited)
