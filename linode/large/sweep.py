"""One recurrence for all vectors: states at all times, and their derivatives, as sums of f_k(t_i) F_k(X) v.

F_k depends on X and v only, f_k on times only. So all times share the products, and the transposed recurrence, with as
many products, gives the gradient. X is Xi for `faber` and (I - gamma Xi)^-1 for `rational`.

A time range is cut into pieces; in each, vectors F_k are made in blocks, and one product of matrices adds a block to
all states that still need it. A piece is judged while it runs: vectors that grow show that the region is too small; a
state that is smaller than what rounding leaves shows that the piece is too long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import blas

from .coefficients import function
from .linear import Linear, Mapped, Sampler

BLOCK = 32  # vectors that one product of matrices adds to the states
GROWTH = 2.5  # of |F_k|: 2 is the most where the region holds the numerical range
ROUNDINGS = 8 * 2.0**-53  # of sum_k |f_k| |v|: what rounding leaves; 1 to 5 units of 2^-53 were seen
SMALLEST = 1e-290  # states below have no digits to keep
MOST_KEPT = 1e8  # numbers up to which all vectors are kept for the gradient
GIVEN_UP = 0.05  # |Xi| h below which a shorter piece is no remedy


class Expansion(Protocol):
    """A region's polynomials, with the coefficients of functions in them."""

    @property
    def B(self) -> Mapped: ...

    @property
    def tau(self) -> float | np.ndarray:
        """Of the polynomials of an ellipse; or one for every k, see `tau_at`."""

    u: float  # z grows no faster than e^(u t)
    size: float  # |Xi|, about
    norm: float  # in which F_k are bounded
    d: np.ndarray | None  # z = d y, and the recurrence is that of y

    def coefficients(self, kind: str, t: np.ndarray, w: complex) -> np.ndarray:
        """f_k(t_i), (T, N), with N so large that the last are 0."""

    def weights(self, n_terms: int) -> np.ndarray:
        """By how much a term may count for more in the gradient than in the states."""


class Source(Protocol):
    """Where expansions for pieces of some length come from."""

    step: float  # length of the first piece
    tol: float  # of a piece
    wants_gradient: bool

    def expansion(self, h: float) -> Expansion: ...

    def widen(self) -> bool:
        """Take a larger region from now on; false where that was done too often."""


class Rows(NamedTuple):
    """Times of one piece that columns share, latest first."""

    columns: slice
    places: np.ndarray  # their places among the times asked for
    local: np.ndarray  # time since the start of the piece; one more in front where the state is carried on
    carries: bool


class Piece(NamedTuple):
    """What the reverse needs of a piece."""

    expansion: Expansion
    start: float
    rows: list[Rows]
    coefficients: list[list[np.ndarray]]  # of terms, of groups of rows
    blocks: list[tuple[int, int, list[int]]]  # first and last + 1 of k, and the rows of each group that it adds to
    vectors: list[np.ndarray]  # v of each term
    kept: list[list[np.ndarray]]  # of terms, of blocks: all vectors, or the two before the block
    has_all: bool


class Verdict(NamedTuple):
    is_growing: bool
    shorter: float  # a length that would do; inf: this one does
    error: np.ndarray  # (R,), relative, the largest over times


class Record(NamedTuple):
    z: np.ndarray  # (R, T, n)
    error: np.ndarray  # (R,)
    trouble: str | None
    pieces: list[Piece]
    growth: float
    n_pieces: int


def norms(X: np.ndarray, order: float) -> np.ndarray:
    """Norms over the axis before the last, of X (..., n, R)."""
    if order == 1:
        return np.abs(X).sum(-2)
    if order == math.inf:
        return np.abs(X).max(-2, initial=0)
    with np.errstate(over="ignore", invalid="ignore"):
        if X.dtype.kind == "c":
            pairs = X.view(float).reshape(*X.shape, 2)
            squares = np.einsum("...nrp,...nrp->...r", pairs, pairs)
        else:
            squares = np.einsum("...nr,...nr->...r", X, X)
    if ((squares > 1e-280) & (squares < 1e300)).all() or not X.size:
        return np.sqrt(squares)
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.abs(X).max(-2)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        return scale * np.sqrt((np.abs(X / scale[..., None, :]) ** 2).sum(-2))


def add_products(C: np.ndarray, F: np.ndarray, Z: np.ndarray) -> None:
    """Z += C @ F for C (T, K), F (K, n, R) and contiguous Z (T, n, R)."""
    if C.dtype.kind != "c" and Z.dtype.kind == "c":
        F, Z = F.view(float), Z.view(float)
    flat, sums = F.reshape(len(F), -1), Z.reshape(len(Z), -1)
    is_complex = Z.dtype.kind == "c"
    if len(Z) == 1:
        gemv = blas.zgemv if is_complex else blas.dgemv
        sums[0] = gemv(1.0, flat.T, C[0], beta=1.0, y=sums[0], overwrite_y=1)
        return
    gemm = blas.zgemm if is_complex else blas.dgemm
    found = gemm(1.0, flat.T, np.asarray(C, Z.dtype).T, beta=1.0, c=sums.T, overwrite_c=1)
    if not np.shares_memory(found, sums):
        sums[:] = found.T


class Series:
    """Vectors F_k(X) v, (n, R), made block by block."""

    def __init__(self, expansion: Expansion, v: np.ndarray, keep: str | None) -> None:
        self.B, self.tau, self.keep = expansion.B, expansion.tau, keep
        self.v = v
        self.before = np.empty((2, *v.shape), v.dtype)  # the last two of the block before
        self.kept: list[np.ndarray] = []
        self.block = np.empty((0, *v.shape), v.dtype)

    def advance(self, low: int, high: int) -> np.ndarray:
        """F_k for low <= k < high, after those below low."""
        if self.keep == "all" or len(self.block) < high - low:
            self.block = np.empty((high - low, *self.v.shape), self.v.dtype)
        block = self.block[: high - low]
        if self.keep == "checkpoints":
            self.kept.append(self.before.copy())
        fill(self.B, self.tau, self.v, self.before, block, low)
        if self.keep == "all":
            self.kept.append(block)
        for i in (2, 1):
            if high - i >= low:
                self.before[2 - i] = block[high - i - low]
            elif i == 2:
                self.before[0] = self.before[1]
        return block


def fill(B: Mapped, tau: float | np.ndarray, v: np.ndarray, before: np.ndarray, block: np.ndarray, low: int) -> None:
    """F_k for k from low on into the block (K, n, R); before: F_(low - 2) and F_(low - 1)."""
    last, new = before[0], before[1]
    for i in range(len(block)):
        out = block[i]
        if low + i == 0:
            out[:] = v
        elif low + i == 1:
            out[:] = 0
            B.at(0).add(new, out)
        else:
            factor = tau_at(tau, low + i - 1)
            if factor:
                np.multiply(real(last), -factor, out=real(out))
            else:
                out[:] = 0
            B.at(low + i - 1).add(new, out)
        last, new = new, out


def tau_at(tau: float | np.ndarray, k: int) -> float:
    """What multiplies F_(k - 1) in F_(k + 1) = B_k F_k - tau_k F_(k - 1)."""
    if isinstance(tau, np.ndarray):
        return float(tau[k])
    return 0.0 if k == 0 else 2 * tau if k == 1 else tau


def real(x: np.ndarray) -> np.ndarray:
    """The same numbers, complex ones as pairs: a real factor costs half the time then."""
    return x.view(float) if x.dtype.kind == "c" else x


class Sweep:
    """States for terms and times, and their derivatives.

    Args:
        source: of expansions. terms: with fields vector (n, R), kind and w. t: (1, T) or (R, T), times >= 0.
        watch: is told the part of the range that is done, between blocks.
    """

    def __init__(self, source: Source, terms: Sequence[Any], t: np.ndarray, watch: Callable[[float], None] | None):
        self.source, self.terms, self.t, self.watch = source, terms, t, watch
        self.n, self.n_columns = terms[0].vector.shape
        self.t_max = float(t.max()) if t.size else 0.0
        self.order = np.argsort(t, 1, kind="stable")
        self.sorted = np.take_along_axis(t, self.order, 1)
        self.is_forced = any(term.kind != "exp" for term in terms)
        self.growth = 0.0

    def dtype_for(self, expansion: Expansion) -> np.dtype:
        is_complex = expansion.B.X.dtype.kind == "c" or any(
            term.vector.dtype.kind == "c" or complex(term.w).imag for term in self.terms
        )
        return np.dtype(complex if is_complex else float)

    def rows(self, start: float, end: float, is_last: bool) -> list[Rows]:
        """The times in (start, end], by group of columns."""
        found = []
        for g, times in enumerate(self.sorted):
            low = np.searchsorted(times, start, "right")
            high = len(times) if is_last else np.searchsorted(times, end, "right")
            local = times[low:high][::-1] - start
            if not is_last:
                local = np.concatenate([[end - start], local])
            columns = slice(0, self.n_columns) if len(self.sorted) == 1 else slice(g, g + 1)
            found.append(Rows(columns, self.order[g, low:high][::-1], local, not is_last))
        return found

    def states(self, keep: bool) -> Record:
        """All states; keep: what the reverse needs is recorded."""
        source = self.source
        h = source.step
        expansion = source.expansion(h)
        dtype = self.dtype_for(expansion)
        d = expansion.d
        starts = [np.array(term.vector if d is None else term.vector / d[:, None], dtype) for term in self.terms]
        z = np.empty((self.n_columns, self.t.shape[1], self.n), dtype)
        initial = self.initial([term.vector for term in self.terms])
        for g, times in enumerate(self.sorted):
            columns = slice(0, self.n_columns) if len(self.sorted) == 1 else slice(g, g + 1)
            at_zero = self.order[g, : np.searchsorted(times, 0.0, "right")]
            z[columns, at_zero] = initial.T[columns, None]
        error, trouble = np.zeros(self.n_columns), None
        pieces: list[Piece] = []
        start, n_shorter, n_pieces = 0.0, 0, 0
        state = self.initial(starts)
        while start < self.t_max:
            end = start + h
            is_last = end >= self.t_max * (1 - 1e-12)
            rows = self.rows(start, end, is_last)
            vectors = self.vectors(state, starts, start)
            Z, piece, verdict = self.piece(expansion, vectors, rows, start, keep)
            if verdict.is_growing:
                if not source.widen():
                    trouble = "REGION"
                    error[:] = np.inf
                    z[:, :, :] = np.nan
                    break
                expansion = source.expansion(h)
                continue
            if verdict.shorter < h:
                is_hopeless = verdict.shorter * expansion.size < GIVEN_UP or (self.is_forced and n_shorter >= 3)
                if not is_hopeless:
                    h, n_shorter = verdict.shorter, n_shorter + 1
                    h = (self.t_max - start) / math.ceil((self.t_max - start) / h)
                    expansion = source.expansion(h)
                    continue
                trouble = trouble if self.is_forced else "DECAY"
            n_shorter = 0
            n_pieces += 1
            error += verdict.error
            self.hand_out(z, rows, Z, d)
            if keep:
                pieces.append(piece)
            if is_last:
                break
            state = self.carried(rows, Z, dtype)
            start = end
        return Record(z, error, trouble, pieces, self.growth, n_pieces)

    def initial(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """The sum of those vectors of the terms that are states at time 0."""
        return np.sum([v for v, term in zip(vectors, self.terms) if term.kind == "exp"], 0)

    def vectors(self, state: np.ndarray, starts: list[np.ndarray], start: float) -> list[np.ndarray]:
        """v of the series of a piece: the state, and what drives it with its phase at the start of the piece."""
        driving = [v for v, term in zip(starts, self.terms) if term.kind != "exp"]
        return [state] + [combined(row, driving) for row in self.drive(start)]

    def drive(self, start: float) -> list[dict[int, complex]]:
        """Of each input as a function of the time since `start`, the inputs that it is the sum of, with factors:
        harmonics have another phase, a power (s + start)^q / q! is powers of s up to q.
        """
        inputs = [term for term in self.terms if term.kind != "exp"]
        orders = [order_of(term) for term in inputs]
        found: list[dict[int, complex]] = []
        for i, (term, own) in enumerate(zip(inputs, orders)):
            if own is None:
                found.append({i: np.exp(phase(term, start)) if term.w else 1.0})
                continue
            row: dict[int, complex] = {i: 1.0}
            if start and orders.index(own) == i:  # of several inputs of one power the first takes up the higher ones
                higher = {j: q - own for j, q in enumerate(orders) if q is not None and q > own}
                row |= {j: start**p / math.factorial(p) for j, p in higher.items()}
            found.append(row)
        return found

    @property
    def kinds(self) -> list[tuple[str, complex]]:
        return [("exp", 0.0)] + [(term.kind, term.w) for term in self.terms if term.kind != "exp"]

    def hand_out(self, z: np.ndarray, rows: list[Rows], Z: list[np.ndarray], d: np.ndarray | None) -> None:
        for group, states in zip(rows, Z):
            values = states[group.carries :]
            if d is not None:
                values = values * d[:, None]
            z[group.columns, group.places] = np.moveaxis(values, -1, 0)

    def carried(self, rows: list[Rows], Z: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        if len(rows) == 1:
            return Z[0][0].copy()
        return np.ascontiguousarray(np.concatenate([states[0] for states in Z], -1), dtype)

    def piece(
        self, expansion: Expansion, vectors: list[np.ndarray], rows: list[Rows], start: float, keep: bool
    ) -> tuple[list[np.ndarray], Piece, Verdict]:
        """States of a piece, latest first, what its reverse needs, and whether they are good."""
        tol, norm = self.source.tol, expansion.norm
        # all groups' coefficients from one FFT
        local = np.concatenate([group.local for group in rows])
        cuts = np.cumsum([len(group.local) for group in rows])[:-1]
        found = [expansion.coefficients(kind, local, w) for kind, w in self.kinds]
        n_terms = max(C.shape[1] for C in found)
        found = [np.pad(C, ((0, 0), (0, n_terms - C.shape[1]))) for C in found]
        sizes = np.array([norms(v, norm) for v in vectors])  # (J, R)
        weights = expansion.weights(n_terms) if self.source.wants_gradient else 1.0
        tails = [2 * np.cumsum((np.abs(C) * weights)[:, ::-1], 1)[:, ::-1] for C in found]
        floors = [ROUNDINGS * np.abs(C).sum(1) for C in found]
        references = [
            np.abs(function(kind, np.array([expansion.u]), local, complex(w).real))[:, 0] for kind, w in self.kinds
        ]
        need = np.ones(len(local), int)
        for tail, reference in zip(tails, references):
            need = np.maximum(need, (tail > tol * reference[:, None]).sum(1))
        groups = [
            Group(group, *parts)
            for group, *parts in zip(
                rows,
                np.split(np.array(tails), cuts, 1),
                np.split(np.array(floors), cuts, 1),
                np.split(need, cuts),
            )
        ]
        dtype = vectors[0].dtype
        Z = [np.zeros((len(g.local), self.n, g.columns.stop - g.columns.start), dtype) for g in rows]
        coefficients = [np.split(C, cuts) for C in found]
        n_all = max(int(need.max()), 1)
        has_all = keep and n_all * vectors[0].size * len(vectors) * (2 if dtype.kind == "c" else 1) <= MOST_KEPT
        kept = None if not keep else "all" if has_all else "checkpoints"
        series = [Series(expansion, v, kept) for v in vectors]
        blocks: list[tuple[int, int, list[int]]] = []
        low, is_growing = 0, False
        while True:
            high = min(low + BLOCK, max(group.end for group in groups))
            active = [group.n_active(low) for group in groups]
            for j, one in enumerate(series):
                F = one.advance(low, high)
                last = norms(F[-1], norm)
                with np.errstate(invalid="ignore"):
                    growth = float(np.max(np.where(sizes[j] > 0, last / np.where(sizes[j] > 0, sizes[j], 1), 0)))
                if not growth <= GROWTH:
                    is_growing = True
                    break
                self.growth = max(self.growth, growth)
                for group, C, sums, n in zip(rows, coefficients[j], Z, active):
                    if n:
                        part = F if len(rows) == 1 else np.ascontiguousarray(F[:, :, group.columns])
                        add_products(C[:n, low:high], part, sums[:n])
            if is_growing:
                break
            blocks.append((low, high, active))
            low = high
            for judged, sums in zip(groups, Z):
                judged.judge(low, sums, sizes, tol, norm, expansion.d)
            if self.watch is not None:
                self.watch(min(1.0, (start + float(local.max()) * low / max(g.end for g in groups)) / self.t_max))
            if all(group.end <= low for group in groups):
                break
        piece = Piece(expansion, start, rows, coefficients, blocks, vectors, [one.kept for one in series], has_all)
        error = np.zeros(self.n_columns)
        shorter = np.inf
        for judged in groups:
            error[judged.rows.columns] = judged.error
            shorter = min(shorter, judged.shorter)
        return Z, piece, Verdict(is_growing, shorter, error)

    # ---- derivatives ---------------------------------------------------------------------------------------

    def reverse(self, record: Record, g: np.ndarray, sampler: Sampler) -> list[np.ndarray]:
        """Gradients of sum Re<g, z> for g (R, T, n): to each term's vector (n, R), and to X by the sampler."""
        first = [i for i, term in enumerate(self.terms) if term.kind == "exp"]
        others = [i for i, term in enumerate(self.terms) if term.kind != "exp"]
        dtype = record.z.dtype
        if dtype.kind != "c":
            g = g.real  # where z is real, the other part of g counts for nothing
        total = [np.zeros((self.n, self.n_columns), dtype) for _ in self.terms]
        carry = np.zeros((self.n, self.n_columns), dtype)
        d = record.pieces[-1].expansion.d if record.pieces else None
        for done, piece in enumerate(reversed(record.pieces), 1):
            gradients = self.reverse_of_piece(piece, g, carry, dtype, sampler)
            carry = gradients[0]
            for row, found in zip(self.drive(piece.start), gradients[1:]):
                for j, factor in row.items():
                    total[others[j]] += found if factor == 1 else found * np.conj(factor)
            if self.watch is not None:
                self.watch(done / len(record.pieces))
        if d is not None:
            carry = carry / d[:, None]
            total = [x / d[:, None] for x in total]
        carry = carry + self.at_zero(g)
        for i in first:
            total[i] = carry.copy()
        return total

    def at_zero(self, g: np.ndarray) -> np.ndarray:
        """The cotangents of states at time 0, (n, R)."""
        mask = np.broadcast_to(self.t == 0, g.shape[:2])
        return (g * mask[..., None]).sum(1).T

    def reverse_of_piece(
        self, piece: Piece, g: np.ndarray, carry: np.ndarray, dtype: np.dtype, sampler: Sampler
    ) -> list[np.ndarray]:
        """Gradients to the vectors of a piece.

        G_k = sum_i conj(f_k(t_i)) g_i + B^H G_(k + 1) - tau G_(k + 2), from the last k to 0; the one to B is
        sum_k G_(k + 1) F_k^H.
        """
        B, tau, d = piece.expansion.B, piece.expansion.tau, piece.expansion.d
        cotangents = []
        for group in piece.rows:
            chosen = np.ascontiguousarray(np.moveaxis(g[group.columns, group.places], 0, -1), dtype)
            if d is not None:
                chosen *= d[:, None]
            if group.carries:
                chosen = np.concatenate([carry[None, :, group.columns], chosen])
            cotangents.append(chosen)
        shape = (self.n, self.n_columns)
        found = []
        for j, v in enumerate(piece.vectors):
            after = np.zeros((2, *shape), dtype)  # G_high and G_(high + 1)
            above: np.ndarray | None = None  # F_high, where products are sampled
            for i in reversed(range(len(piece.blocks))):
                low, high, active = piece.blocks[i]
                is_top = i == len(piece.blocks) - 1
                G = np.zeros((high - low + 1, *shape), dtype)
                for group, C, cotangent, n in zip(piece.rows, piece.coefficients[j], cotangents, active):
                    if n:
                        part = G[:-1] if len(piece.rows) == 1 else np.zeros((high - low, self.n, 1), dtype)
                        add_products(C[:n, low:high].T.conj(), cotangent[:n], part)
                        if len(piece.rows) > 1:
                            G[:-1, :, group.columns] += part
                G[-1] = after[0]
                images = np.zeros((high - low, *shape), dtype) if B.samples_products else None
                for k in range(high - low - 1, -1, -1):
                    if not (is_top and k == high - low - 1):
                        map_k = B.at(low + k)
                        if images is not None:
                            map_k.add_adjoint(G[k + 1], images[k])
                            G[k] += images[k]
                        else:
                            map_k.add_adjoint(G[k + 1], G[k])
                    factor = 0.0 if is_top and k >= high - low - 2 else tau_at(tau, low + k + 1)
                    if factor:
                        last = G[k + 2] if k + 2 < len(G) else after[1]
                        real(G[k])[...] -= factor * real(last)
                after[0], after[1] = G[0], G[1]
                before, F = self.block(piece, j, v, i)
                n_pairs = high - low - is_top
                if images is None:
                    B.sample(sampler, G[1 : n_pairs + 1], F[:n_pairs])
                else:
                    ahead = F[1:] if above is None else np.concatenate([F[1:], above[None]])
                    behind = np.concatenate([before[1:], F[:-1]])[:n_pairs]
                    factors = np.array([tau_at(tau, low + k) for k in range(n_pairs)]).reshape(-1, 1, 1)
                    products = ahead[:n_pairs] + factors * behind
                    B.sample_products(sampler, G[1 : n_pairs + 1], images[:n_pairs], F[:n_pairs], products, low)
                    above = F[0].copy()
            found.append(after[0].copy())
        return found

    def block(self, piece: Piece, j: int, v: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The two vectors before a block and those of the block, kept or made again."""
        kept = piece.kept[j]
        if piece.has_all:
            if i == 0:
                return np.zeros((2, *v.shape), v.dtype), kept[0]
            return np.stack([kept[i - 1][-2] if len(kept[i - 1]) > 1 else kept[i - 2][-1], kept[i - 1][-1]]), kept[i]
        low, high, _ = piece.blocks[i]
        block = np.empty((high - low, *v.shape), v.dtype)
        fill(piece.expansion.B, piece.expansion.tau, v, kept[i], block, low)
        return kept[i], block

    def tangent(self, record: Record, dX: Linear | None, dvectors: Sequence[np.ndarray]) -> np.ndarray:
        """The derivative of all states, (R, T, n), along a change dX of X and changes of the terms' vectors."""
        if not record.pieces:
            d, dtype = None, record.z.dtype
        else:
            d, dtype = record.pieces[0].expansion.d, record.z.dtype
        changes = [np.array(x if d is None else x / d[:, None], dtype) for x in dvectors]
        dz = np.zeros_like(record.z)
        state = self.initial(changes)
        initial = state if d is None else state * d[:, None]
        mask = np.broadcast_to(self.t == 0, dz.shape[:2])
        dz += mask[..., None] * initial.T[:, None]
        for piece in record.pieces:
            dZ = self.tangent_of_piece(piece, self.vectors(state, changes, piece.start), dX, dtype)
            self.hand_out(dz, piece.rows, dZ, d)
            if piece.rows[0].carries:
                state = self.carried(piece.rows, dZ, dtype)
        return dz

    def tangent_of_piece(
        self, piece: Piece, changes: list[np.ndarray], dX: Linear | None, dtype: np.dtype
    ) -> list[np.ndarray]:
        B, tau = piece.expansion.B, piece.expansion.tau
        dB = None if dX is None else B.tangent(dX)
        dZ = [np.zeros((len(x.local), self.n, x.columns.stop - x.columns.start), dtype) for x in piece.rows]
        for j, (v, dv) in enumerate(zip(piece.vectors, changes)):
            last, new = np.zeros_like(dv), np.zeros_like(dv)
            for i, (low, high, active) in enumerate(piece.blocks):
                before, F = self.block(piece, j, v, i)
                dF = np.zeros((high - low, *dv.shape), dtype)
                for k in range(low, high):
                    out = dF[k - low]
                    if k == 0:
                        out[:] = dv
                    else:
                        B.at(k - 1).add(new, out)
                        if dB is not None:
                            dB.at(k - 1).add(np.ascontiguousarray(F[k - low - 1] if k > low else before[1]), out)
                        if k > 1:
                            out -= tau_at(tau, k - 1) * last
                    last, new = new, out
                for group, C, sums, n in zip(piece.rows, piece.coefficients[j], dZ, active):
                    if n:
                        part = dF if len(piece.rows) == 1 else np.ascontiguousarray(dF[:, :, group.columns])
                        add_products(C[:n, low:high], part, sums[:n])
        return dZ


class Group:
    """Rows of a piece that share columns, latest first: how many terms each needs, and how good it is."""

    def __init__(self, rows: Rows, tails: np.ndarray, floors: np.ndarray, need: np.ndarray) -> None:
        self.rows = rows
        self.tails, self.floors = tails, floors  # (J, T, N), (J, T)
        self.need = np.maximum.accumulate(need[::-1])[::-1] if len(need) else need  # later rows need no fewer
        self.n_judged = len(need)  # rows from here on are done
        self.error = np.zeros(rows.columns.stop - rows.columns.start)
        self.shorter = np.inf

    @property
    def end(self) -> int:
        return int(self.need[0]) if len(self.need) else 0

    def n_active(self, k: int) -> int:
        return int((self.need > k).sum())

    def judge(self, k: int, Z: np.ndarray, sizes: np.ndarray, tol: float, norm: float, d: np.ndarray | None) -> None:
        """Look at the rows that were to end before k: done, or to be continued."""
        low, high = self.n_active(k), self.n_judged
        if low >= high:
            return
        states = Z[low:high]
        size = norms(states, norm)  # (T, R)
        scale = size if d is None else norms(states * d[:, None], norm) / d.max()
        sizes = sizes[:, self.rows.columns]
        floor = np.einsum("jt,jr->tr", self.floors[:, low:high], sizes)
        allowed = np.maximum(tol * scale, SMALLEST)
        n_terms = self.tails.shape[2]
        tail = np.einsum("jt,jr->tr", self.tails[:, low:high, k], sizes) if k < n_terms else np.zeros_like(floor)
        is_short = tail > np.maximum(allowed, floor)
        if is_short.any():
            i = int(np.flatnonzero(is_short.any(1))[-1])
            full = np.einsum("jtn,jr->tnr", self.tails[:, low : low + i + 1], sizes)
            more = (full > np.maximum(allowed, floor)[: i + 1, None]).sum(1).max()
            self.need[: low + i + 1] = np.maximum(self.need[: low + i + 1], more)
            low += i + 1
            if low >= high:
                return
            cut = slice(i + 1, None)
            size, scale, floor, tail, allowed = (x[cut] for x in (size, scale, floor, tail, allowed))
        self.n_judged = low
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(scale > SMALLEST, (tail + floor) / scale, 0.0)
        self.error = np.maximum(self.error, error.max(0))
        is_lost = floor > allowed
        if is_lost.any():
            h = float(self.rows.local[0])
            times = self.rows.local[low:high][:, None]
            most = math.log(max(tol / ROUNDINGS, 2.0)) * 0.8  # of the logarithm of |v| / |z|
            with np.errstate(divide="ignore", invalid="ignore"):
                decay = np.log(sizes.sum(0) / np.maximum(size, 1e-300))
                fair = np.where(is_lost, times * most / np.maximum(decay, 1e-9), np.inf).min()
            self.shorter = min(self.shorter, min(max(fair, h / 8), h / 2))


def order_of(term: Any) -> int | None:
    """The power of time that a term is as an input, 0 of a constant; None: it is none."""
    return {"phi1": 0, "power": int(complex(term.w).real)}.get(term.kind)


def combined(row: dict[int, complex], vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of vectors with factors."""
    parts = [vectors[j] if factor == 1 else vectors[j] * factor for j, factor in row.items()]
    return parts[0] if len(parts) == 1 else np.sum(parts, 0)


def phase(term: Any, start: float) -> complex:
    return complex(term.w) * start if complex(term.w).imag else complex(term.w).real * start
