"""Taylor polynomials of Xi acting on vectors: no product of matrices, no factorisation.

Use for large dense Xi (n above about 100) whose spectrum times t_max is moderate: some twenty products of Xi with a
vector for every unit of it, as many for the gradient, and one polynomial a time. Xi is balanced, and shifted by the
mean of its diagonal where that cannot hurt.
Check: the products needed are few enough, and for small n, where `propagator` has arithmetic that does better, its
measurement of rounding; systems and times that fail it go there.
Source: see `kernels.action`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..kernels.action import MAX_TERMS, THETA, UNIT, Growth, Series
from ..kernels.balance import balance
from ..kernels.dense import Padded, Runs, group
from ..kernels.memory import Memory
from ..kernels.taylor import DOUBLE, Degree, monomials
from ..kernels.tensors import widened
from .base import Gradients, Method, Plan, SplitPlan, Workload, register
from .costs import OPERATORS, SECONDS_PER_CALL, SECONDS_PER_FLOP, SECONDS_PER_MATRIX_ENTRY
from .propagator import EXTENDED_MAX_N, N_PROBES, Propagator, PropagatorPlan

# Largest number of products of Xi with a vector: 10 n of them cost as much as the 40 products of n x n of `propagator`
MOST_PRODUCTS, MOST_PRODUCTS_PER_N = 4096, 10
SIMILAR = 8.0  # diagonal entries within this factor of the shift mu lose at most three bits by subtracting it
MAX_SHIFT = 4.0  # |mu| H: where a node underflows, states half a step before it must not
MOST_ENTRIES = 2**22  # entries of vectors that are computed at once, and kept for the reverse: 32 MiB
GUARD = 64.0  # where states are single precision, nodes are more accurate than them by this factor
TYPICAL_TERMS = 30  # of a step: see THETA
LIKE_STEPS = 3.0  # systems whose steps are within a factor 2^3 share one
N_WAITS = 3  # of a step on a device, beside those of the engine and of the check: see tests/second_device.py


@register
@dataclass(frozen=True)
class Taylor(Method):
    """Taylor polynomials of Xi acting on vectors; large Xi, moderate spans of time.

    No options.

    Example:
        >>> import linode
        >>> method = linode.methods.Taylor()
        >>> linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0], method=method).solve([1.0]).method
        'taylor'
    """

    name: ClassVar[str] = "taylor"
    summary: ClassVar[str] = "Taylor polynomials by matrix-vector products; large Xi, moderate spans"
    needs_times: ClassVar[bool] = True

    def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> TaylorPlan:
        balanced, D = balance(Xi)
        mu = _shift(balanced)
        A = balanced
        if bool((mu != 0).any()):
            A = balanced.clone()
            A.diagonal(dim1=-2, dim2=-1).sub_(mu[:, None])
        growth = Growth.of(A, D)
        size = mu.abs().cpu()
        most = torch.floor(torch.log2(MAX_SHIFT / torch.where(size > 0, size, 1e-300)))
        exponent = torch.minimum(growth.steps(), most)
        return TaylorPlan(Xi, balanced, D, A, mu, growth, exponent, (work or Workload.of(Xi)).t_max, rtol)

    def cost(self, work: Workload) -> float:
        n = work.n
        # of Xi with vectors: in the plan, and at every node forward and in reverse
        n_products = MAX_TERMS + 2 * TYPICAL_TERMS * (1 + work.power_span / THETA)
        seconds = work.operators(OPERATORS["taylor"], N_WAITS)
        if n <= EXTENDED_MAX_N:  # the check
            seconds += Propagator().cost(work._replace(n_times=min(work.n_times, N_PROBES)))
        if not work.is_on_host:
            return seconds + work.operators(n_products)
        product = n**2 * (SECONDS_PER_MATRIX_ENTRY + 2 * (work.n_trajectories - 1) * SECONDS_PER_FLOP)
        of_system = n_products * product + work.n_rows * work.polynomial(DOUBLE.n_terms, n_passes=5)
        return seconds + n_products * SECONDS_PER_CALL + work.n_systems * of_system


def _exponent_of(t_max: float) -> float:
    """log2 of the longest step that times up to t_max ask for."""
    return math.frexp(t_max)[1] + 1.0 if t_max > 0 else 1000.0


def _shift(A: Tensor) -> Tensor:
    """(S,) the mean of the diagonal, where it makes A smaller and no diagonal entry loses digits; 0 elsewhere."""
    diagonal = A.diagonal(dim1=-2, dim2=-1)
    mu = diagonal.mean(-1)
    size, mean = diagonal.abs(), mu.abs()
    column = A.abs().sum(-2)
    is_similar = ((size <= SIMILAR * mean[:, None]) & (mean[:, None] <= SIMILAR * size)).all(-1)
    is_smaller = (column - size + (diagonal - mu[:, None]).abs()).amax(-1) < column.amax(-1)
    return torch.where(is_similar & is_smaller, mu, 0)


@dataclass(frozen=True)
class Walk:
    """Vectors at all nodes for some z0 and t, and the times grouped by node."""

    H: float
    series: Series
    V: Tensor  # (N, m, S, R, n), float64 or complex128
    scale: Tensor | None  # (S, 1, 1, 1, n): states are it times the vectors
    groups: Runs | Padded
    C: Tensor  # coefficients of the times, in the order of the groups and in the dtype of z0

    def states(self) -> Tensor:
        """z (S, R, T, n)."""
        W = self._by_node(self.V)
        return self.groups.states(self.C, (W if self.scale is None else W * self.scale).to(self.C.dtype))

    def gather(self, g: Tensor) -> Tensor:
        """The gradient with respect to V for cotangents g (S, R, T, n)."""
        gV = torch.zeros_like(self.V)
        target = self._by_node(gV)
        own = target if self.scale is None and g.dtype == gV.dtype else g.new_zeros(target.shape)
        self.groups.gather(self.C, g, own)
        if own is not target:
            target += own if self.scale is None else own.to(gV.dtype) * self.scale
        return gV

    def _by_node(self, V: Tensor) -> Tensor:
        """(S, R, N, near terms, n), a view."""
        return V[:, : self.C.shape[-1]].permute(2, 3, 0, 1, 4)


@dataclass
class TaylorPlan(Plan):
    """Balanced and shifted Xi, and how its powers grow."""

    Xi: Tensor
    balanced: Tensor  # D^-1 Xi D
    D: Tensor  # (S, n) powers of two
    A: Tensor  # balanced - mu I
    mu: Tensor  # (S,)
    growth: Growth
    exponent: Tensor  # (S,) the step is at most 2^exponent; -inf where no step will do; on the CPU
    t_max: float
    rtol: float | None
    is_checked: bool = False  # for the trajectories that it is asked for
    method: str = "taylor"
    n_products: int = 0  # so far, beside those of the plan
    _whole: PropagatorPlan | None = field(default=None, init=False, repr=False)
    _choice: Memory[Plan] = field(default_factory=Memory, init=False, repr=False)
    _walk: Memory[Walk] = field(default_factory=Memory, init=False, repr=False)
    single_from = 2**16  # below, the precision of double is worth its time

    @property
    def accepted(self) -> Tensor:
        return self._is_short(torch.full((len(self.Xi),), self.t_max, dtype=torch.float64, device="cpu"))

    @property
    def reason(self) -> str:
        counts = self._count(torch.tensor(self.t_max, device="cpu").double())
        most, count = self._most_products, max(counts.flatten().tolist(), default=0.0)
        if count <= most:
            return f"products of Xi with vectors only, {count:.3g} of them for times up to {self.t_max:.3g}"
        return f"{count:.3g} products of Xi with a vector for times up to {self.t_max:.3g}, more than {most:.3g}"

    @property
    def details(self) -> dict[str, Any]:
        chosen = self._choice.last
        if chosen is not None and chosen is not self:
            return chosen.details
        return {"step": torch.exp2(self.exponent).tolist(), "shift": self.mu.tolist(), "n_products": self.n_products}

    def subset(self, index: Tensor) -> TaylorPlan:
        tensors = {name: getattr(self, name)[index] for name in ("Xi", "balanced", "D", "A", "mu")}
        host = index.cpu()
        return replace(self, **tensors, growth=self.growth.subset(host), exponent=self.exponent[host], n_products=0)

    def adjoint(self) -> TaylorPlan:
        work = Workload.of(self.Xi)._replace(t_max=self.t_max)
        return Taylor().plan(self.Xi.mT.conj_physical(), self.rtol, work)

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        if not self.is_checked:
            plan = self._chosen(z0, t)
            return plan.evaluate(z0 if isinstance(plan, TaylorPlan) else widened(z0), t)
        most = self._most_trajectories(t)
        if z0.shape[1] > most:
            return torch.cat([self.evaluate(*part) for part in zip(z0.split(most, 1), t.split(most, 1))], 1)
        return self._walk_of(z0, t).states()

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> Gradients:
        if not self.is_checked:
            plan = self._chosen(z0, t)
            own = (z0, g) if isinstance(plan, TaylorPlan) else (widened(z0), widened(g))
            return plan.vjp(own[0], t, own[1])
        most = self._most_trajectories(t)
        if z0.shape[1] > most:
            parts = zip(z0.split(most, 1), t.split(most, 1), g.split(most, 1))
            S_parts, a_parts = zip(*(self.vjp(*part) for part in parts))
            return sum(S_parts), torch.cat(a_parts, 1)
        walk, D = self._walk_of(z0, t), self.D
        before = walk.series.n_products
        S, a = walk.series.vjp(walk.V, walk.gather(g))
        self.n_products += walk.series.n_products - before
        S *= walk.H
        return (S / D[:, :, None] * D[:, None, :] if self._is_balanced else S), a / D[:, None]

    @property
    def whole(self) -> PropagatorPlan:
        """Every Xi by powers of one step."""
        if self._whole is None:
            self._whole = Propagator().plan(self.Xi, self.rtol)
        return self._whole

    @property
    def _most_products(self) -> int:
        return max(MOST_PRODUCTS, MOST_PRODUCTS_PER_N * self.Xi.shape[-1])

    @property
    def _is_balanced(self) -> bool:
        return self.balanced is not self.Xi

    def _count(self, t_max: Tensor) -> Tensor:
        """(S,) products of A with each trajectory up to t_max, on the CPU."""
        terms = self.growth.n_terms(self.exponent.clamp(min=-1e6))
        return torch.where(
            terms <= MAX_TERMS, terms * (1 + t_max * torch.exp2(-self.exponent.clamp(min=-1e3))), torch.inf
        )

    def _is_short(self, t_max: Tensor) -> Tensor:
        """(S,) bool: few enough products up to t_max (S,)."""
        return (self._count(t_max.cpu()) <= self._most_products).to(self.Xi.device)

    def _chosen(self, z0: Tensor, t: Tensor) -> Plan:
        """This plan, or powers of one step for the systems that need it for these trajectories."""
        return self._choice.of(lambda: self._choose(z0, t), z0, t)

    def _choose(self, z0: Tensor, t: Tensor) -> Plan:
        good = self._is_short(t.amax((1, 2)))
        if self.Xi.shape[-1] <= EXTENDED_MAX_N:
            good &= self.whole.arithmetic(widened(z0), t) == 0
        if not bool(good.any()):
            return self.whole
        # steps that are much shorter than a system needs cost it digits: those of similar steps go together
        like = torch.floor(torch.clamp(self.exponent, -1e3, _exponent_of(float(t.max()))) / LIKE_STEPS)
        kinds = torch.where(good.cpu(), like, torch.nan).to(self.Xi.device)
        groups = [(kinds == kind).nonzero()[:, 0] for kind in like[good.cpu()].unique().tolist()]
        if len(groups[0]) == len(self.Xi):
            return replace(self, is_checked=True, n_products=0)
        parts: list[tuple[Tensor, Plan]] = [(x, replace(self.subset(x), is_checked=True)) for x in groups]
        if not bool(good.all()):
            rest = (~good).nonzero()[:, 0]
            parts.append((rest, self.whole.subset(rest)))
        return SplitPlan(self.Xi, parts)

    def _walk_of(self, z0: Tensor, t: Tensor) -> Walk:
        """Vectors from z0 up to the largest of t >= 0."""
        known = self._walk.known(z0, t)  # of z0 of one dtype: nodes depend on it
        if known is not None:
            return known
        H, n_terms, n_near = self._step_for(t, torch.finfo(z0.dtype).eps / 2)
        series = Series(self.A * H, torch.exp(self.mu * H), n_terms, n_near)
        x = t / H
        k = torch.round(x)
        N = int(k.max()) + 1
        groups = group(k.to(torch.int64), N, z0.shape[-1])
        s = (x - k).to(z0.real.dtype)
        C = monomials(s, Degree(n_near, 1), s)
        if bool((self.mu != 0).any()):
            C = C * torch.exp((self.mu * H)[:, None, None] * s)[..., None]
        V = series.vectors(widened(z0) / self.D[:, None], N)
        self.n_products += series.n_products
        scale = self.D[:, None, None, None] if self._is_balanced else None
        walk = Walk(H, series, V, scale, groups, groups.coefficients(C.to(z0.dtype)))
        return self._walk.keep(walk, z0, t) if V.numel() <= MOST_ENTRIES else walk

    def _step_for(self, t: Tensor, unit: float = UNIT) -> tuple[float, int, int]:
        """One H for all systems, not far above the times: t / H must not underflow; terms for H / 2 to the unit
        roundoff of the states, and for H to less, for every node adds to the error.
        """
        exponent = min(float(self.exponent.min()), _exponent_of(float(t.max())))
        full = torch.full((len(self.Xi),), exponent, dtype=torch.float64, device="cpu")
        half = full - 1
        own = max(unit / GUARD, UNIT)
        n_terms, n_near = int(self.growth.n_terms(full, own).max()), int(self.growth.n_terms(half, unit).max())
        return 2.0**exponent, n_terms, n_near

    def _most_trajectories(self, t: Tensor) -> int:
        """How many of each system are laid out at once."""
        S, R, _ = t.shape
        if R == 1:
            return 1
        H, n_terms, _ = self._step_for(t)
        return max(1, int(MOST_ENTRIES / (n_terms * (1 + float(t.max()) / H) * S * self.Xi.shape[-1])))
