"""The sets that Xi may be kept in, by name; their mathematics stands in `linode.matrices`."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import matrices
from ..errors import OptionError
from .base import Parametrization, register

SMALLEST = 1e-10  # of the largest entry of Xi: a flow of 0, which has no logarithm, becomes this


@register
class Free(Parametrization):
    """Every matrix: the parameter is Xi.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.Free().nearest(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).tolist()
        [[0.0, 1.0], [2.0, 0.0]]
    """

    name = "free"
    summary = "a finite matrix"

    def forward(self, Xi: Tensor) -> Tensor:
        return Xi

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return (Xi.clone(),)  # torch lets a parameter share the memory of what it is assigned


@register
class Skew(Parametrization):
    """Xi = -Xi^T: conserves z^T z; eigenvalues are imaginary. nearest: the skew part, closest in Frobenius' norm.

    The parameter is (n, n); what is on and above its diagonal has no effect.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.Skew().nearest(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """

    name = "skew"
    summary = "skew-symmetric (Xi = -Xi^T)"

    def forward(self, lower: Tensor) -> Tensor:
        return matrices.skew(lower)

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return (matrices.skew_part(Xi).tril(-1),)


@register
class Symmetric(Parametrization):
    """Xi = Xi^T: real eigenvalues, orthogonal modes. nearest: the symmetric part, closest in Frobenius' norm.

    The parameter is (n, n); what is above its diagonal has no effect.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.Symmetric().nearest(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    name = "symmetric"
    summary = "symmetric (Xi = Xi^T)"

    def forward(self, lower: Tensor) -> Tensor:
        return matrices.symmetric(lower)

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return (matrices.symmetric_part(Xi).tril(),)


@register
class Stable(Parametrization):
    """Every eigenvalue of Xi has a negative real part: all solutions decay.

    Xi = (J - R) P with J skew-symmetric, R and P positive definite: all stable matrices, and no others. Three
    parameters (n, n): J below its diagonal, and R and P by Cholesky factors whose diagonals are held as logarithms. In
    float32 an assigned matrix keeps about 7 - log10(cond(P)) digits. A stable matrix that rounding could make
    unstable, such as a Jordan block of ten states at -0.1, is not recognised as stable.

    nearest: real parts that are not negative change sign (in the Schur form, so that all else stays), as poles are
    flipped in vector fitting. It is not the closest in norm, but |change|_2 is at most twice the largest real part, and
    a growth that was noise becomes a decay of the same size. Decay is at least 1e-12 |Xi|_2, or more where that is too
    close to growth to be factored, as for a double integrator.
    Source: Gillis & Sharma (2017), Automatica 85, theorem 1; Gustavsen & Semlyen (1999), IEEE Trans. Power Delivery
    14(3), for the change of sign.

    Example:
        >>> import torch, linode.nn
        >>> Xi = linode.nn.Stable().nearest(torch.tensor([[0.1, 2.0], [-2.0, 0.1]], dtype=torch.float64))
        >>> Xi.round(decimals=9).tolist()
        [[-0.1, 2.0], [-2.0, -0.1]]
    """

    name = "stable"
    summary = "stable (eigenvalues with negative real parts)"

    def forward(self, J: Tensor, R: Tensor, P: Tensor) -> Tensor:
        factors = (x.tril(-1) + x.diagonal().exp().diag() for x in (R, P))
        return matrices.stable(J, *factors)

    def parts(self, Xi: Tensor) -> tuple[Tensor, ...]:
        J, *factors = matrices.stable_parts(Xi)
        return J, *(L.tril(-1) + L.diagonal().log().diag() for L in factors)


@register
class Compartmental(Parametrization):
    """Xi_ij >= 0 off the diagonal, column sums <= 0: z >= 0 stays so, and the sum of z never grows.

    Xi_ij is the flow from j to i and -sum_i Xi_ij the outflow of j, both in 1/time. The parameter (n, n) holds their
    logarithms, the outflows on its diagonal, so that a step of an optimiser is relative and the unit of time does not
    matter. An assigned flow of zero becomes 1e-10 of the largest entry; it can grow again, slowly.

    nearest: flows below zero are clipped; the diagonal is what it was, or lower where the column sums ask for it.
    Source: Jacquez & Simon (1993), Qualitative theory of compartmental systems, SIAM Review 35(1).

    Example:
        >>> import torch, linode.nn
        >>> Xi = linode.nn.Compartmental().nearest(torch.tensor([[-1.0, 0.5], [1.0, -0.2]], dtype=torch.float64))
        >>> Xi.round(decimals=6).tolist()  # more than 0.2 flows out of the second
        [[-1.0, 0.5], [1.0, -0.5]]
    """

    name = "compartmental"
    summary = "compartmental (entries >= 0 off the diagonal, column sums <= 0)"

    def forward(self, logarithms: Tensor) -> Tensor:
        return matrices.compartmental(logarithms)

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return matrices.compartmental_parts(Xi, SMALLEST * (float(Xi.abs().max()) or 1.0))

    def initial(self, n: int) -> Tensor:
        """Flows and outflows uniform in (0, 1/n): each compartment empties at a rate of about 1/2."""
        return self.nearest(matrices.compartments(torch.rand(n, n, dtype=torch.float64, device="cpu") / n))


@register
class LowRank(Parametrization):
    """Xi = diag(d) + U W^T with U and W (n, rank): each state decays on its own, and a few common modes couple them.

    There are 2 n rank + n parameters instead of n^2.
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
        self._last: list[float] = []  # the diagonal found or drawn last; no tensor, which modules would move

    @classmethod
    def make(cls, rank: int) -> LowRank:
        return cls(rank)

    def forward(self, d: Tensor, U: Tensor, W: Tensor) -> Tensor:
        return matrices.low_rank(d, U, W)

    def parts(self, Xi: Tensor) -> tuple[Tensor, ...]:
        if self.rank > len(Xi):
            raise OptionError(f"rank must be an int between 1 and {len(Xi)}, the size of Xi, got {self.rank}")
        parts = matrices.low_rank_parts(Xi, self.rank, torch.tensor(self._last, dtype=torch.float64, device="cpu"))
        self._last = parts[0].tolist()
        return parts

    def initial(self, n: int) -> Tensor:
        """-I/2 plus a random matrix of that rank: eigenvalues within some 0.35 of -0.5, as for `modest`."""
        U, W = torch.randn(2, n, self.rank, dtype=torch.float64, device="cpu")
        self._last = [-0.5] * n
        return U @ W.mT / (8 * n * self.rank) ** 0.5 - 0.5 * torch.eye(n, device="cpu")
