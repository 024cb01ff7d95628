"""exp(A t) z0 by Taylor polynomials of A acting on vectors: no product of matrices, nothing factored.

Nodes are steps H apart, with |A| H of a few units in the sense of powers. At every node the vectors V_j = (A H)^j z_k,
j < m, give the next node and all states around it: exp(A (k + s) H) z0 = sum_j s^j / j! V_j, |s| <= 1/2, exactly
t = (k + s) H. A shift mu acts as a factor e^(mu H) between nodes. The reverse is Horner's scheme with A^H, the gradient
in A one product of all cotangents with all vectors: about 2 N m products of A with a vector for N = t_max / H.
H and m come from the growth of |A^j| as random vectors see it, for j up to m.
Source: Al-Mohy & Higham (2011), SIAM J. Sci. Comput. 33, 488; norms by random vectors as in Gudmundsson, Kenney &
Laub (1995), SIAM J. Matrix Anal. 16, 776.
Shapes: A (S, n, n) times H, z0 (S, R, n); V and its cotangents (N, m, S, R, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from .taylor import inverse_factorials_on

N_VECTORS = 2
MAX_TERMS = 36  # |A| H = THETA needs about 30
CHUNK = 6  # products after which a vector is scaled to norm 1 again: in six it cannot underflow
THETA = 2.5  # |A| H: terms of size e^2.5 cancel to a result of size e^-2.5 at worst, which costs two digits
# The truncation error of a node is at most TRUNCATION units of rounding: two random vectors underestimate |A^j| by a
# factor of 100 once in 10^4. That of dL/dA is at most one unit: its terms (A^H)^i lambda z^H (A^H)^(j-1-i) / j! may be
# large where A^j is small, and are bounded by themselves.
UNIT = 2.0**-53
TRUNCATION = 0.01
LOG_SMALLEST = -700.0  # in place of log 0


# ---- growth, step and number of terms ----------------------------------------------------------------------------


@dataclass
class Growth:
    """How |A^j| grows with j, in logarithms; on the CPU."""

    frobenius: Tensor  # (S, MAX_TERMS + 1): |A^j|_F, estimated
    products: Tensor  # (S, MAX_TERMS + 1): max_i |A^i|_F |A^(j - i)|_F, which bounds the terms of the gradient
    rate: Tensor  # (S,): a lower bound of max(|A^4|^(1/4), |A^5|^(1/5)) in the 2-norm
    spread: Tensor  # (S,): log(max D / min D); undoing the balancing may enlarge an error by this factor
    _known: dict[tuple[tuple[float, ...], float], Tensor] = field(default_factory=dict, repr=False)  # of n_terms

    @classmethod
    def of(cls, A: Tensor, D: Tensor) -> Growth:
        """By products of A (S, n, n) with random vectors; D (S, n) by which states and cotangents are scaled."""
        n = A.shape[-1]
        one_norm = A.abs().sum(-2).amax(-1)
        exponent = torch.frexp(one_norm).exponent.to(one_norm.dtype).clamp(-1000.0, 1000.0)
        B = A * torch.exp2(-exponent)[:, None, None] if bool((exponent.abs() > CHUNK).any()) else A
        exponent = exponent if B is not A else torch.zeros_like(exponent)
        v = _random_directions(n).to(A.device, A.dtype).expand(A.shape[0], N_VECTORS, n)
        sizes = [v.new_zeros(1, *v.shape[:2], dtype=one_norm.dtype)]  # logarithms, the first vector of norm 1
        BT = B.mT
        for _ in range(0, MAX_TERMS, CHUNK):
            chunk = v.new_empty(CHUNK, *v.shape)
            for row in chunk.unbind():
                v = torch.bmm(v, BT, out=row)
            norms = torch.linalg.vector_norm(chunk, dim=-1)  # (CHUNK, S, N_VECTORS)
            sizes.append(sizes[-1][-1] + norms.log().clamp(min=LOG_SMALLEST))
            v = chunk[-1] / torch.where(norms[-1] > 0, norms[-1], 1)[..., None]
        size = torch.cat(sizes).permute(1, 2, 0)  # (S, N_VECTORS, MAX_TERMS + 1)
        spread = torch.log(D.amax(-1) / D.amin(-1))
        figures = torch.cat([size.flatten(1), exponent[:, None], spread[:, None]], 1).cpu()  # one copy
        size, exponent, spread = figures[:, :-2].reshape(size.shape), figures[:, -2], figures[:, -1]
        unit, powers = exponent[:, None] * math.log(2), torch.arange(MAX_TERMS + 1, device="cpu")
        frobenius = size.amax(1) + 0.5 * math.log(n) * (powers > 0) + powers * unit
        rates = [(size[..., p:] - size[..., :-p]).amax((1, 2)) / p for p in (4, 5)]
        others = powers[:, None] - powers
        products = frobenius[:, None] + frobenius[:, others]
        products = torch.where(others >= 0, products, -torch.inf).amax(-1)
        return cls(frobenius, products, torch.maximum(*rates) + unit[:, 0], spread)

    def subset(self, index: Tensor) -> Growth:
        """Of some of the systems."""
        return Growth(self.frobenius[index], self.products[index], self.rate[index], self.spread[index])

    def steps(self) -> Tensor:
        """(S,) the exponent e of the largest step H = 2^e for which the terms are enough; -inf where none is."""
        exponent = torch.floor((math.log(THETA) - self.rate) / math.log(2)).clamp(-1000.0, 1000.0)
        for _ in range(64):
            short = self.n_terms(exponent) > MAX_TERMS
            if not bool(short.any()):
                return exponent
            exponent = exponent - short.to(exponent.dtype)
        return torch.where(short, -torch.inf, exponent)

    def n_terms(self, exponent: Tensor, unit: float = UNIT) -> Tensor:
        """(S,) how many terms leave less than the unit roundoff at H = 2^exponent; above MAX_TERMS where no number
        does.
        """
        key = (tuple(exponent.tolist()), unit)
        if key in self._known:
            return self._known[key]
        powers = torch.arange(MAX_TERMS + 1, device="cpu") * exponent[:, None] * math.log(2)
        powers = powers - _log_factorials() + 2 * self.spread[:, None]
        value = self.frobenius + powers - math.log(TRUNCATION * unit)
        gradient = (self.products + powers)[:, :-1] - math.log(unit)
        value = torch.cat([value[:, :1], torch.maximum(value[:, 1:], gradient)], 1)
        rest = torch.logcumsumexp(value.flip(1), 1).flip(1)  # from term j on
        small = rest <= 0
        n_terms = torch.where(small[:, -1], (~small).sum(1), MAX_TERMS + 1)  # NaN is not small
        self._known[key] = n_terms
        return n_terms


@lru_cache(maxsize=8)
def _random_directions(n: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    rows = torch.randn(N_VECTORS, n, dtype=torch.float64, generator=generator, device="cpu")
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)


@lru_cache(maxsize=1)
def _log_factorials() -> Tensor:
    return torch.tensor([math.lgamma(j + 1.0) for j in range(MAX_TERMS + 1)], dtype=torch.float64, device="cpu")


# ---- vectors and their reverse -----------------------------------------------------------------------------------


@dataclass
class Series:
    """Steps of one length for S systems."""

    A: Tensor  # (S, n, n) times H
    factor: Tensor  # (S,) e^(mu H)
    n_terms: int  # from node to node
    n_near: int  # for |s| <= 1/2
    n_products: int = 0  # of A, or its transpose, with the rows of all trajectories

    def vectors(self, z0: Tensor, N: int) -> Tensor:
        """V (N, m, S, R, n); from n_near on, those of the last node are zero."""
        S, R, n = z0.shape
        V = z0.new_empty(N, self.n_terms, S, R, n)
        V[0, 0], V[-1, self.n_near :] = z0, 0
        multiply, weights = multiplier(self.A, R), self._weights()
        for k in range(N):
            multiply(V[k], self._count(k, N))
            if k < N - 1:
                V[k + 1, 0] = torch.mv(V[k].flatten(1).mT, weights).reshape(S, R, n) * self.factor[:, None, None]
        return V

    def vjp(self, V: Tensor, gV: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to A and z0, given that with respect to V, which is overwritten."""
        N, m, S, R, n = V.shape
        multiply, weights = multiplier_back(self.A, R), self._weights().reshape(m, 1, 1, 1)
        factor = self.factor.conj_physical()[:, None, None]
        lam = gV[0, 0]
        for k in reversed(range(N)):
            if k < N - 1:
                gV[k] += weights * (factor * lam)
            multiply(gV[k], self._count(k, N))
            lam = gV[k, 0].clone()
            gV[k, 0] = 0  # no product with A gave it: rows of gV are multiplied with the rows before them of V
        upper, lower = gV.flatten(0, 1)[1:], V.flatten(0, 1)[:-1]  # (N m - 1, S, R, n)
        upper, lower = (x.transpose(0, 1).reshape(S, -1, n) for x in (upper, lower))
        return upper.mT @ lower.conj_physical(), lam

    def _count(self, k: int, N: int) -> int:
        """Vectors at node k of N."""
        count = self.n_terms if k < N - 1 else self.n_near
        self.n_products += count - 1
        return count

    def _weights(self) -> Tensor:
        return inverse_factorials_on(self.n_terms, self.A.dtype, self.A.device)[0]


Multiplier = Callable[[Tensor, int], None]  # of rows (m, S, R, n), of which so many are used


def multiplier(A: Tensor, R: int) -> Multiplier:
    """Fills the rows: each is A times the row before it."""
    AT = A.mT

    def by_rows(rows: Tensor, count: int) -> None:
        for j in range(1, count):
            torch.bmm(rows[j - 1], AT, out=rows[j])

    def by_vectors(rows: Tensor, count: int) -> None:
        vectors, matrix = rows.flatten(1).unbind(), A[0]
        for j in range(1, count):
            torch.mv(matrix, vectors[j - 1], out=vectors[j])

    return by_vectors if len(A) * R == 1 else by_rows


def multiplier_back(A: Tensor, R: int) -> Multiplier:
    """Adds A^H times the row after it to each row, from the last on: Horner's scheme."""
    A = A.conj_physical()

    def by_rows(rows: Tensor, count: int) -> None:
        for j in range(count - 1, 0, -1):
            rows[j - 1].baddbmm_(rows[j], A)

    def by_vectors(rows: Tensor, count: int) -> None:
        vectors, matrix = rows.flatten(1).unbind(), A[0].mT
        for j in range(count - 1, 0, -1):
            vectors[j - 1].addmv_(matrix, vectors[j])

    return by_vectors if len(A) * R == 1 else by_rows
