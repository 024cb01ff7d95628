"""Sets of real matrices as images of unconstrained tensors, for `linode.nn` and `linode.fit`.

Of each set: a map from tensors onto it, named as the set is, and the tensors of a member near to a given matrix,
`..._parts`. The maps can be differentiated. The parts are computed on the CPU in float64 and have no derivative; where
the given matrix is in the set, the map of its parts gives that matrix back. `basis` makes a linear set from its
orthogonal projection. Matrices are (n, n), with rates in 1/time. The maps of stable and positive ones take batches, and
complex tensors as analytic functions, for derivatives by a complex step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import scipy
import torch
from scipy.linalg import schur
from scipy.linalg.lapack import dtrsyl
from torch import Tensor

TOLERANCE = 1e-6  # of the largest entry: above the rounding of float32, below what a fit can tell


# ---- linear sets -----------------------------------------------------------------------------------------------------


def symmetric(lower: Tensor) -> Tensor:
    """Xi = Xi^T from its entries on and below the diagonal."""
    return lower.tril() + lower.tril(-1).mT


def skew(lower: Tensor) -> Tensor:
    """Xi = -Xi^T from its entries below the diagonal."""
    return lower.tril(-1) - lower.tril(-1).mT


def symmetric_part(A: Tensor) -> Tensor:
    """The symmetric matrices nearest to A (*, n, n) in Frobenius' norm."""
    return (A + A.mT) / 2


def skew_part(A: Tensor) -> Tensor:
    """The skew-symmetric matrices nearest to A (*, n, n) in Frobenius' norm."""
    return (A - A.mT) / 2


def diagonal_part(A: Tensor) -> Tensor:
    """The diagonal matrices nearest to A (*, n, n) in Frobenius' norm."""
    return torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))


def basis(project: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """(n^2, k): a basis of a linear set; column j is the member whose j-th independent entry is 1 and the others 0.

    Entries are taken row by row; one that earlier entries determine is not independent.
    project: the orthogonal projection of matrices (*, n, n) onto the set.
    """
    size = n * n
    images = project(torch.eye(size, dtype=torch.float64, device="cpu").reshape(size, n, n)).reshape(size, size).mT
    own = images.diagonal()
    is_first = (images != 0).int().argmax(0) == torch.arange(size, device="cpu")
    return (images / torch.where(own == 0, 1.0, own))[:, is_first & (own != 0)]


# ---- positive systems ------------------------------------------------------------------------------------------------


def metzler(x: Tensor) -> Tensor:
    """Entries off the diagonal are positive, and x (*, n, n) holds their logarithms; the diagonal is that of x."""
    own = diagonal_part(x)
    return own + (x - own).exp() - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def metzler_parts(Xi: Tensor, least: float) -> tuple[Tensor]:
    """x of `metzler`: entries off the diagonal become at least `least` > 0."""
    own = Xi.diagonal().diag()
    return (torch.where(torch.eye(len(Xi), device=Xi.device) > 0, own, Xi.clamp(min=least).log()),)


def compartments(rates: Tensor) -> Tensor:
    """Xi of flows, rates_ij from compartment j to i, and outflows rates_jj: column sums are the outflows, negative."""
    return rates - diagonal_part(rates) - torch.diag_embed(rates.sum(-2))


def generator_entries(rates: Tensor, columns: Tensor, n: int) -> Tensor:
    """Entries of a matrix whose columns sum to 0: the rates off the diagonal (E,), which stand in `columns`, and after
    them the diagonal (n,).
    """
    return torch.cat([rates, -rates.new_zeros(n).index_add(0, columns, rates)])


def compartmental(logarithms: Tensor) -> Tensor:
    """Entries are positive off the diagonal, column sums negative: `compartments` from the logarithms of the rates.

    Source: Jacquez & Simon (1993), Qualitative theory of compartmental systems, SIAM Review 35(1).
    """
    return compartments(logarithms.exp())


def compartmental_parts(Xi: Tensor, least: float) -> tuple[Tensor]:
    """The logarithms: flows become at least `least` > 0; the diagonal is kept where it leaves such an outflow."""
    flows = (Xi - Xi.diagonal().diag()).clamp(min=least).fill_diagonal_(0.0)
    outflows = (-(flows.sum(0) + Xi.diagonal())).clamp(min=least)
    return ((flows + outflows.diag()).log(),)


# ---- stable matrices -------------------------------------------------------------------------------------------------
#
# Xi = (J - R) P with J skew-symmetric, R and P positive definite: z^T P z is an energy that R dissipates. Every such
# matrix is stable, and every stable one is of this form, with any P that solves Xi^T P + P Xi = -Q for some positive
# definite Q. The Q taken here is W^-1 with Xi W + W Xi^T = -I, which makes P = I where Xi is normal. Measured against
# Q = I: the condition number of P falls from 1e12 to 1 for rates 1e-6 ... 1e6, and from 1800 to 170 for random Xi of
# n = 50; that of R falls by as much again. P has trace n, so that the unit of time does not matter.
# Source: Gillis & Sharma (2017), On computing the distance to stability for matrices using linear dissipative
# Hamiltonian systems, Automatica 85, theorem 1.

# Least decay, as part of |Xi|_2, tried in this order: 1e-12 is just beyond rounding, 1 can always be factored.
MARGINS = (1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)
MOST_GAIN = 1e4  # of the parts of a matrix that was moved: float32 parts (7 digits) give it with three digits
ACCURATE = 1e-7  # error of Xi from its parts, as part of |Xi|_2, accepted where Xi was not moved


def stable(J: Tensor, R_factor: Tensor, P_factor: Tensor) -> Tensor:
    """Eigenvalues have negative real parts: (J - R) P with J below its diagonal, R and P by Cholesky factors."""
    R_factor, P_factor = R_factor.tril(), P_factor.tril()
    return (skew(J) - R_factor @ R_factor.mT) @ (P_factor @ P_factor.mT)


def stable_parts(Xi: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """J, R_factor and P_factor of `stable`, float64, of a stable matrix near to Xi.

    Real parts that are not negative change sign, in the Schur form (Gustavsen & Semlyen 1999). Decay rates become at
    least 1e-12 |Xi|_2 and `least`; larger where the matrix is then too close to an unstable one to be factored.
    """
    T, Z = map(torch.from_numpy, schur(Xi.numpy()))
    real = T.diagonal()  # LAPACK's 2 x 2 blocks have the real part of both eigenvalues on the diagonal
    size = float(torch.linalg.matrix_norm(T, 2)) or 1.0
    for margin in MARGINS:
        moves = -real.abs().clamp(min=max(margin * size, least)) - real
        decaying = T + moves.diag()
        parts, gain = dissipative_form(decaying, Z)
        error = float((Z.mT @ stable(*parts) @ Z - decaying).abs().max())  # NaN where there are no parts
        if gain <= MOST_GAIN or (not moves.any() and error <= ACCURATE * size):
            break
    return parts


def dissipative_form(T: Tensor, Z: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """The parts of Xi = Z T Z^T as `stable` takes them, and their gain |J - R|_2 |P|_2 / |Xi|_2.

    T (n, n) is a real Schur form. R = P^-1 Q P^-1 / 2, of which Q = W^-1 gives a factor without a difference. A
    relative change of the parts changes Xi by at most the gain times as much. The parts are NaN and the gain infinite
    where they cannot be found.
    """
    n = len(T)
    one = torch.eye(n, dtype=T.dtype, device="cpu")
    try:
        W_factor = torch.linalg.cholesky(symmetric_part(torch.from_numpy(dtrsyl(T, T, -one, tranb="T")[0])))
        Q_factor = torch.linalg.solve_triangular(W_factor, one, upper=False).mT
        P = symmetric_part(torch.from_numpy(dtrsyl(T, T, -Q_factor @ Q_factor.mT, trana="T")[0]))
        scale = n / P.trace()
        P_factor = torch.linalg.cholesky(P * scale)
        R_factor = torch.cholesky_solve(Q_factor * (scale / 2).sqrt(), P_factor)
        S = torch.cholesky_solve(T.mT, P_factor).mT  # J - R
        gain = torch.linalg.matrix_norm(torch.stack([S, P * scale]), 2).prod() / torch.linalg.matrix_norm(T, 2)
    except RuntimeError:  # torch's LinAlgError: not positive definite, or not finite, by rounding
        return (torch.full((n, n), torch.nan, dtype=T.dtype, device="cpu"),) * 3, torch.inf
    return ((Z @ skew_part(S) @ Z.mT).tril(-1), cholesky_of(Z @ R_factor), cholesky_of(Z @ P_factor)), float(gain)


def cholesky_of(x: Tensor) -> Tensor:
    """The lower triangular L with L L^T = x x^T and a positive diagonal."""
    L = torch.linalg.qr(x.mT).R.mT
    return L * torch.where(L.diagonal() < 0, -1.0, 1.0)


# ---- diagonal plus low rank ------------------------------------------------------------------------------------------
#
# To find the parts of a matrix is a problem with local minima (for a symmetric matrix: factor analysis). The diagonal
# is searched by L-BFGS, so that the singular values of the remainder beyond the first `rank` vanish. Alternating
# between the diagonal and the SVD instead takes ten times as many SVDs.
# Costs: an SVD a step, some 20 steps where Xi is of this form and rank < n / 3.
# Source: variable projection, Golub & Pereyra (1973), SIAM J. Numer. Anal. 10(2).

# Of L-BFGS, for matrices whose largest entry is 1. The gradient stops it at rounding; a search of a matrix of this
# form takes some 20 steps, so 200 end only one that does not converge, and 30 corrections hold all of them.
SEARCH = {"maxiter": 200, "maxcor": 30, "ftol": 0.0, "gtol": 1e-13}
MOST_CANCELLATION = 1e3  # entries of d relative to those of Xi: four of the 7 digits of float32 are left


def low_rank(d: Tensor, U: Tensor, W: Tensor) -> Tensor:
    """diag(d) + U W^T with U and W (n, rank)."""
    return d.diag() + U @ W.mT


def low_rank_parts(Xi: Tensor, rank: int, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """d, U and W of `low_rank`: the best of four searches for the closest matrix in Frobenius' norm.

    last: a diagonal that is taken where it makes Xi exactly; one of another length than n is ignored.
    """
    size = float(Xi.abs().max()) or 1.0
    A, best, d = Xi / size, torch.inf, torch.zeros(len(Xi), dtype=Xi.dtype, device="cpu")

    def misfit(x: Any) -> tuple[float, Any]:
        """Squared Frobenius norm of the remainder, and its gradient, in which singular vectors are stationary."""
        rest = remainder(torch.from_numpy(x), A, rank)
        return float(rest.square().sum()), -2 * rest.diagonal().numpy()

    for start in _diagonals(A, last / size, rank):
        found = scipy.optimize.minimize(misfit, start.numpy(), jac=True, method="L-BFGS-B", options=SEARCH)
        if found.fun < best:
            best, d = found.fun, torch.from_numpy(found.x)
        if is_exact(d, A, rank):
            break
    U, singular, Vh = torch.linalg.svd(A - d.diag())
    root = (singular[:rank] * size).sqrt()
    return d * size, U[:, :rank] * root, Vh[:rank].mT * root


def _diagonals(A: Tensor, last: Tensor, rank: int) -> Iterator[Tensor]:
    """Diagonals to search from; the last one first where it makes A exactly and is not so large that digits cancel."""
    if len(last) == len(A) and last.abs().max() < MOST_CANCELLATION and is_exact(last, A, rank):
        yield last
    yield A.diagonal()
    yield torch.zeros_like(A[0])
    own = torch.Generator("cpu").manual_seed(0)  # leaves torch's global generator alone
    for _ in range(2):
        yield A.diagonal() + torch.randn(len(A), dtype=A.dtype, device="cpu", generator=own) / 2


def remainder(d: Tensor, A: Tensor, rank: int) -> Tensor:
    """A - diag(d) without its first `rank` singular values."""
    U, singular, Vh = torch.linalg.svd(A - d.diag())
    return (U[:, rank:] * singular[rank:]) @ Vh[rank:]


def is_exact(d: Tensor, A: Tensor, rank: int) -> bool:
    """Whether A, with entries up to 1, is diag(d) plus a matrix of that rank."""
    return bool(remainder(d, A, rank).abs().max() <= TOLERANCE)
