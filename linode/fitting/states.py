"""Least squares on (Xi, B, b, C) with the initial state of every trajectory eliminated: the general problem.

Given the other unknowns, y = C z is linear in each z0. A QR factorisation per trajectory removes z0 from residuals and
Jacobian, and Levenberg-Marquardt then takes the steps that it would take on all unknowns together.
Source: Golub & Pereyra (2003), Inverse Problems 19, R1, section 3 (Kaufman's form); Bjorck (1996), Numerical Methods
for Least Squares Problems, section 6.3 (block-angular problems).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ode import LinearODE
from .data import Data
from .estimate import Estimate
from .products import Array, column_lengths, gram, matmul, sum_of_squares, without
from .race import count_spikes
from .residuals import is_noise
from .sensitivity import Basis, Response, make_basis, respond
from .structures import Linear, Structure

SINGULAR_STATE = 1e-12  # least singular value of states, or of the effect of z0, of the largest: some 5,000 eps
TINY = 1e-300  # keeps a quotient finite whose value is not used


@dataclass(frozen=True)
class System:
    """Xi (n, n), B (n, m), b (n,) and C (p, n), which theta gives; m is 0 without input, b zero without bias."""

    Xi: Array
    B: Array
    b: Array
    C: Array


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
    """theta holds the parameters of the structure, then those of B (n, m), b (n,) and C (p, n) that are unknown.

    C (p, n), z0 (K, n): None where they are unknown. fastest: bounds of |Re lambda| and |Im lambda|.
    """

    data: Data
    structure: Structure
    C: Array | None
    bias: bool = False
    z0: Array | None = None
    fastest: tuple[float, float] = (np.inf, np.inf)
    least_starts: int = 2
    _last: tuple[Array, Eliminated | None] | None = field(default=None, init=False, repr=False)

    @property
    def n(self) -> int:
        return self.structure.n

    @property
    def sizes(self) -> list[int]:
        """Numbers of parameters of the structure, B, b and C."""
        n, p = self.n, self.data.p
        return [self.structure.size, n * self.data.m, n * self.bias, p * n * (self.C is None)]

    @property
    def bounds(self) -> tuple[Array, Array] | None:
        if self.structure.bounds is None:
            return None
        rest = np.full(sum(self.sizes[1:]), np.inf)
        low, high = self.structure.bounds
        return np.concatenate([low, -rest]), np.concatenate([high, rest])

    def unpack(self, theta: Array) -> System:
        n, (own, B, b, C) = self.n, np.split(theta, np.cumsum(self.sizes)[:-1])
        return System(
            self.structure.matrix(own),
            B.reshape(n, self.data.m),
            b if self.bias else np.zeros(n),
            self.C if self.C is not None else C.reshape(self.data.p, n),
        )

    def pack(self, own: Array, B: Array | None = None, b: Array | None = None, C: Array | None = None) -> Array:
        given = zip((own, B, b, C), self.sizes)
        return np.concatenate([np.zeros(size) if x is None else np.ravel(x)[:size] for x, size in given])

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
        C, n, m, p = found.system.C, self.n, self.data.m, self.data.p
        response = self.respond(found.system, found.basis, found.z0, True)
        assert response.by_Xi is not None  # it was asked for
        assert response.by_B is not None
        by_Xi = observed(C, response.by_Xi)
        own = theta[: self.structure.size]
        blocks = [by_Xi if self.structure.is_free else matmul(by_Xi, self.structure.slopes(own))]
        if response.by_B.shape[-1]:
            by_B = observed(C, response.by_B).reshape(*response.by_B.shape[:2], p, n, -1)
            blocks += [x.reshape(*by_B.shape[:3], -1) for x in (by_B[..., :m], by_B[..., m:])]
        if self.C is None:
            by_C = np.zeros((*response.z.shape[:2], p, p, n))
            by_C[:, :, np.arange(p), np.arange(p)] = response.z[:, :, None]
            blocks.append(by_C.reshape(*by_C.shape[:3], p * n))
        J = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, -1)
        if not self.data.is_whole:
            J = J * self.data.w[..., None]
        J = J.reshape(len(J), -1, J.shape[-1])  # (K, T p, k)
        if found.Q is not None:
            J = without(J, found.Q)
        J = J.reshape(-1, J.shape[-1])
        return (J if np.isfinite(J).all() else None), found.r.ravel()

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
                self._last = theta.copy(), self._eliminated(self.unpack(theta))
        return self._last[1]

    def _eliminated(self, system: System) -> Eliminated | None:
        data, K = self.data, self.data.K
        if not all(np.isfinite(x).all() for x in (system.Xi, system.B, system.b, system.C)):
            return None
        basis = make_basis(system.Xi)
        lam = np.linalg.eigvals(system.Xi) if basis is None else basis.lam
        if (np.abs(lam.real) > self.fastest[0]).any() or (np.abs(lam.imag) > self.fastest[1]).any():
            return None
        basis = None if data.inputs else basis
        response = self.respond(system, basis, self.z0, False)
        r = (data.w * (data.y - observed(system.C, response.z[..., None])[..., 0])).reshape(K, -1)
        if self.z0 is not None:
            return Eliminated(system, basis, self.z0, None, r) if np.isfinite(r).all() else None
        A = (observed(system.C, response.by_z0) * data.w[..., None]).reshape(K, -1, self.n)
        if not (np.isfinite(A).all() and np.isfinite(r).all()):
            return None
        z0, Q = solve_each(A, r)
        return Eliminated(system, basis, z0, Q, without(r[..., None], Q)[..., 0])

    def respond(self, system: System, basis: Basis | None, z0: Array | None, want_jacobian: bool) -> Response:
        """States and their derivatives, from zero where z0 is None."""
        data = self.data
        if basis is None:
            return exact_response(data, system, self.bias, z0, want_jacobian)
        B, u = system.B, data.u
        if self.bias:
            B, one = np.c_[system.B, system.b], np.ones(1)
            u = one if u is None else np.concatenate([u, np.broadcast_to(one, (*u.shape[:2], 1))], -1)
        return respond(basis, B, z0, data.t, u, want_jacobian)


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
    for k, u in enumerate(map(data.input_of, range(data.K))):
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


def observation_matrix(z: Array, data: Data, bias: bool) -> tuple[Array, float, Array]:
    """C (p, n), with a column for a constant where there is a bias, from states z (K, T, n) by least squares.

    Also the cost, and for each channel a root (p, n, n) of the covariance of its row of C, for noise of weight 1.
    """
    flat = z.reshape(-1, z.shape[-1])
    flat = np.concatenate([flat, np.ones((len(flat), int(bias)))], 1)
    C, roots, cost = np.zeros((data.p, flat.shape[1])), np.zeros((data.p, flat.shape[1], flat.shape[1])), 0.0
    for j in range(data.p):
        w, y = data.w[..., j].ravel(), data.y[..., j].ravel()
        U, s, Vt = np.linalg.svd(w[:, None] * flat, full_matrices=False)
        inverse = np.where(s > SINGULAR_STATE * s[0], 1 / np.maximum(s, TINY), 0.0)
        C[j] = Vt.T @ (inverse * (U.T @ (w * y)))
        roots[j] = Vt.T * inverse
        cost += sum_of_squares(w * (y - flat @ C[j]))
    return C, cost, roots


def states_of(found: Estimate, data: Data, bias: bool) -> Array:
    """States (K, T, n) at the times of the data."""
    system = System(found.Xi, found.B, found.b, found.C)
    model = StatesModel(data, Linear(len(found.Xi), np.eye(found.Xi.size)), found.C, bias)
    return model.respond(system, None if data.inputs else make_basis(found.Xi), found.z0, False).z


def observations_of(found: Estimate, data: Data, bias: bool) -> Array:
    """C z + offset, (K, T, p), at the times of the data."""
    y = states_of(found, data, bias) @ found.C.T
    return y if found.offset is None else y + found.offset


def residuals_of(found: Estimate, data: Data, bias: bool) -> Array:
    """Weighted residuals, (K, T, p)."""
    with np.errstate(all="ignore"):
        return data.w * (data.y - observations_of(found, data, bias))
