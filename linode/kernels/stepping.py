"""exp(A t) z0 at scattered times by powers of one step, forward and reverse: matrix products only.

With a step H, most often a power of two, such that |A| H is of order 1, every time is t = k H + s H, |s| <= 1/2. A
Taylor polynomial gives exp(A s H) z0 for every time; then, for every binary digit j of k that is 1, the row is
multiplied by E^(2^j), E = exp(A H): about log2(|A| t_max) products of T x n x n (`dense` needs fewer where there are
many times per step). Reverse mode multiplies the cotangents by the transposed powers: O(T n) memory, no block
exponential. Works for float64, complex128 and DoubleDouble. Powers in DoubleDouble may go with states in double: then
squaring does not amplify rounding, and the products with states cost little more.
Sources: Higham (2008), Functions of Matrices, 10.3; Al-Mohy & Higham (2011), SIAM J. Sci. Comput. 33, 488 (the step).
Where A is triangular, entries of its powers that have closed forms are set to them (`kernels.triangular`).
A multiple of I, the shift, may have been subtracted from A: states are then multiplied by its exponential, a number.
Shapes: A (S, n, n) systems, z0 (S, R, n) trajectories, t (S, R, T) >= 0, results (S, R, T, n).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .arithmetic import Array, Wrapped, convert, leading, row_product, scale, where, zeros_like
from .arithmetic.noisy import Noisy
from .taylor import (
    Degree,
    action_terms,
    action_terms_vjp,
    block_vectors,
    monomials,
    polynomial,
    polynomial_vjp,
    powers,
    powers_vjp,
)
from .triangular import ClosedForms

SEGMENT = 4  # levels between kept states in the reverse of `scattered`: about K/4 + 4 arrays of T x n
LARGEST = 2.0**1023  # norms that are larger count as 2^PAST times this: they are sums of entries near the largest float
PAST = 8.0
MAX_NODE = 2.0**61  # later times count as this one: no digit of |A| t is known there, but states still decay or grow


class Stepper:
    """Powers of E = exp((A + shift I) H), computed when first asked for and kept."""

    def __init__(
        self, A: Array, H: Tensor, degree: Degree, of_step: Degree | None = None, shift: Tensor | None = None
    ) -> None:
        """A (S, n, n) and steps H (S,), multiples of which by node numbers are exact.

        degree: of the polynomials within half a step; of_step: of that of the step, None for the same; both have the
        same q. shift (S,), 1/time: a multiple of I that was subtracted from A; None: nothing was. It acts as a factor.
        """
        self.A, self.H, self.degree, self.of_step = A, H, degree, of_step or degree
        self.shift = shift
        self.P = powers(scale(A, H[:, None, None]), degree)
        E, self._partial = polynomial(self.P, self.of_step)
        self._closed = self._closed_forms()
        self._E = {0: self._with_closed_forms(E if shift is None else E * torch.exp(shift * H)[:, None, None], 0)}
        self.n_products = degree.q + self.of_step.n_blocks - 2

    def subset(self, index: Tensor | slice) -> Stepper:
        """The same for some of the systems, keeping what was computed."""
        out = object.__new__(Stepper)
        out.A, out.H, out.degree, out.of_step = self.A[index], self.H[index], self.degree, self.of_step
        out.shift, out.n_products = None if self.shift is None else self.shift[index], self.n_products
        out.P, out._partial = [x[index] for x in self.P], [x[index] for x in self._partial]
        out._E = {level: E[index] for level, E in list(self._E.items())}
        out._closed = out._closed_forms()
        return out

    def adjoint(self) -> Stepper:
        """The same for A^H, keeping what was computed."""
        out = object.__new__(Stepper)
        out.__dict__.update(self.__dict__)
        out.A = self.A.mT.conj_physical()
        out.P, out._partial = ([x.mT.conj_physical() for x in xs] for xs in (self.P, self._partial))
        out._E = {level: E.mT.conj_physical() for level, E in list(self._E.items())}
        out._closed = out._closed_forms()
        return out

    def _closed_forms(self) -> ClosedForms | None:
        """Of entries of powers in double, as they are or with amplified rounding; elsewhere than on a CPU it would
        take a wait to know whether A is triangular.
        """
        is_double = isinstance(self.A, Tensor | Noisy) and leading(self.A).is_cpu
        return ClosedForms.of(leading(self.A), self.H, self.shift) if is_double else None

    def _with_closed_forms(self, power: Any, level: int) -> Any:
        if self._closed is not None:
            self._closed.put(leading(power), level)
        return power

    def E(self, level: int) -> Any:
        """E^(2^level), (S, n, n)."""
        for k in range(1, level + 1):
            if k not in self._E:  # by its number: two threads may compute it, and store the same
                self._E[k] = self._with_closed_forms(self._E[k - 1] @ self._E[k - 1], k)
                self.n_products += 1
                if isinstance(self._E[k - 1], Wrapped):
                    self._E[k - 1].release()  # there may be many powers
        return self._E[level]

    def split(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Node index, integral but float64, and remainder with t = (k + s) H exactly where H is a power of two,
        |s| <= 1/2.
        """
        H = self.H[:, None, None]
        k = torch.round(t / H).clamp(max=MAX_NODE)
        return k, ((t - k * H) / H).clamp(max=0.5)

    def coefficients(self, s: Tensor, like: Array) -> Any:
        """Of the terms of the polynomial that goes on by s H from a node, (*s.shape, n_terms), s (S, R, T)."""
        C = monomials(s, self.degree, like)
        return C if self.shift is None else C * torch.exp((self.shift * self.H)[:, None, None] * s)[..., None]

    def backward(self, gE: list[Any], gP: list[Any]) -> Any:
        """The gradient with respect to A, given those with respect to E^(2^level) and the Taylor powers."""
        G = gE[-1]
        for level in range(len(gE) - 2, -1, -1):
            EH = self.E(level).mT.conj_physical()
            of_square = EH @ G + G @ EH
            if len(self.H) > 1:  # of the systems that have this power; that of others may be infinite
                used = (leading(G) != 0).any(-1, keepdim=True).any(-2, keepdim=True)
                of_square = where(used, of_square, zeros_like(of_square))
            G = gE[level] + of_square
        if self.shift is not None:
            G = G * torch.exp(self.shift * self.H)[:, None, None]
        polynomial_vjp(self.P, self._partial, self.of_step, G, gP)
        return scale(powers_vjp(self.P, gP), self.H[:, None, None])

    def zeros(self) -> Any:
        return zeros_like(self.P[1])


def n_levels(k: Tensor) -> int:
    """Number of binary digits of the largest node index."""
    return math.frexp(float(k.max()))[1] if k.numel() else 0


def scattered(step: Stepper, z0: Any, t: Tensor) -> Any:
    """Few times, long span: digits of the node index."""
    k, s = step.split(t)
    z, _, _ = _near_origin(step, z0, s)
    return _climb(step, z, _rows(k), range(n_levels(k)))[-1].reshape(*t.shape, z0.shape[-1])


def scattered_vjp(step: Stepper, z0: Any, t: Tensor, g: Any) -> tuple[Any, Any]:
    """Gradients S and a with respect to A and z0 of sum <g, z>."""
    S, R, T = t.shape
    n = z0.shape[-1]
    k, s = step.split(t)
    K, rows = n_levels(k), _rows(k)
    z, C, blocks = _near_origin(step, z0, s)
    kept = [z]
    for start in range(0, K - SEGMENT, SEGMENT):
        kept.append(_climb(step, kept[-1], rows, range(start, start + SEGMENT))[-1])

    gE = [step.zeros() for _ in range(max(K, 1))]
    lam = g.reshape(S, R * T, n)
    for start in reversed(range(0, K, SEGMENT)):
        levels = range(start, min(start + SEGMENT, K))
        states = _climb(step, kept.pop(), rows, levels)
        for level in reversed(levels):
            mask = _digit(rows, level)
            on = where(mask, lam, zeros_like(lam))
            gE[level] = convert(row_product(on, states[level - start]), step.A)
            lam = where(mask, on @ convert(step.E(level), on).conj_physical(), lam)
        del states
    gP = [step.zeros() for _ in range(step.degree.q + 1)]
    gW = row_product(C, lam.reshape(S, R, T, n).conj_physical())  # (S, R, n_terms, n), C is real
    a = action_terms_vjp(step.P, blocks, step.degree, convert(gW, step.A), gP)
    return step.backward(gE, gP), a


def _near_origin(step: Stepper, z0: Any, s: Tensor) -> tuple[Any, Any, list[Any]]:
    """exp(A H s) z0 for |s| <= 1/2: rows (S, R T, n); its coefficients and block vectors."""
    blocks = block_vectors(step.P, step.degree, convert(z0, step.A))
    W = action_terms(step.P, step.degree, blocks)  # (S, R, n_terms, n)
    C = step.coefficients(s, z0)
    S, R, T = s.shape
    return (C @ convert(W, z0)).reshape(S, R * T, z0.shape[-1]), C, blocks


def _climb(step: Stepper, z: Any, rows: Tensor, levels: range) -> list[Any]:
    """States before each level, and after the last: rows with the digit are multiplied by E^(2^level)."""
    states = [z]
    for level in levels:
        z = where(_digit(rows, level), z @ convert(step.E(level), z).mT, z)
        states.append(z)
    return states


def _rows(k: Tensor) -> Tensor:
    return k.reshape(k.shape[0], -1)


def _digit(rows: Tensor, level: int) -> Tensor:
    return (torch.remainder(torch.floor(rows * 2.0**-level), 2) > 0)[..., None]


def choose_step(norm: Tensor, one_norm: Tensor) -> Tensor:
    """The largest power of two H with norm H <= 1 and one_norm H <= 2^40, so that powers of A H do not overflow, (S,).

    A nilpotent A (norm 0) has a finite series, whatever H.
    """
    bound = torch.maximum(norm, one_norm * 2.0**-40).clamp(max=LARGEST)
    exponent = torch.where(norm > 0, torch.frexp(bound).exponent.to(bound.dtype), -1000.0)
    exponent = torch.where(bound < LARGEST, exponent, exponent + PAST)
    return torch.exp2(-exponent.clamp(min=-1000.0))


def power_norm(A: Tensor) -> tuple[Tensor, Tensor]:
    """max(|A^4|^(1/4), |A^5|^(1/5)) and |A|, 1-norms, (S,): how fast the Taylor series falls, and the size of its
    terms; infinite where it is beyond the largest float.

    Source: Al-Mohy & Higham (2009), SIAM J. Matrix Anal. 31, theorem 4.2 with p = 4 (12 <= degree + 1).
    """
    unit = torch.exp2(torch.frexp(A.abs().amax((-2, -1))).exponent.to(A.real.dtype).clamp(-1000.0, 1000.0))
    B = A / unit[:, None, None]
    B2 = B @ B
    B4 = B2 @ B2
    first, fourth, fifth = (X.abs().sum(-2).amax(-1) for X in (B, B4, B4 @ B))
    return torch.maximum(fourth**0.25, fifth**0.2) * unit, first * unit
