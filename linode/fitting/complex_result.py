"""The result of a fit of complex data: that of the real fit, in complex numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..display import numbered
from ..errors import OptionError
from ..ode import LinearODE
from .by_states import is_identity
from .complexes import as_complex, joined
from .products import Array
from .result import FitResult


class ComplexFitResult(FitResult):
    """A `FitResult` of complex data: Xi, B, b, C, z0 and predictions are complex.

    Standard errors are those of real parts + 1j times those of imaginary parts, `covariance` that of
    [[Re Xi, -Im Xi], [Im Xi, Re Xi]] and so on, and `sigma` is the noise of each part. Pictures show both parts.
    """

    def __init__(self, real: FitResult, like: Any, names: tuple[str, ...]) -> None:
        self.__dict__.update(real.__dict__)
        self._real, self._one, self._labels = real, np.ndim(like) == 1, names
        self.names = list(names) or numbered("y", real._data.p // 2)
        self._tensor = like if isinstance(like, torch.Tensor) else None
        found, K, n = real._found, real._data.K, len(real._found.Xi) // 2
        Xi, C = joined(found.Xi)[:, :n], joined(found.C)[:, :n]
        z0 = found.z0[:, :n] + 1j * found.z0[:, n:]
        self.Xi, self.C = Xi, C
        self.B = joined(found.B) if self.B is not None else None
        self.b = joined(found.b) if self.b is not None else None
        self.D = joined(found.D) if self.D is not None else None
        self._theta_is_complex = found.unknowns.structure.has_complex_theta
        self.theta = joined(found.theta) if found.theta is not None and self._theta_is_complex else found.theta
        self.offset = None if found.offset is None else joined(found.offset)
        self.z0 = z0 if real._is_list else z0[0]
        lam, V = np.linalg.eig(Xi)
        order = np.lexsort((lam.imag, np.abs(lam.imag), -lam.real))
        self.eigenvalues, V = lam[order], V[:, order]
        self.modes = C @ V
        amplitudes = np.linalg.lstsq(V, z0.T, rcond=None)[0].T
        self.amplitudes = amplitudes if K > 1 or real._is_list else amplitudes[0]
        if real.covariance is not None:
            self._join_errors(V)
        for name, value in list(self.__dict__.items()):
            if not name.startswith("_") and name not in ("t0", "covariance") and isinstance(value, np.ndarray):
                setattr(self, name, self._shown(value))

    def _join_errors(self, V: Array) -> None:
        """Set standard errors of complex entries; V: eigenvectors of Xi."""
        real, n = self._real, len(V)
        self.stderr = joined(real.stderr)[:, :n]
        self.B_stderr = joined(real.B_stderr) if self.B is not None else None
        self.b_stderr = joined(real.b_stderr) if self.b is not None else None
        self.C_stderr = None if real.C_stderr is None else joined(real.C_stderr)[:, :n]
        self.D_stderr = None if real.D_stderr is None else joined(real.D_stderr)
        if real.theta_stderr is not None and self._theta_is_complex:
            self.theta_stderr = joined(real.theta_stderr)
        if real.z0_stderr is not None:
            self.z0_stderr = np.moveaxis(joined(np.moveaxis(real.z0_stderr, -1, 0)), 0, -1)
        self.eigenvalue_covariance = spread = eigenvalue_covariances(self.eigenvalues, V, real.covariance, n)
        widths = np.sqrt(np.maximum(np.stack([spread[:, 0, 0], spread[:, 1, 1]], -1), 0.0))
        self.eigenvalue_stderr = widths.view(complex)[:, 0]

    def _shown(self, x: Array) -> Any:
        """x as an array or a tensor, as the data came."""
        if self._tensor is None:
            return x
        tensor = torch.from_numpy(np.ascontiguousarray(x)).to(self._tensor.device)
        dtype = self._tensor.dtype
        return tensor.to(dtype if tensor.is_complex() else torch.empty(0, dtype=dtype, device="cpu").real.dtype)

    def _complex(self, y: Any) -> Any:
        if isinstance(y, list):
            return [self._complex(x) for x in y]
        p = y.shape[-1] // 2
        found = y[..., :p] + 1j * y[..., p:]
        return self._shown(found[..., 0] if self._one else found)

    def _predicted(self, t: Any, k: int, z0: Any, u: Any) -> Any:
        return self._complex(self._real._predicted(t, k, z0, u))

    def predict(self, t: Any, *, z0: Any = None, u: Any = None) -> Any:
        start = None if z0 is None else as_complex(z0)
        start = None if start is None else np.concatenate([start.real, start.imag])
        return self._complex(self._real.predict(t, z0=start, u=u))

    def predict_stderr(self, t: Any, k: int = 0) -> Any:
        return self._complex(self._real.predict_stderr(t, k))

    @property
    def observations(self) -> list[tuple[Array, Array]]:
        p = self._data.p // 2
        return [(t, y[:, :p] + 1j * y[:, p:]) for t, y in self._real.observations]

    def _solver(self, z0: Any, k: int, u: Any) -> Any:
        own = self._found.z0[k]
        start = own[: len(self.Xi)] + 1j * own[len(self.Xi) :] if z0 is None else as_complex(z0)
        Xi, b, B = (None if x is None else as_complex(x) for x in (self.Xi, self.b, self.B))
        ode = LinearODE(Xi, start, b=b, B=B if u is not None else None, u=u)
        if is_identity(self._found.C):  # the channels are the states
            ode.state_names = self._labels
        return ode

    def summary(self) -> str:
        data, found = self._data, super().summary().split("\n")
        first = f"{len(self.Xi)} complex states, {data.p // 2} complex channels, {data.K} trajectories, "
        names = [f"channels {', '.join(self._labels)}"] if self._labels else []
        return "\n".join([f"{first}{data.n_values // 2} complex values", *names, *found[1 + len(names) :]])

    def to_module(self) -> Any:
        raise OptionError("to_module makes layers of real systems, and this one is complex: use ode()")

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Real and imaginary parts; see `linode.plotting.plot_fit`. Needs matplotlib."""
        names = options.pop("labels", None) or self.names
        return self._real.plot(ax, labels=[f"{part} {name}" for part in ("Re", "Im") for name in names], **options)


def eigenvalue_covariances(lam: Array, V: Array, covariance: Array, n: int) -> Array:
    """(n, 2, 2) of (Re, Im), to first order; infinite where the covariance is, or Xi has no eigenbasis."""
    index = np.arange(4 * n * n).reshape(2 * n, 2 * n)
    own = np.concatenate([index[:n, :n].ravel(), index[n:, :n].ravel()])  # real parts, then imaginary parts
    try:
        W = np.linalg.inv(V)
    except np.linalg.LinAlgError:
        return np.full((n, 2, 2), np.inf)
    cov = covariance[np.ix_(own, own)]
    if not np.isfinite(cov).all():
        return np.full((n, 2, 2), np.inf)
    slopes = (W[:, :, None] * V.T[:, None, :]).reshape(n, -1)
    parts = np.stack([np.c_[slopes.real, -slopes.imag], np.c_[slopes.imag, slopes.real]], 1)  # (n, 2, 2 n^2)
    found: Array = parts @ cov @ parts.swapaxes(1, 2)
    return found
