"""Powers of exp(G t) for G >= 0 off its diagonal with columns that sum to 0: no subtraction of like numbers.

Such a G moves amounts between states and keeps their sum. All that is stored are its flows, the entries off the
diagonal; what leaves a state is their sum. With s the largest outflow, B = G + s I has no negative entry, and
exp(G H) = exp(-s H) sum_m (B H)^m / m! adds numbers >= 0. Its powers by squaring add such numbers too, but a diagonal
entry near 1 must not come from a product: 1 - 1e-22, squared 70 times, would have rounded to 1. It is read as
1 - (what left), which is exact to rounding as long as it is above 1/2. Columns are divided by their sum, which is 1: it
would drift by a rounding a squaring, and doubles.
Entries of exp(G t) and of its action on z0 >= 0 then have relative errors of some n log2(s t) roundings, however small
they are, whatever the rates (Xue & Ye 2008, Numer. Math. 110, 393: they are determined so well). Any z0 and any
cotangent g give errors that are such parts of the result for |z0| and |g|.
Sources: Grassmann, Taksar & Heyman (1985), Oper. Res. 33, 1107 (diagonals from what leaves); `kernels.stepping`.
Shapes: flows (S, m, m), 0 on the diagonal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .arithmetic import leading
from .stepping import Stepper
from .taylor import Degree

REACH = 0.25  # s H: then the 14th term beyond a state's distance is below 0.25^14 / 14! = 4e-20 of the first
N_BEYOND, MOST_DISTANCE = 14, 64  # terms of the polynomial beyond the longest distance; longer ones take several steps
MOST_EXPONENT = 1000  # of a step, 2^this
MOST_NODES = 2.0**1000  # later times count as this one
HALF = 0.5


class ClosedStepper(Stepper):
    """Powers of exp(G H), by flows; times are k H + s H with 0 <= s < 1, so that polynomials add numbers >= 0 too."""

    def __init__(self, flows: Tensor) -> None:
        outflow = flows.sum(-2)
        s = outflow.amax(-1)
        exponent = torch.frexp(s / REACH).exponent.to(s.dtype).clamp(min=-MOST_EXPONENT)
        H = torch.exp2(-torch.where(s > 0, exponent, 0.0))
        B = flows.clone()
        B.diagonal(dim1=-2, dim2=-1).copy_(s[:, None] - outflow)
        super().__init__(B, H, degree(flows.shape[-1]), shift=-s)
        self._E[0] = closed(self._E[0])

    def E(self, level: int) -> Any:
        for k in range(1, level + 1):
            if k not in self._E:  # by its number: two threads may compute it, and store the same
                last = self._E[k - 1]
                square = closed(last @ last)
                self._E[k] = last if torch.equal(square, last) else square  # at rest: higher powers take no memory
                self.n_products += 1
        return self._E[level]

    def split(self, t: Tensor) -> tuple[Tensor, Tensor]:
        nodes = t / self.H[:, None, None]
        k = torch.floor(nodes).clamp(max=MOST_NODES)
        return k, torch.where(nodes > k + 1, 0.0, nodes - k)


class Turned(Stepper):
    """The powers of another stepper, transposed in some of the systems."""

    def __init__(self, step: Stepper, is_turned: Tensor) -> None:
        self.__dict__.update(step.__dict__)
        self._step, self._is_turned = step, is_turned[:, None, None]
        self.A = self._turned(leading(step.A))
        self.P, self._partial = ([self._turned(x) for x in xs] for xs in (step.P, step._partial))
        self._E = {}

    def _turned(self, x: Tensor) -> Tensor:
        return torch.where(self._is_turned, x.mT, x)

    def E(self, level: int) -> Any:
        if level not in self._E:
            self._E[level] = self._turned(self._step.E(level))
        return self._E[level]

    def split(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._step.split(t)


def degree(m: int) -> Degree:
    """Of a polynomial for m states, in about the fewest products."""
    n_terms = min(m - 1, MOST_DISTANCE) + N_BEYOND
    q = math.isqrt(n_terms - 1) + 1
    return Degree(q, -(-n_terms // q))


def closed(E: Tensor) -> Tensor:
    """E (S, m, m) >= 0 with columns that sum to 1, and with diagonals near 1 read from what leaves."""
    E = E / E.sum(-2, keepdim=True)
    diagonal = E.diagonal(dim1=-2, dim2=-1)
    stays = diagonal.clone()
    diagonal.zero_()
    leaves = E.sum(-2)
    diagonal.copy_(torch.where(leaves < HALF, 1 - leaves, stays))
    return E
