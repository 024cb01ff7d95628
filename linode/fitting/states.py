"""Least squares on Xi, B, b, C, D and a delay, with all initial states eliminated: the general problem.

Given the other unknowns, y = C z is linear in each z0. A QR factorisation per trajectory removes z0 from residuals and
Jacobian, and Levenberg-Marquardt then takes the steps that it would take on all unknowns together.
Source: Golub & Pereyra (2003), Inverse Problems 19, R1, section 3 (Kaufman's form); Bjorck (1996), Numerical Methods
for Least Squares Problems, section 6.3 (block-angular problems).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ..ode import LinearODE
from .data import Data
from .estimate import Estimate
from .products import Array, column_lengths, gram, matmul, sum_of_squares, without
from .race import count_spikes
from .residuals import is_noise
from .sensitivity import Basis, Response, make_basis, respond
from .structures import Structure
from .unknowns import FREE_PARTS, System, Unknowns

DELAY_STEP = 6e-6  # cube root of eps, of the longest trajectory: central differences by the delay
SINGULAR_STATE = 1e-12  # least singular value of states, or of the effect of z0, of the largest: some 5,000 eps
LEFT_OPEN = 1e-9  # square of the part of a direction without effect in an entry of z0, above which it is open
MOVED = 1e-6  # of its terms: a smaller sum of moves by a change of basis is rounding
TINY = 1e-300  # keeps a quotient finite whose value is not used


@dataclass(frozen=True)
class Eliminated:
    """The best z0 (K, n), an orthonormal basis Q (K, T p, n) of its effect on observations, residuals r (K, T p)."""

    system: System
    basis: Basis | None
    z0: Array
    Q: Array | None
    r: Array


@dataclass
class StatesModel:
    """theta as `unknowns` arranges it; fastest: bounds of |Re lambda| and |Im lambda|."""

    data: Data
    unknowns: Unknowns
    fastest: tuple[float, float] = (np.inf, np.inf)
    least_starts: int = 2
    enough: float = 0.0
    _last: tuple[Array, Eliminated | None] | None = field(default=None, init=False, repr=False)

    @property
    def n(self) -> int:
        return self.unknowns.n

    @property
    def structure(self) -> Structure:
        return self.unknowns.structure

    @property
    def bounds(self) -> tuple[Array, Array] | None:
        return self.unknowns.bounds

    def cost(self, theta: Array) -> float:
        found = self.eliminated(theta)
        return np.inf if found is None else sum_of_squares(found.r)

    def linearise(self, theta: Array) -> tuple[float, Array, Array]:
        J, r = self.jacobian(theta)
        if J is None:
            return np.inf, np.zeros((len(theta), len(theta))), np.zeros(len(theta))
        return sum_of_squares(r), gram(J), -np.einsum("nk,n->k", J, r)

    def jacobian(self, theta: Array) -> tuple[Array | None, Array]:
        """d(model) / d(theta) with the initial states eliminated, (values, k), and the residuals, weighted."""
        found = self.eliminated(theta)
        if found is None:
            return None, np.zeros(0)
        J = self._by_theta(theta, found)
        if found.Q is not None:
            J = without(J, found.Q)
        J = J.reshape(-1, J.shape[-1])
        return (J if np.isfinite(J).all() else None), found.r.ravel()

    def z0_variances(self, theta: Array, covariance: Array, changes: Array) -> Array:
        """(K, n): variances of z0 for noise of weight 1, infinite where the data, or a change of basis, leave it open.

        covariance: of theta. changes: directions of theta that change the basis. At fixed theta z0 has errors of its
        own; those of theta move the best z0.
        """
        found, free, slopes = self.eliminated(theta), self.unknowns.free_z0, self.unknowns.slopes(theta)
        assert found is not None  # its cost is finite
        K, n = free.shape
        own, by_theta, is_open = np.zeros((K, n)), np.zeros((K, n, len(theta))), np.zeros((K, n), bool)
        if "z0" in slopes:
            by_theta[..., self.unknowns.place("Xi")] = slopes["z0"].reshape(K, n, -1)
        elif free.any():
            A = self._by_z0(found.system, self.respond(found.system, found.basis, None, False))
            norms = column_lengths(A)
            U, s, Vt = np.linalg.svd(A / norms, full_matrices=A.shape[1] < n)
            s = np.pad(s, ((0, 0), (0, n - s.shape[1])))
            kept = s > SINGULAR_STATE * s[:, :1]
            is_open = (np.where(kept[..., None], 0.0, Vt) ** 2).sum(1) > LEFT_OPEN
            root = Vt.swapaxes(1, 2) * np.where(kept, 1 / np.where(kept, s, 1.0), 0.0)[:, None] / norms.swapaxes(1, 2)
            own = (root**2).sum(-1)
            pulled = U.swapaxes(1, 2) @ self._by_theta(theta, found)  # (K, n or T p, k)
            by_theta = -root[..., : pulled.shape[1]] @ pulled
        variances = own + np.einsum("kni,ij,knj->kn", by_theta, covariance, by_theta)
        if len(changes):
            moved = np.abs(by_theta @ changes.T) > MOVED * (np.abs(by_theta) @ np.abs(changes.T))
            is_open |= moved.any(-1)
        variances[is_open] = np.inf
        return variances if "z0" in slopes else np.where(free, variances, 0.0)

    def _by_z0(self, system: System, response: Response) -> Array:
        """Weighted derivatives (K, T p, n) of the observations by z0, 0 for what is known."""
        free = self.unknowns.free_z0
        A = (observed(system.C, response.by_z0) * self.data.w[..., None]).reshape(len(free), -1, self.n)
        return A if free.all() else A * free[:, None]

    def _by_theta(self, theta: Array, found: Eliminated) -> Array:
        """Weighted derivatives (K, T p, k) of the observations by theta, with z0 as it is."""
        by_part, slopes = self._by_parts(found), self.unknowns.slopes(theta)
        if self.structure.is_free:
            own = by_part["Xi"]()
        else:
            own = np.add.reduce([matmul(by_part[name](), slopes[name]) for name in slopes])
        blocks = [own]
        for name in FREE_PARTS:
            index = self.unknowns.free(name)
            if len(index):
                block = by_part[name]()
                blocks.append(block if len(index) == block.shape[-1] else block[..., index])
        J = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, -1)
        if not self.data.is_whole:
            J = J * self.data.w[..., None]
        return J.reshape(len(J), -1, J.shape[-1])

    def _by_parts(self, found: Eliminated) -> dict[str, Callable[[], Array]]:
        """Derivatives (K, T, p, entries) of the observations by the entries of each part, computed when asked for."""
        C, n, m, p, K = found.system.C, self.n, self.data.m, self.data.p, self.data.K
        response = self.respond(found.system, found.basis, found.z0, True)
        z, by_Xi, by_B = response.z, response.by_Xi, response.by_B
        assert by_Xi is not None  # it was asked for
        assert by_B is not None

        def by_gains(kept: slice) -> Array:
            seen = observed(C, by_B).reshape(*z.shape[:2], p, n, -1)[..., kept]
            return seen.reshape(*seen.shape[:3], -1)

        def by_rows(x: Array) -> Array:
            """By the entries of M (p, k) in M x, for x (K, T, k)."""
            every = np.zeros((*x.shape[:2], p, p, x.shape[-1]))
            every[:, :, np.arange(p), np.arange(p)] = x[:, :, None]
            return every.reshape(*every.shape[:3], -1)

        def by_z0() -> Array:
            every = np.zeros((*z.shape[:2], p, K, n))
            every[np.arange(K), :, :, np.arange(K)] = observed(C, response.by_z0)
            return every.reshape(*every.shape[:3], -1)

        def by_delay() -> Array:
            """By central differences: held samples make the observations piecewise smooth in the delay."""
            system, ends = found.system, []
            h = DELAY_STEP * self.data.span
            for move in (-min(h, system.delay), h):
                moved = replace(system, delay=system.delay + move)
                ends.append((move, self.observe(moved, self.respond(moved, found.basis, found.z0, False).z)))
            (low, before), (high, after) = ends
            return ((after - before) / (high - low))[..., None]

        return {
            "Xi": lambda: observed(C, by_Xi),
            "B": lambda: by_gains(slice(0, m)),
            "b": lambda: by_gains(slice(m, None)),
            "C": lambda: by_rows(z),
            "D": lambda: by_rows(self.data.inputs_at(found.system.delay)),
            "z0": by_z0,
            "delay": by_delay,
        }

    def observe(self, system: System, z: Array) -> Array:
        """C z + D u, (K, T, p)."""
        y = observed(system.C, z[..., None])[..., 0]
        if system.D.any():
            y = y + self.data.inputs_at(system.delay) @ system.D.T
        return y

    def n_spikes(self, theta: Array) -> int:
        found = self.eliminated(theta)
        if found is None or self.data.m:  # an input excites a mode at all times
            return 0
        return count_spikes(np.linalg.eigvals(found.system.Xi), self.data.t, self.data.is_time)

    def rechart(self, theta: Array) -> Array:
        """theta itself: these coordinates have no singular points."""
        return theta

    def leaves_noise(self, theta: Array) -> bool:
        found = self.eliminated(theta)
        return found is not None and is_noise(found.r.reshape(self.data.w.shape), self.data.w > 0)

    def eliminated(self, theta: Array) -> Eliminated | None:
        """The problem with the best initial states; None where it is not finite, or eigenvalues are out of bounds."""
        if self._last is None or not np.array_equal(self._last[0], theta):
            with np.errstate(all="ignore"):
                self._last = theta.copy(), self.with_best_z0(self.unknowns.system(theta))
        return self._last[1]

    def with_best_z0(self, system: System) -> Eliminated | None:
        """As `eliminated`, for a system whose free entries of z0 are 0."""
        data, K, free = self.data, self.data.K, self.unknowns.free_z0
        if not all(np.isfinite(x).all() for x in (system.Xi, system.B, system.b, system.C, system.D, system.z0)):
            return None
        basis = make_basis(system.Xi)
        lam = np.linalg.eigvals(system.Xi) if basis is None else basis.lam
        if (np.abs(lam.real) > self.fastest[0]).any() or (np.abs(lam.imag) > self.fastest[1]).any():
            return None
        basis = None if data.inputs else basis
        response = self.respond(system, basis, system.z0 if system.z0.any() else None, False)
        r = (data.w * (data.y - self.observe(system, response.z))).reshape(K, -1)
        if not free.any():
            return Eliminated(system, basis, system.z0, None, r) if np.isfinite(r).all() else None
        A = self._by_z0(system, response)
        if not (np.isfinite(A).all() and np.isfinite(r).all()):
            return None
        z0, Q = solve_each(A, r)
        return Eliminated(system, basis, system.z0 + z0, Q, without(r[..., None], Q)[..., 0])

    def respond(self, system: System, basis: Basis | None, z0: Array | None, want_jacobian: bool) -> Response:
        """States and their derivatives, from zero where z0 is None."""
        data, has_b = self.data, self.unknowns.has_b
        if basis is None:
            return exact_response(data, system, has_b, z0, want_jacobian)
        B, u, t, where = system.B, data.u, data.t, None
        if u is not None:
            t, u, where = data.timeline(system.delay)
        if has_b:
            B, one = np.c_[system.B, system.b], np.ones(1)
            u = one if u is None else np.concatenate([u, np.broadcast_to(one, (*u.shape[:2], 1))], -1)
        response = respond(basis, B, z0, t, u, want_jacobian)
        return response if where is None else response.at(where)


def observed(C: Array, x: Array) -> Array:
    """C x for x (K, T, n, k)."""
    if C.shape[0] == C.shape[1] and np.array_equal(C, np.eye(len(C))):
        return x
    return C @ x


def solve_each(A: Array, r: Array) -> tuple[Array, Array]:
    """The smallest least-squares solution x (K, n) of A x = r, A (K, N, n), r (K, N), and a basis of A's range.

    The basis (K, N, n) is orthonormal, with columns of zeros where A has a lower rank.
    """
    norms = column_lengths(A)
    missing = A.shape[2] - A.shape[1]
    scaled = A / norms
    if missing > 0:
        scaled = np.pad(scaled, ((0, 0), (0, missing), (0, 0)))
    Q, R = np.linalg.qr(scaled)
    Q = Q[:, : A.shape[1]]
    if (np.abs(np.diagonal(R, axis1=1, axis2=2)) > SINGULAR_STATE).all():
        return np.linalg.solve(R, Q.swapaxes(1, 2) @ r[..., None])[..., 0] / norms[:, 0], Q
    U, s, Vt = np.linalg.svd(R)
    kept = s > SINGULAR_STATE * s[:, :1]
    Q = Q @ (U * kept[:, None])
    x = (Q.swapaxes(1, 2) @ r[..., None])[..., 0] / np.where(kept, s, 1.0)
    return (Vt.swapaxes(1, 2) @ x[..., None])[..., 0] / norms[:, 0], Q


def exact_response(data: Data, system: System, bias: bool, z0: Array | None, want_jacobian: bool) -> Response:
    """As `respond`, by `LinearODE`: for Xi without a well-conditioned basis, and for every kind of input.

    The derivative x of z by an entry of Xi solves x' = Xi x + E z, x(0) = 0, where E is 1 in that entry; it is solved
    together with z.
    """
    n, m = system.Xi.shape[0], system.B.shape[1]
    Xi, b = system.Xi, system.b if bias else None
    states, by_z0, by_Xi, by_B = [], [], [], []
    for k, u in enumerate([data.input_of(k, system.delay) for k in range(data.K)]):
        t, start = data.t[k], np.zeros(n) if z0 is None else z0[k]
        states.append(LinearODE(Xi, start, b=b, B=None if u is None else system.B, u=u)(t))
        by_z0.append(LinearODE(Xi, start).propagator(t))
        if not want_jacobian:
            continue
        beside = np.zeros((n * n, 2 * n, 2 * n))
        beside[:, :n, :n] = beside[:, n:, n:] = Xi
        beside[:, :n, n:] = np.eye(n * n).reshape(n * n, n, n)
        nothing = np.zeros((n, 1))
        ode = LinearODE(
            beside,
            np.r_[np.zeros(n), start],
            b=None if b is None else np.r_[np.zeros(n), b],
            B=None if u is None else np.r_[nothing.repeat(m, 1), system.B],
            u=u,
        )
        by_Xi.append(np.moveaxis(ode(t)[..., :n], 0, -1))
        gains = np.zeros((len(t), n, n, 0))
        if u is not None:
            each = np.eye(n * m).reshape(n * m, n, m)
            driven = LinearODE(Xi, np.zeros(n), B=each, u=u)(t)  # (n m, T, n)
            gains = np.moveaxis(driven.reshape(n, m, len(t), n), (0, 1), (2, 3))
        if bias:
            constant = LinearODE(Xi, np.zeros(n), b=np.eye(n))(t)  # (n, T, n)
            gains = np.concatenate([gains, np.moveaxis(constant, 0, -1)[..., None]], -1)
        by_B.append(gains.reshape(len(t), n, -1))
    if not want_jacobian:
        return Response(np.stack(states), np.stack(by_z0), None, None)
    return Response(np.stack(states), np.stack(by_z0), np.stack(by_Xi), np.stack(by_B))


def observation_matrix(X: Array, data: Data) -> tuple[Array, float, Array]:
    """The matrix (p, q) that makes observations of X (K, T, q), such as states, by least squares.

    Also the cost, and for each channel a root (p, q, q) of the covariance of its row, for noise of weight 1.
    """
    flat = X.reshape(-1, X.shape[-1])
    C, roots, cost = np.zeros((data.p, flat.shape[1])), np.zeros((data.p, flat.shape[1], flat.shape[1])), 0.0
    for j in range(data.p):
        w, y = data.w[..., j].ravel(), data.y[..., j].ravel()
        U, s, Vt = np.linalg.svd(w[:, None] * flat, full_matrices=False)
        inverse = np.where(s > SINGULAR_STATE * s[0], 1 / np.maximum(s, TINY), 0.0)
        C[j] = Vt.T @ (inverse * (U.T @ (w * y)))
        roots[j] = Vt.T * inverse
        cost += sum_of_squares(w * (y - flat @ C[j]))
    return C, cost, roots


def explaining(z: Array, data: Data, delay: float, has_D: bool, bias: bool) -> Array:
    """What observations are linear in, (K, T, q): the states z (K, T, n), the inputs and a constant."""
    inputs = [data.inputs_at(delay)] if has_D else []
    return np.concatenate([z, *inputs, np.ones((*z.shape[:2], int(bias)))], -1)


def states_of(found: Estimate, data: Data) -> Array:
    """States (K, T, n) at the times of the data."""
    model = StatesModel(data, found.unknowns)
    return model.respond(found, None if data.inputs else make_basis(found.Xi), found.z0, False).z


def observations_of(found: Estimate, data: Data) -> Array:
    """C z + D u + offset, (K, T, p), at the times of the data."""
    y = states_of(found, data) @ found.C.T
    if found.D.any():
        y = y + data.inputs_at(found.delay) @ found.D.T
    return y if found.offset is None else y + found.offset


def residuals_of(found: Estimate, data: Data) -> Array:
    """Weighted residuals, (K, T, p)."""
    with np.errstate(all="ignore"):
        return data.w * (data.y - observations_of(found, data))
