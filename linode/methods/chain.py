"""States a step apart and Taylor polynomials between them: small systems, moderate spans.

Use when systems are small and |Xi| t_max is moderate: nothing is factored. Cost: some |Xi| t_max / 4 nodes with 18 n^2
multiplications, 18 n for each time, and three times that with a gradient.
Step: every system has its own, from the powers of A = Xi - shift I, with the mean of the diagonal as shift.
|A^p|^(1/p) H <= REACH for p >= 4 leaves (REACH / 2)^18 / 18! = 6e-17 of a polynomial between nodes, 8e-18 of that of a
step (Al-Mohy & Higham 2009, SIAM J. Matrix Anal. 31, theorem 4.2 with p = 4).
Check: a bound of the rounding error of the powers of the step, computed from their norms, is at most max_rounding
units. The bound is pessimistic: over the hard cases the error is 1 % of it (median), and at most 300 units where the
method is accepted.
Sources: see `kernels.stepping`, `kernels.dense`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..kernels import small
from ..kernels.dense import Dense, dense
from ..kernels.stepping import Stepper
from ..kernels.taylor import Degree
from .base import CompiledPlan, Gradients, Method, Plan, Pullback, Workload, register
from .costs import COMPILED_CALL, COMPILED_FLOP, COMPILED_SYSTEM, OPERATORS

MAX_ROUNDING = 2.0**20  # a bound of 1e-10
MOST_NODES, LARGEST = 256, 1e300
SLACK = 1.25  # a plan is good for times this much later than asked for
BETWEEN, OF_STEP = Degree(q=6, n_blocks=3), Degree(q=6, n_blocks=4)  # polynomials within half a step, and of a step
REACH = 1.9  # |A^p|^(1/p) H, p >= 4
SHORTEST, DIGITS = 1e-300, 8  # of a step
LARGEST_NORM = 1e300  # of Xi: beyond, its step would be shorter
MOST_SHIFT = 16.0  # in a step
MOST_UNITS = 100.0  # |shift| t: subtracting it costs small diagonal entries so many units of rounding, 1e-14
MOST_SIZE = 4.0  # |A| H: a longer step is not taken, however slowly powers of A grow
PART_ENTRIES = 2**21  # terms that are computed at a time: 16 MiB
N_WAITS = 7  # of a step on a device, beside those of the engine: see tests/second_device.py

Where = tuple[slice, slice]  # some systems, and some trajectories of them


@register
@dataclass(frozen=True)
class Chain(Method):
    """States a step apart, Taylor polynomials between them; small systems, moderate spans.

    Options: max_rounding, the largest bound accepted of the relative error of powers of the step, in units of rounding.

    Example:
        >>> import linode
        >>> method = linode.methods.Chain(max_rounding=1e5)
        >>> linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'chain'
    """

    max_rounding: float = MAX_ROUNDING
    name: ClassVar[str] = "chain"
    summary: ClassVar[str] = "Taylor polynomials between states a step apart; small systems, moderate spans"
    needs_times: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (isinstance(self.max_rounding, (int, float)) and self.max_rounding > 0):
            raise OptionError(f"max_rounding must be a positive number, got {self.max_rounding!r}")
        super().__post_init__()

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
        work = work or Workload.of(Xi)
        t_max = SLACK * work.t_max
        made = small.make_plans(small.CHAIN, Xi, self.max_rounding, t_max) if work.norm <= LARGEST_NORM else None
        if made:
            return CompiledChainPlan(Xi, made.plans, self.max_rounding, t_max, made.n_refused == 0)
        step, size = make_step(Xi, t_max)
        n_nodes = t_max / step.H + 1.5
        bound = torch.full_like(step.H, torch.inf)
        few = (n_nodes <= (MOST_NODES if work.norm <= LARGEST_NORM else 0)).nonzero()[:, 0]
        if len(few):
            some = step if len(few) == len(Xi) else step.subset(few)
            bound[few] = rounding(some, size[few], n_nodes[few].to(torch.int64))
        return ChainPlan(Xi, step, bound, self.max_rounding, t_max)

    def cost(self, work: Workload) -> float:
        n, n_nodes, n_terms = work.n, work.power_span / REACH + 1, BETWEEN.n_terms
        # products of n x n: A^2, A^4 and A^5; the powers of the polynomials and that of the step, with their reverse;
        # for every squaring itself, the norm that its check asks for, and two in reverse
        n_products = 3 + 3 * (BETWEEN.q - 1 + OF_STEP.n_blocks - 1) + 4 * math.log2(n_nodes + 1)
        # entries of factors: terms of the nodes, of which Xi makes them, and coefficients of the times; each forward
        # and twice in reverse
        of_nodes, of_times = 3 * n_terms * n * n_nodes * work.n_trajectories, 3 * n_terms * work.n_rows
        if work.is_on_host and n <= small.MOST_STATES:
            flops = n * (n_products * n**2 + of_nodes + of_times)
            return COMPILED_CALL + work.n_systems * (COMPILED_SYSTEM + flops * COMPILED_FLOP)
        seconds = work.operators(OPERATORS["chain"], N_WAITS)
        if not work.is_on_host:
            return seconds
        of_system = work.product(n_products * n**2 + of_nodes)
        return seconds + work.n_systems * (of_system + work.n_rows * work.polynomial(n_terms, n_passes=7))


@dataclass
class ChainPlan(Plan):
    """A step for each system, with a bound of the rounding of its powers, in units, up to t_most."""

    Xi: Tensor
    step: Stepper
    bound: Tensor  # (S,)
    limit: float
    t_most: float = torch.inf
    method = "chain"

    @property
    def accepted(self) -> Tensor:
        return self.bound <= self.limit  # a NaN is not

    @property
    def reason(self) -> str:
        return _reason(self.step.H, self.bound, self.limit, self.t_most)

    @property
    def details(self) -> dict[str, Any]:
        return {"step": self.step.H.tolist(), "rounding": self.bound.tolist()}

    def subset(self, index: Tensor) -> Plan:
        return ChainPlan(self.Xi[index], self.step.subset(index), self.bound[index], self.limit, self.t_most)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        z = z0.new_empty(*t.shape, z0.shape[-1])
        for where, step in self._parts(z0, t):
            z[where] = dense(step, z0[where], t[where])
        return z

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        return _gradients(z0, g, ((where, Dense.of(step, z0[where], t[where])) for where, step in self._parts(z0, t)))

    def record(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Pullback]:
        parts = [(where, Dense.of(step, z0[where], t[where])) for where, step in self._parts(z0, t)]
        z = z0.new_empty(*t.shape, z0.shape[-1])
        for where, part in parts:
            z[where] = part.states()
        return z, lambda g: _gradients(z0, g, parts)

    def adjoint(self) -> Plan:
        """With the same bound: Frobenius norms of a matrix and of its adjoint are equal."""
        return ChainPlan(self.Xi.mT.conj_physical(), self.step.adjoint(), self.bound, self.limit, self.t_most)

    def _parts(self, z0: Tensor, t: Tensor) -> Iterator[tuple[Where, Stepper]]:
        """Systems, or trajectories of one system, a share at a time."""
        S, R, n = z0.shape
        n_nodes = float((t.amax((1, 2)) / self.step.H).max()) + 1.5
        most = max(1, int(PART_ENTRIES / (BETWEEN.n_terms * max(n_nodes * n, t.shape[2]))))
        n_systems, n_trajectories = min(S, max(1, most // R)), min(R, most)
        for s in range(0, S, n_systems):
            systems = slice(s, s + n_systems)
            step = self.step if n_systems == S else self.step.subset(systems)
            for r in range(0, R, n_trajectories):
                yield (systems, slice(r, r + n_trajectories)), step


def _gradients(z0: Tensor, g: Tensor, parts: Iterable[tuple[Where, Dense]]) -> Gradients:
    """Of all parts."""
    S, a = z0.new_zeros(len(z0), z0.shape[-1], z0.shape[-1]), torch.empty_like(z0)
    for where, part in parts:
        own, a[where] = part.gradients(g[where])
        S[where[0]] += own
    return S, a


class CompiledChainPlan(CompiledPlan):
    """The same for the compiled kernel."""

    method = "chain"

    def __init__(self, Xi: Tensor, compiled: bytearray, limit: float, t_most: float, is_accepted: bool) -> None:
        self.Xi, self.compiled, self.limit, self.t_most, self.is_accepted = Xi, compiled, limit, t_most, is_accepted

    @property
    def rows(self) -> Tensor:
        """Step, shift and bound of each system, and what else the kernel needs."""
        return small.as_rows(self.compiled, len(self.Xi))

    @property
    def accepted(self) -> Tensor:
        return self.rows[:, 2] <= self.limit  # a NaN is not

    @property
    def reason(self) -> str:
        return _reason(self.rows[:, 0], self.rows[:, 2], self.limit, self.t_most)

    @property
    def details(self) -> dict[str, Any]:
        return {"step": self.rows[:, 0].tolist(), "rounding": self.rows[:, 2].tolist()}

    def subset(self, index: Tensor) -> Plan:
        own = CompiledChainPlan(self.Xi[index], small.as_plans(self.rows[index]), self.limit, self.t_most, True)
        own.is_accepted = bool(own.accepted.all())
        return own

    def adjoint(self) -> Plan:
        w = self.Xi.shape[-1] * (1 + self.Xi.is_complex())
        header, rows = self.rows[:, : small.HEADER], self.rows[:, small.HEADER :]
        matrices = rows.reshape(len(rows), 2, w, -1).clone()  # their rows are padded
        matrices[..., :w] = matrices[..., :w].mT.clone()
        compiled = small.as_plans(torch.cat([header, matrices.flatten(1)], 1))
        return CompiledChainPlan(self.Xi.mT.conj_physical(), compiled, self.limit, self.t_most, self.is_accepted)


def _reason(H: Tensor, bound: Tensor, limit: float, t_most: float) -> str:
    if len(H) == 0:
        return "there are no systems"
    step, worst = float(H.min()), float(bound.max())
    n_steps = math.ceil(min(t_most / step, LARGEST))
    steps = f"{n_steps:.4g} steps of H = {step:.3g}"
    if n_steps > MOST_NODES:
        return f"{steps}, more than {MOST_NODES}, for times up to {t_most:.3g}"
    return f"{steps}, rounding {worst:.3g} {'<=' if worst <= limit else '>'} {limit:.3g} units"


def make_step(Xi: Tensor, t_max: float) -> tuple[Stepper, Tensor]:
    """Steps for times up to t_max, and |A| H in the Frobenius norm, (S,)."""
    diagonal = Xi.diagonal(dim1=-2, dim2=-1)
    shift = diagonal.real.mean(-1)
    shift = torch.where(shift.abs() * t_max > MOST_UNITS, 0.0, shift)
    A = Xi.clone()
    A.diagonal(dim1=-2, dim2=-1).copy_(diagonal - shift[:, None])
    unit = torch.exp2(torch.frexp(A.abs().amax((1, 2))).exponent.double().clamp(-1000.0, 1000.0))
    B = A / unit[:, None, None]
    fourth = torch.linalg.matrix_power(B, 4)
    size, by_fourth, by_fifth = (_size(X) for X in (B, fourth, fourth @ B))
    by_powers, by_size = torch.maximum(by_fourth**0.25, by_fifth**0.2), size / MOST_SIZE
    rate = torch.maximum(unit * torch.maximum(by_powers, by_size), shift.abs() * (REACH / MOST_SHIFT))
    # integrators, with nilpotent A, have states that are whole numbers: a step that is a power of two keeps them exact
    H = step_for(rate, t_max, torch.where(by_powers > by_size, 2.0**DIGITS, 2.0))
    return Stepper(A, H, BETWEEN, OF_STEP, shift), size * (unit * H)


def step_for(rate: Tensor, t_max: float, parts: Tensor) -> Tensor:
    """The largest steps (S,) with rate H <= REACH, of few binary digits so that multiples of them are exact, and no
    longer than need be: half of one then holds all times up to t_max. parts (S,): 2^digits.
    """
    longest = 2.0 ** (math.frexp(t_max)[1] + 1) if t_max > 0 else 1.0
    fraction, exponent = torch.frexp((REACH / rate).clamp(SHORTEST, LARGEST))
    H = torch.floor(fraction * parts) / parts * torch.exp2(exponent.double())
    return torch.where(rate * longest > REACH, H, longest)


def rounding(step: Stepper, size: Tensor, n_nodes: Tensor) -> Tensor:
    """(S,) a bound, in units of rounding, of the relative error of the powers E^(2^j) that n_nodes (S,) ask for.

    In Frobenius norms |E|, a square has the error 2 |E|_2 / |E^2| times that of E and |E|^2 / |E^2| units of its own;
    |E|_2^2 <= |E^H E|, and |E|_2 <= |E|. size (S,): |A| H, which bounds that of the first.
    """
    levels = torch.ceil(torch.log2(n_nodes.double())).to(torch.int64).clamp(min=1) - 1  # of the last power of each
    powers = [step.E(level) for level in range(int(levels.max()) + 1)]
    sizes = [_size(E) for E in powers]
    shift = 0.0 if step.shift is None else step.shift * step.H
    errors = [torch.exp(size + shift) / sizes[0]]
    for E, own, square in zip(powers, sizes, sizes[1:]):
        spectral = _size(E.mT.conj_physical() @ E).sqrt()
        errors.append(own / square * (2 * spectral * errors[-1] + own))
    return torch.stack(errors).gather(0, levels[None])[0]


def _size(A: Tensor) -> Tensor:
    """Frobenius norms (S,)."""
    return torch.linalg.vector_norm(A.flatten(1), dim=-1)
