"""States a step apart and Taylor polynomials between them, in NumPy: small Xi, many times.

Use for systems of up to some fifty states, one or few of them, with several times a step: the fewest calls of all
methods, for every Xi that is neither stiff nor badly scaled. Cost: some 160 NumPy calls for states and gradients and
two for every step that has times.
Check: a second chain shows what rounding may have done to the states of these trajectories; those for which it is more
than the last digits go to `propagator`, which looks closer and has better arithmetic.
Sources: see `kernels.chain`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.arrays import MOST_STATES_OF_NUMPY, as_array, as_tensor, of_kind
from ..kernels.chain import THETA, ChainStates, Powers
from .base import HostPlan, Method, Plan, Pullback, Workload, register
from .costs import SECONDS_PER_CALL, SECONDS_PER_ENTRY, SECONDS_PER_FLOP
from .propagator import FLOOR, Propagator, PropagatorPlan

Array = NDArray[Any]
MOST_STEPS = 512.0  # |Xi| t_max
MOST_OVERSCALED = 16.0  # 1-norm over the norm that the powers show
MOST_SKEWED = 64.0  # ratio of a row's sum to its column's: beyond, balancing pays
UNIT_ROUNDOFF = 2.0**-53
# of a step of training, Python around them included, as its time shows; for each step of the chain that has times
N_CALLS, N_CALLS_PER_STEP = 360, 4


@register
@dataclass(frozen=True)
class Chain(Method):
    """States a step apart, Taylor polynomials between them; small Xi, many times, neither stiff nor badly scaled.

    No options.

    Example:
        >>> import linode
        >>> method = linode.methods.Chain()
        >>> linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'chain'
    """

    name: ClassVar[str] = "chain"
    summary: ClassVar[str] = "Taylor polynomials between the steps of a chain; small Xi, many times"
    needs_host: ClassVar[bool] = True
    takes_arrays: ClassVar[bool] = True

    def try_plan(self, Xi: Any, work: Workload, rtol: float | None = None) -> Plan:
        return self.plan(Xi, rtol, work.t_max)

    def plan(self, Xi: Any, rtol: float | None = None, t_max: float = 0.0) -> Plan:
        A = as_array(Xi)
        if A.shape[-1] > MOST_STATES_OF_NUMPY:
            return _rejected(Xi, A, t_max, rtol)
        with np.errstate(all="ignore"):
            powers = Powers.of(A)
            size = np.abs(A)
            skew = size.sum(-1) / size.sum(-2)
            good = (powers.one_norm <= MOST_OVERSCALED * powers.rate) & (powers.rate * t_max <= MOST_STEPS)
            good &= (skew.max(-1) <= MOST_SKEWED) & (skew.min(-1) * MOST_SKEWED >= 1)  # a NaN is not
        return ChainPlan(Xi, A, powers, good, t_max, rtol)

    def cost(self, work: Workload) -> float:
        n, n_steps = work.n, min(work.span / work.n**0.25, work.n_times) * work.n_trajectories  # see `Taylor.cost`
        flops = 4 * (25 * n**3 + 50 * n_steps * n**2) + 80 * work.n_rows * n
        entries = 400 * n**2 + 300 * n_steps * n + work.n_rows * (10 * n + 400)
        calls = N_CALLS + work.n_systems * n_steps * N_CALLS_PER_STEP
        return calls * SECONDS_PER_CALL + work.n_systems * (flops * SECONDS_PER_FLOP + entries * SECONDS_PER_ENTRY)


def _rejected(Xi: Any, A: Array, t_max: float, rtol: float | None) -> ChainPlan:
    none = np.zeros(len(A))
    powers = Powers(none, np.zeros((0, *A.shape)), none, none)
    return ChainPlan(Xi, A, powers, none > 0, t_max, rtol)


@dataclass
class ChainPlan(HostPlan):
    """Powers of Xi."""

    given: Any  # Xi (S, n, n), as a tensor or an array
    A: Array
    powers: Powers
    good: Array  # (S,) bool: accepted
    t_max: float
    rtol: float | None
    method: str = "chain"
    _whole: PropagatorPlan | None = field(default=None, repr=False)
    _backward: ChainPlan | None = field(default=None, repr=False)
    _last: tuple[Array, Array, ChainStates | None] | None = field(default=None, repr=False)

    @property
    def reason(self) -> str:  # type: ignore[override]
        rate, one_norm = float(self.powers.rate.max()), float(self.powers.one_norm.max())
        if self.is_accepted:
            return f"few steps, |Xi^p|^(1/p) = {rate:.3g} for times up to {self.t_max:.3g}"
        if self.A.shape[-1] > MOST_STATES_OF_NUMPY:
            return f"Xi has {self.A.shape[-1]} states, more than {MOST_STATES_OF_NUMPY}"
        return (
            f"|Xi^p|^(1/p) = {rate:.3g} and |Xi| = {one_norm:.3g} for times up to {self.t_max:.3g}: more than "
            f"{MOST_STEPS:g} steps, or Xi is overscaled or badly scaled"
        )

    @property
    def details(self) -> dict[str, Any]:
        return {"step": self._steps(np.inf).tolist()}

    def subset(self, index: Tensor) -> Plan:
        i = index.cpu().numpy()
        own = Powers(self.powers.unit[i], self.powers.scaled[:, i], self.powers.one_norm[i], self.powers.rate[i])
        return ChainPlan(self.Xi[index], self.A[i], own, self.good[i], self.t_max, self.rtol)

    def evaluate(self, z0: Any, t: Any) -> Any:
        return self.record(z0, t)[0]

    def vjp(self, z0: Any, t: Any, g: Any, want_t: bool = True) -> tuple[Any, Any, Any]:
        return self.record(z0, t)[1](g, want_t)

    def record(self, z0: Any, t: Any) -> tuple[Any, Pullback]:
        starts, times = as_array(z0), as_array(t)
        if (times < 0).any():
            return self._both_ways(z0, t)
        chain = self._chain(starts, times)
        if chain is None:
            wide_z0, wide_t = as_tensor(z0), as_tensor(t)
            return of_kind(self.whole.evaluate(wide_z0, wide_t), t), partial(self._vjp_by_whole, z0, t)
        z = chain.states()

        def pullback(g: Any, want_t: bool) -> tuple[Any, Any, Any]:
            cotangents = as_array(g)
            S, a = chain.gradients(cotangents)
            dt = (cotangents.conj() * (z @ self.A[:, None].mT)).sum(-1).real if want_t else None
            return of_kind(S, z0), of_kind(a, z0), None if dt is None else of_kind(dt, z0)

        return of_kind(z, t), pullback

    def _vjp_by_whole(self, z0: Any, t: Any, g: Any, want_t: bool) -> tuple[Any, Any, Any]:
        S, a, dt = self.whole.vjp(as_tensor(z0), as_tensor(t), as_tensor(g), want_t)
        return of_kind(S, z0), of_kind(a, z0), None if dt is None else of_kind(dt, z0)

    def _both_ways(self, z0: Any, t: Any) -> tuple[Any, Pullback]:
        """Negative times are those of -Xi."""
        z0, t = as_tensor(z0), as_tensor(t)
        back = (t < 0)[..., None]
        forth, forth_pullback = self.record(z0, t.clamp(min=0))
        if self._backward is None:
            signs = np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None, None]
            own = replace(self.powers, scaled=self.powers.scaled * signs)
            self._backward = ChainPlan(-self.Xi, -self.A, own, self.good, self.t_max, self.rtol)
        z, back_pullback = self._backward.record(z0, (-t).clamp(min=0))

        def pullback(g: Any, want_t: bool) -> tuple[Any, Any, Any]:
            g = as_tensor(g)
            S, a, dt = forth_pullback(torch.where(back, 0, g), want_t)
            Sb, ab, dtb = back_pullback(torch.where(back, g, 0), want_t)
            return S - Sb, a + ab, dt - dtb if want_t else None

        return torch.where(back, z, forth), pullback

    @property
    def whole(self) -> PropagatorPlan:
        """Every Xi by powers of one step, in the arithmetic that it needs."""
        if self._whole is None:
            self._whole = Propagator().plan(self.Xi, self.rtol)
        return self._whole

    def _steps(self, t_max: Any) -> Array:
        """Powers of two, not far above the times: t / H must not underflow."""
        rate = np.maximum(self.powers.rate, self.powers.one_norm / 2.0**40)
        exponent = np.where(rate > 0, np.floor(np.log2(THETA / np.where(rate > 0, rate, 1))), 1000.0)
        longest = np.where(np.isfinite(t_max) & (t_max > 0), np.frexp(t_max)[1] + 1.0, 1000.0)
        return np.exp2(np.clip(np.minimum(exponent, longest), -1000.0, 1000.0))

    def _chain(self, z0: Array, t: Array) -> ChainStates | None:
        """The chain of these trajectories, or None where rounding may have hurt it."""
        last = self._last  # one read: another thread may replace it
        if last is not None and np.array_equal(last[0], z0) and np.array_equal(last[1], t):
            return last[2]
        t_max = t.max((1, 2))
        chain: ChainStates | None = None
        with np.errstate(all="ignore"):
            if (self.powers.rate * t_max).max() <= 2 * MOST_STEPS:
                chain = ChainStates.of(self.powers, self._steps(t_max), z0, t)
                floor = FLOOR if self.rtol is None else max(FLOOR, 0.1 * self.rtol)
                if not chain.rounding(self.A) * UNIT_ROUNDOFF <= floor:  # a NaN is not
                    chain = None
        self._last = (z0.copy(), t.copy(), chain)
        return chain
