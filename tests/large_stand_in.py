"""A method for large Xi that forms all entries, for tests of everything around methods; its trouble can be set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg

from linode.large.linear import Linear
from linode.methods.large import Answer, LargeMethod, LargePlan, Task, Term


def augmented(terms: Sequence[Term], column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V (n, q), W (q, q) and the state y0 (n + q,) of y' = [[A, V], [0, W]] y, whose first n states are z."""
    n = len(terms[0].vector)
    start, inputs, blocks, first = np.zeros(n, complex), [], [], []
    for vector, kind, w in terms:
        v = vector[:, column]
        if kind == "exp":
            start = start + v
            continue
        power = int(complex(w).real) if kind == "power" else 0
        inputs += [v[:, None], np.zeros((n, power))]
        block = np.diag(np.ones(power), 1).astype(complex)
        blocks.append(block + (w if kind == "harmonic" else 0))
        first += [0.0] * power + [1.0]
    if not blocks:
        return np.zeros((n, 0)), np.zeros((0, 0)), start
    return np.concatenate(inputs, 1), scipy.linalg.block_diag(*blocks), np.concatenate([start, first])


class FormedPlan(LargePlan):
    method = "formed"
    reason = "it was asked for"

    def __init__(self, A: Linear, trouble: str | None) -> None:
        self.A, self.trouble, self.n_calls = A, trouble, 0
        self.matrix = A.times(np.eye(A.n))

    @property
    def details(self) -> dict[str, Any]:
        return {"n_products": self.n_calls, "region": "all of it"}

    def whole(self, terms: Sequence[Term], column: int, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        V, W, y0 = augmented(terms, column)
        return np.block([[matrix, V], [np.zeros((len(W), len(matrix))), W]]), y0

    def states(self, terms: Sequence[Term], t: np.ndarray, watch: Any = None) -> Answer:
        self.n_calls += 1
        R, n = terms[0].vector.shape[1], self.A.n
        z = np.empty((R, t.shape[1], n), complex)
        for r in range(R):
            M, y0 = self.whole(terms, r, self.matrix)
            for i, time in enumerate(np.broadcast_to(t, (R, t.shape[1]))[r]):
                z[r, i] = (scipy.linalg.expm(M * time) @ y0)[:n]
            if watch is not None:
                watch((r + 1) / R)
        return Answer(self.real(z, terms), np.full(R, 1e-12), self.trouble)

    def real(self, z: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
        is_complex = np.iscomplexobj(self.matrix) or any(
            np.iscomplexobj(v) or (kind == "harmonic" and complex(w).imag) for v, kind, w in terms
        )
        return z if is_complex else z.real.copy()

    def vjp(self, terms: Sequence[Term], t: np.ndarray, g: np.ndarray, watch: Any = None) -> Any:
        R, n = terms[0].vector.shape[1], self.A.n
        sampler = self.A.sampler()
        of_vectors = [np.zeros((n, R), complex) for _ in terms]
        for r in range(R):
            M, y0 = self.whole(terms, r, self.matrix)
            S = np.zeros(M.shape, complex)
            a = np.zeros(len(M), complex)
            for i, time in enumerate(np.broadcast_to(t, (R, t.shape[1]))[r]):
                wide = np.zeros(len(M), complex)
                wide[:n] = g[r, i]
                block = np.block([[M.conj().T, np.outer(wide, y0.conj())], [np.zeros(M.shape), M.conj().T]])
                E = scipy.linalg.expm(block * time)
                S += E[: len(M), len(M) :]
                a += E[: len(M), : len(M)] @ wide
            U, sizes, Vh = np.linalg.svd(S[:n, :n])
            sampler.add((U * sizes).T[:, :, None], Vh.conj()[:, :, None])
            place = n
            for of_vector, (_, kind, w) in zip(of_vectors, terms):
                if kind == "exp":
                    of_vector[:, r] = a[:n]
                else:
                    of_vector[:, r] = S[:n, place]
                    place += 1 + (int(complex(w).real) if kind == "power" else 0)
        return sampler.total(), [self.real(x, terms) for x in of_vectors]

    def jvp(self, terms: Sequence[Term], t: np.ndarray, dXi: Any, dvectors: Sequence[np.ndarray]) -> Any:
        R, n = terms[0].vector.shape[1], self.A.n
        dA = np.zeros((n, n)) if dXi is None else self.A.tangent(dXi).times(np.eye(n))
        z = np.empty((R, t.shape[1], n), complex)
        dz = np.empty_like(z)
        changed = [Term(d, kind, w) for d, (_, kind, w) in zip(dvectors, terms)]
        for r in range(R):
            M, y0 = self.whole(terms, r, self.matrix)
            V, _, start = augmented(changed, r)
            dM = np.zeros(M.shape, complex)
            dM[:n, :n], dM[:n, n:] = dA, V
            dy0 = np.concatenate([start[:n], np.zeros(len(y0) - n)])
            block = np.block([[M, dM], [np.zeros(M.shape), M]])
            for i, time in enumerate(np.broadcast_to(t, (R, t.shape[1]))[r]):
                y = scipy.linalg.expm(block * time) @ np.concatenate([dy0, y0])
                z[r, i], dz[r, i] = y[len(M) : len(M) + n], y[:n]
        return self.real(z, terms), self.real(dz, terms)


@dataclass(frozen=True)
class Formed(LargeMethod):
    """expm of all entries."""

    trouble: str | None = None
    name: ClassVar[str] = "formed"
    summary: ClassVar[str] = "all entries, for tests"

    def plan_large(self, A: Linear, task: Task) -> LargePlan:
        return FormedPlan(A, self.trouble)

    def cost_large(self, A: Linear, task: Task) -> tuple[float, str]:
        return 1.0, "all entries"
