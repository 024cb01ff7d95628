"""A diagonal plus a matrix of low rank: each state decays on its own, and a few common modes couple them.

2 n rank + n parameters instead of n^2. To find them for a matrix is a problem with local minima (with a symmetric
matrix: factor analysis): the diagonal is searched by L-BFGS, as the singular values beyond the first `rank` of what
remains are to vanish. Alternating between diagonal and SVD instead takes ten times as many of them.
Costs: an SVD a step, some 20 steps where Xi is of this form and rank < n / 3.
Source: variable projection, Golub & Pereyra (1973), SIAM J. Numer. Anal. 10(2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from .base import TOLERANCE, Parametrization, register

Array = NDArray[Any]
SEARCH = {"maxiter": 200, "maxcor": 30, "ftol": 0.0, "gtol": 1e-13}  # of L-BFGS, entries of Xi being at most 1
MOST_CANCELLATION = 1e3  # entries of d relative to those of Xi: in float32 four digits are left


@register
class LowRank(Parametrization):
    """Xi = diag(d) + U W^T with U and W (n, rank).

    nearest: the best of four searches for the closest in Frobenius' norm. Where rank is near to n / 2 even a matrix
    of this form may not be recognised; one that `nearest` or `initial` gave last always is.

    Raises:
        OptionError: rank is not a positive int.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.LowRank(rank=2)(torch.zeros(3), torch.eye(3)[:, :2], torch.eye(3)[:, :2]).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """

    name = "low_rank"

    def __init__(self, rank: int = 1) -> None:
        super().__init__()
        if not isinstance(rank, int) or rank < 1:
            raise OptionError(f"rank must be a positive int, got {rank!r}")
        self.rank = rank
        self.summary = f"a diagonal matrix plus one of rank {rank}"
        self._last = np.zeros(0)  # diagonal found or drawn last

    @classmethod
    def make(cls, rank: int) -> LowRank:
        return cls(rank)

    def forward(self, d: Tensor, U: Tensor, W: Tensor) -> Tensor:
        return d.diag() + U @ W.mT

    def parts(self, Xi: Tensor) -> tuple[Tensor, ...]:
        n, size = len(Xi), float(Xi.abs().max()) or 1.0
        if self.rank > n:
            raise OptionError(f"rank must be an int between 1 and {n}, the size of Xi, got {self.rank}")
        A, least, d = Xi.numpy() / size, np.inf, np.zeros(n)
        for start in self._starts(A, size):
            found = scipy.optimize.minimize(misfit, start, (A, self.rank), jac=True, method="L-BFGS-B", options=SEARCH)
            if found.fun < least:
                least, d = found.fun, found.x
            if is_exact(d, A, self.rank):
                break
        self._last = d * size
        U, singular, W = np.linalg.svd(A - np.diag(d))
        root = np.sqrt(singular[: self.rank] * size)
        return tuple(map(torch.tensor, (self._last, U[:, : self.rank] * root, W[: self.rank].T * root)))

    def initial(self, n: int) -> Tensor:
        """-I/2 plus a random matrix of that rank: eigenvalues within some 0.35 of -0.5, as for `modest`."""
        U, W = torch.randn(2, n, self.rank, dtype=torch.float64, device="cpu")
        self._last = np.full(n, -0.5)
        return U @ W.mT / (8 * n * self.rank) ** 0.5 - 0.5 * torch.eye(n, device="cpu")

    def _starts(self, A: Array, size: float) -> Iterator[Array]:
        """Diagonals to search from; the last one first where it is that of A and not so large that digits cancel."""
        last = self._last / size
        if len(last) == len(A) and abs(last).max() < MOST_CANCELLATION and is_exact(last, A, self.rank):
            yield last
        rng = np.random.default_rng(0)  # leaves the generators of torch and of the user alone
        yield A.diagonal()
        yield np.zeros(len(A))
        yield from A.diagonal() + rng.normal(0.0, 0.5, (2, len(A)))


def remainder(d: Array, A: Array, rank: int) -> Array:
    """What is left of A - diag(d) without its first singular values."""
    U, singular, W = np.linalg.svd(A - np.diag(d))
    return (U[:, rank:] * singular[rank:]) @ W[rank:]


def misfit(d: Array, A: Array, rank: int) -> tuple[float, Array]:
    """Squared Frobenius norm of the remainder, and its gradient: singular vectors are stationary."""
    rest = remainder(d, A, rank)
    return float((rest**2).sum()), -2 * rest.diagonal()


def is_exact(d: Array, A: Array, rank: int) -> bool:
    return bool(abs(remainder(d, A, rank)).max() <= TOLERANCE)
