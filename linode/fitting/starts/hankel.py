"""Eigenvalues from delayed samples on a uniform grid, by the shift invariance of the subspace that they span.

For one or few channels of more states. A window of a third of the samples gives the least variance from noise.
Source: Roy & Kailath (1989), IEEE Trans. ASSP 37, 984 (ESPRIT); Hua & Sarkar (1990), IEEE Trans. ASSP 38, 814.
"""

from __future__ import annotations

import numpy as np

from ..data import Data
from ..products import Array

MOST_DELAYS = 400  # rows of the matrix: the cost grows as their square and cube; by hand


def delayed(data: Data, n: int, bias: bool) -> Array | None:
    """(n,) eigenvalues, or None where samples are not uniform, some are missing, or they are too few."""
    step = data.step
    if step is None or not (data.w[data.is_time] > 0).all():
        return None
    L = min(int(data.counts.min()) // 3 + 1, max(MOST_DELAYS // data.p, n + 2))
    blocks = []
    for y, count in zip(data.y, data.counts):
        windows = np.lib.stride_tricks.sliding_window_view(y[:count], L, axis=0)  # (count - L + 1, p, L)
        blocks.append(windows.transpose(2, 1, 0).reshape(L * data.p, -1))
    H = np.concatenate(blocks, 1)
    order = n + bias
    if (L - 1) * data.p < order or H.shape[1] < order:
        return None
    U = np.linalg.eigh(H @ H.T)[1][:, ::-1][:, :order]
    A = np.linalg.lstsq(U[: -data.p], U[data.p :], rcond=None)[0]
    mu: Array = np.linalg.eigvals(A)
    if bias:  # the eigenvalue nearest to 1 belongs to the constant
        mu = np.delete(mu, np.argmin(np.abs(mu - 1) + (mu.imag != 0) * 10))
        if not np.isclose(np.sort_complex(mu), np.sort_complex(mu.conj())).all():
            return None
    mu = np.where((mu.imag == 0) & (mu.real <= 0), np.maximum(np.abs(mu), 1e-3), mu)  # a real logarithm
    return np.log(mu.astype(complex)) / step
