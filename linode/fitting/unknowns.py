"""The unknowns of a fit, in one place: which entries of Xi, B, b, C, D, z0 and the delay are free, known or structured.

theta holds the parameters of the structure, then the free entries of B, b, C and D, row by row, and a free delay. Free
entries of z0 are no part of it: they are eliminated (see `states`).
A change of basis of the states, z -> S z + d with C d = 0, leaves all observations as they are; `changes_of_basis`
finds those that the known entries and the structure allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from .products import Array
from .structures import Linear, Structure

FREE_PARTS = ("B", "b", "C", "D", "delay")  # whose free entries are in theta, in this order
ALLOWED = 1e-9  # least singular value of the conditions on a change of basis, of the largest one: half of the digits


@dataclass(frozen=True)
class System:
    """Xi (n, n), B (n, m), b (n,), C (p, n), D (p, m), delay, and z0 (K, n), 0 where it is free."""

    Xi: Array
    B: Array
    b: Array
    C: Array
    D: Array
    z0: Array
    delay: float


@dataclass(frozen=True)
class Unknowns:
    """structure: gives Xi, and the parts that it names. B, b, C, D, z0 (K, n), delay (): known values, NaN where free.

    longest_delay: that a free delay may have.
    """

    structure: Structure
    B: Array
    b: Array
    C: Array
    D: Array
    z0: Array
    delay: Array
    longest_delay: float = np.inf

    @property
    def n(self) -> int:
        return self.structure.n

    @property
    def has_b(self) -> bool:
        """Whether b is free, structured, or known and not 0."""
        return "b" in self.structure.names or bool((self.b != 0).any())

    @property
    def is_free_C(self) -> bool:
        """Whether every entry of C is free."""
        return "C" not in self.structure.names and bool(np.isnan(self.C).all())

    def knows(self, name: str) -> bool:
        """Whether every entry of a part is known."""
        return name not in self.structure.names and not np.isnan(getattr(self, name)).any()

    def free(self, name: str) -> Array:
        """Flat indices of the free entries of a part."""
        if name in self.structure.names:
            return np.zeros(0, int)
        return np.flatnonzero(np.isnan(getattr(self, name)))

    @property
    def free_z0(self) -> Array:
        """(K, n): whether an entry of z0 is free."""
        return np.isnan(self.z0) & ("z0" not in self.structure.names)

    @property
    def sizes(self) -> dict[str, int]:
        """How many entries of theta belong to the structure, by the name Xi, and to each other part."""
        return {"Xi": self.structure.size, **{name: len(self.free(name)) for name in FREE_PARTS}}

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    def place(self, name: str) -> slice:
        """Where in theta the free entries of a part are; Xi: the parameters of the structure."""
        start = 0
        for other, size in self.sizes.items():
            if other == name:
                return slice(start, start + size)
            start += size
        raise KeyError(name)

    @property
    def bounds(self) -> tuple[Array, Array] | None:
        """Lowest and highest theta, where the structure has bounds or the delay is free."""
        if self.structure.bounds is None and not len(self.free("delay")):
            return None
        low, high = np.full(self.size, -np.inf), np.full(self.size, np.inf)
        if self.structure.bounds is not None:
            low[self.place("Xi")], high[self.place("Xi")] = self.structure.bounds
        low[self.place("delay")], high[self.place("delay")] = 0.0, self.longest_delay
        return low, high

    def system(self, theta: Array) -> System:
        given = {name: np.array(np.nan_to_num(getattr(self, name)), ndmin=1) for name in (*FREE_PARTS, "z0")}
        for name in FREE_PARTS:
            given[name].reshape(-1)[self.free(name)] = theta[self.place(name)]
        for name, value in self.structure.parts(theta[self.place("Xi")]).items():
            if name != "Xi":
                shape = getattr(self, name).shape
                value = value.reshape(shape) if value.size == prod(shape) else np.broadcast_to(value, shape)
            given[name] = value
        Xi, B, b, C, D, z0 = (given[name] for name in ("Xi", "B", "b", "C", "D", "z0"))
        return System(Xi, B, b, C, D, z0, float(given["delay"][0]))

    def pack(self, own: Array, **parts: Array | None) -> Array:
        """theta from parameters of the structure and values of parts, of which free entries are taken; without: 0."""
        theta = np.zeros(self.size)
        theta[self.place("Xi")] = own
        for name, value in parts.items():
            if value is not None:
                theta[self.place(name)] = np.ravel(value)[self.free(name)]
        return theta

    def slopes(self, theta: Array) -> dict[str, Array]:
        """Derivatives (entries, size of structure) of the parts that the structure gives."""
        found = self.structure.part_slopes(theta[self.place("Xi")])
        if "z0" in found:  # one row for all trajectories
            K = len(self.z0)
            found["z0"] = np.tile(found["z0"], (K * self.n // len(found["z0"]), 1))
        return found

    def by_entries(self, theta: Array, names: tuple[str, ...]) -> Array:
        """Derivatives (entries of the parts in that order, size) by theta."""
        slopes, rows = self.slopes(theta), []
        for name in names:
            count = self.n**2 if name == "Xi" else prod(getattr(self, name).shape)
            block = np.zeros((count, self.size))
            if name in slopes:
                block[:, self.place("Xi")] = slopes[name]
            else:
                index = self.free(name)
                block[index, np.arange(self.place(name).start, self.place(name).stop)] = 1.0
            rows.append(block)
        return np.concatenate(rows)

    def names(self) -> tuple[str, ...]:
        """Names of the entries of theta."""
        words = self.structure.theta_names()
        for name in FREE_PARTS:
            shape = getattr(self, name).shape
            for i in self.free(name):
                where = ", ".join(str(x) for x in np.unravel_index(i, shape)) if shape else ""
                words.append(f"{name}[{where}]" if where else name)
        return tuple(words)

    def changes_of_basis(self, theta: Array, z0: Array) -> Array:
        """Directions (k, size) of theta that change the basis of the states and nothing else; z0 (K, n): all of it.

        A change S, d moves Xi by S Xi - Xi S, B by S B, b by S b - Xi d, C by -C S and z0 by S z0 + d. What is known
        must stay, and what the structure gives must move within it.
        """
        n, system, own = self.n, self.system(theta), self.structure.size
        Xi, C, E = system.Xi, system.C, np.eye(self.n)
        nothing = np.zeros  # entries of S row by row, then d
        K = len(z0)
        moves = {
            "Xi": np.c_[np.kron(E, Xi.T) - np.kron(Xi, E), nothing((n * n, n))],
            "B": np.c_[np.kron(E, system.B.T), nothing((system.B.size, n))],
            "b": np.c_[np.kron(E, system.b[None]), -Xi],
            "C": np.c_[-np.kron(C, E), nothing((C.size, n))],
            "D": nothing((system.D.size, n * n + n)),
            "z0": np.c_[np.concatenate([np.kron(E, x[None]) for x in z0]), np.tile(E, (K, 1))],
        }
        slopes = self.slopes(theta)
        conditions = [np.c_[nothing((len(C), n * n)), C]]
        if not self.structure.is_free:
            together = np.concatenate([slopes[name] for name in slopes])
            moved = np.concatenate([moves[name] for name in slopes])
            U, s, _ = np.linalg.svd(together, full_matrices=False)
            U = U[:, s > ALLOWED * s.max(initial=1e-300)]
            beyond = moved - U @ (U.T @ moved)
            is_rounding = np.linalg.norm(beyond, axis=1) <= ALLOWED * np.linalg.norm(moved, axis=1)
            conditions.append(beyond[~is_rounding])
        for name in ("B", "b", "C", "z0"):
            if name not in slopes:
                is_known = ~(self.free_z0 if name == "z0" else np.isnan(getattr(self, name))).ravel()
                conditions.append(moves[name][is_known])
        allowed = null_space(np.concatenate(conditions))  # (n^2 + n, k)
        found = np.zeros((allowed.shape[1], self.size))
        if self.structure.is_free:
            found[:, :own] = (moves["Xi"] @ allowed).T
        elif own:
            wanted = moved @ allowed
            wanted[:, np.linalg.norm(wanted, axis=0) <= ALLOWED * np.linalg.norm(moved)] = 0.0  # rounding
            found[:, :own] = np.linalg.lstsq(together, wanted, rcond=None)[0].T
        for name in ("B", "b", "C"):
            found[:, self.place(name)] = (moves[name][self.free(name)] @ allowed).T
        return found

    def without_structure(self) -> Unknowns:
        """All entries of Xi, B, C and z0 free, and those of b and D if they may differ from 0."""
        has_D = "D" in self.structure.names or bool((self.D != 0).any())
        return Unknowns(
            free_matrices(self.n),
            np.full_like(self.B, np.nan),
            np.full_like(self.b, np.nan) if self.has_b else self.b,
            np.full_like(self.C, np.nan),
            np.full_like(self.D, np.nan) if has_D else self.D,
            np.full_like(self.z0, np.nan),
            self.delay,
            self.longest_delay,
        )


def null_space(A: Array) -> Array:
    """Orthonormal columns that span the null space of A (rows, k)."""
    k = A.shape[1]
    if not len(A) or not A.any():
        return np.eye(k)
    size = np.linalg.norm(A, axis=1, keepdims=True)
    _, s, Vt = np.linalg.svd(A / np.where(size > 0, size, 1.0))
    rank = int((s > ALLOWED * s[0]).sum())
    return Vt[rank:].T


def orthonormal(A: Array) -> Array:
    """Orthonormal rows that span the rows of A (k, size)."""
    if not len(A):
        return A
    size = np.linalg.norm(A, axis=1, keepdims=True)
    _, s, Vt = np.linalg.svd(A / np.where(size > 0, size, 1.0), full_matrices=False)
    return Vt[s > ALLOWED * s[0]]


def free_matrices(n: int) -> Structure:
    return Linear(n, np.eye(n * n), is_free=True)


def make_unknowns(
    structure: Structure, K: int, p: int, m: int, longest_delay: float = np.inf, **known: Array
) -> Unknowns:
    """Unknowns with B, C and z0 free, b and D zero and no delay, where they are not given."""
    n = structure.n
    given = {
        "B": np.full((n, m), np.nan),
        "b": np.zeros(n),
        "C": np.full((p, n), np.nan),
        "D": np.zeros((p, m)),
        "z0": np.full((K, n), np.nan),
        "delay": np.array(0.0),
    }
    given |= {name: np.array(value, float) for name, value in known.items()}
    return Unknowns(structure, **given, longest_delay=longest_delay)
