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

from .coefficients import function
from .driving import combined, drive
from .judgement import Group, Ledger
from .linear import Linear, Sampler
from .series import (
    BLOCK,
    Expansion,
    Piece,
    Rows,
    Series,
    add_products,
    backwards,
    is_reversible,
    norms,
    real,
    tau_at,
)
from .window import window

FEW = 4  # products that are sampled at once: more take more memory and save no time
GROWTH = 2.5  # of |F_k|: 2 is the most where the region holds the numerical range
MOST_KEPT = 3e7  # numbers up to which all vectors are kept for the gradient
SHARP = 1e-3  # of the tolerance, where states may decay faster than their errors
ENOUGH = 0.1  # of a piece, from which on its good part is taken
EVERYTHING = slice(None)
GIVEN_UP = 0.05  # |Xi| h below which a shorter piece is no remedy


class Source(Protocol):
    """Where expansions for pieces of some length come from."""

    step: float  # length of the first piece
    tol: float  # of a piece
    wants_gradient: bool

    def expansion(self, h: float) -> Expansion: ...

    def widen(self) -> bool:
        """Take a larger region from now on; false where that was done too often."""


class Verdict(NamedTuple):
    is_growing: bool
    is_overflowing: bool  # a state is past the largest float
    shorter: float  # a length that would do; inf: this one does
    n_lost: int  # of the latest rows of the first group, up to the earliest whose state is lost in rounding
    error: np.ndarray  # (R,), relative, the largest over times
    error_of_good: np.ndarray  # (R,), the same over times whose states are not lost
    absolute: list[np.ndarray]  # of groups, (T, R): not relative


class Record(NamedTuple):
    z: np.ndarray  # (R, T, n)
    error: np.ndarray  # (R,)
    trouble: str | None
    pieces: list[Piece]
    growth: float
    n_pieces: int
    n_states: int  # the most that a piece ran on: all, or a window


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
        self.growth, self.told, self.n_states = 0.0, 0.0, 0
        self.room = MOST_KEPT
        self.is_sharp = False  # terms are added until rounding leaves more than they do

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
        z = (np.empty if keep else np.zeros)((self.n_columns, self.t.shape[1], self.n), dtype)
        initial = self.initial([term.vector for term in self.terms])
        for g, times in enumerate(self.sorted):
            columns = slice(0, self.n_columns) if len(self.sorted) == 1 else slice(g, g + 1)
            at_zero = self.order[g, : np.searchsorted(times, 0.0, "right")]
            z[columns, at_zero] = initial.T[columns, None]
        ledger, trouble = Ledger(self.n_columns, self.source.tol), None
        pieces: list[Piece] = []
        start, n_shorter, n_pieces, is_widened = 0.0, 0, 0, False
        state = self.initial(starts)
        while start < self.t_max:
            end = start + h
            is_last = end >= self.t_max * (1 - 1e-12)
            rows = self.rows(start, end, is_last)
            vectors = self.vectors(state, starts, start)
            with np.errstate(over="ignore", invalid="ignore"):
                span, Z, piece, verdict = self.piece_in_window(expansion, vectors, rows, start, keep)
            if verdict.is_overflowing:
                # coefficients of a region that had to be widened overflow where states need not
                trouble = "REGION" if is_widened else "OVERFLOW"
                self.overflow(z, rows, Z, d, start, span)
                ledger.error[:] = np.inf
                break
            if verdict.is_growing:
                if not source.widen():
                    trouble = "REGION"
                    ledger.error[:] = np.inf
                    z[:, :, :] = np.nan
                    break
                is_widened = True
                expansion = source.expansion(h)
                continue
            if verdict.shorter < h:
                is_hopeless = verdict.shorter * expansion.size < GIVEN_UP or (self.is_forced and n_shorter >= 3)
                if not is_hopeless:
                    good = first_good(rows, verdict.n_lost)
                    n_shorter += 1
                    if good is not None:
                        Z, piece = cut(Z, piece, good)
                        self.hand_out(z, piece.rows, Z, d, span)
                        ledger.add(expansion, piece, Z, verdict.error_of_good, [x[good:] for x in verdict.absolute])
                        n_pieces += 1
                        if keep:
                            self.keep(pieces, piece)
                        start, state = start + float(piece.rows[0].local[0]), self.carried(piece.rows, Z, dtype, span)
                    self.is_sharp = True
                    h = (self.t_max - start) / math.ceil((self.t_max - start) / verdict.shorter)
                    expansion = source.expansion(h)
                    continue
                trouble = trouble if self.is_forced else "DECAY"
            n_shorter = 0
            n_pieces += 1
            ledger.add(expansion, piece, Z, verdict.error, verdict.absolute)
            self.hand_out(z, rows, Z, d, span)
            if keep:
                self.keep(pieces, piece)
            if is_last:
                break
            state = self.carried(rows, Z, dtype, span)
            start = end
        if trouble is None and ledger.is_high:
            trouble = "DECAY"
        return Record(z, ledger.error, trouble, pieces, self.growth, n_pieces, self.n_states)

    def keep(self, pieces: list[Piece], piece: Piece) -> None:
        pieces.append(piece)
        if piece.keeps == "all":
            self.room -= piece.blocks[-1][1] * len(piece.vectors) * real(piece.vectors[0]).size

    def initial(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """The sum of those vectors of the terms that are states at time 0."""
        return np.sum([v for v, term in zip(vectors, self.terms) if term.kind == "exp"], 0)

    def vectors(self, state: np.ndarray, starts: list[np.ndarray], start: float) -> list[np.ndarray]:
        """v of the series of a piece: the state, and what drives it with its phase at the start of the piece."""
        driving = [v for v, term in zip(starts, self.terms) if term.kind != "exp"]
        return [state] + [combined(row, driving) for row in drive(self.terms, start)]

    @property
    def kinds(self) -> list[tuple[str, complex]]:
        return [("exp", 0.0)] + [(term.kind, term.w) for term in self.terms if term.kind != "exp"]

    def hand_out(
        self, z: np.ndarray, rows: list[Rows], Z: list[np.ndarray], d: np.ndarray | None, span: slice = EVERYTHING
    ) -> None:
        for group, states in zip(rows, Z):
            values = states[group.carries :]
            if d is not None:
                values = values * d[span, None]
            z[group.columns, group.places, span] = np.moveaxis(values, -1, 0)

    def overflow(
        self, z: np.ndarray, rows: list[Rows], Z: list[np.ndarray], d: np.ndarray | None, start: float, span: slice
    ) -> None:
        """The states of the piece in which some pass the largest float; they and all later ones are inf."""
        late = np.broadcast_to(self.t > start, z.shape[:2])
        z[late] = np.inf
        if all(len(states) for states in Z):
            self.hand_out(z, rows, [np.where(np.isfinite(states), states, np.inf) for states in Z], d, span)

    def carried(self, rows: list[Rows], Z: list[np.ndarray], dtype: np.dtype, span: slice = EVERYTHING) -> np.ndarray:
        found = Z[0][0] if len(rows) == 1 else np.concatenate([states[0] for states in Z], -1)
        state = np.zeros((self.n, self.n_columns), dtype)
        state[span] = found
        return state

    def piece_in_window(
        self, expansion: Expansion, vectors: list[np.ndarray], rows: list[Rows], start: float, keep: bool
    ) -> tuple[slice, list[np.ndarray], Piece, Verdict]:
        """A piece, and the states that its own are of: where only states are asked for, those that it can reach."""
        hops = expansion.n_terms + BLOCK
        span = None if keep else window(expansion, vectors, hops)
        if span is not None:
            inner = [np.ascontiguousarray(v[span]) for v in vectors]
            found = self.piece(expansion.within(span), inner, rows, start, keep)
            if found[1].blocks and found[1].blocks[-1][1] <= hops:
                self.n_states = max(self.n_states, span.stop - span.start)
                return span, *found
        self.n_states = self.n
        return EVERYTHING, *self.piece(expansion, vectors, rows, start, keep)

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
        references = [
            np.abs(function(kind, np.array([expansion.u]), local, complex(w).real))[:, 0] for kind, w in self.kinds
        ]
        need = np.ones(len(local), int)
        for tail, reference in zip(tails, references):
            need = np.maximum(need, (tail > tol * reference[:, None]).sum(1))
        groups = [
            Group(group, sizes, *parts)
            for group, *parts in zip(
                rows, np.split(np.array(found), cuts, 1), np.split(np.array(tails), cuts, 1), np.split(need, cuts)
            )
        ]
        dtype = vectors[0].dtype
        Z = [np.zeros((len(g.local), len(vectors[0]), g.columns.stop - g.columns.start), dtype) for g in rows]
        coefficients = [np.split(C, cuts) for C in found]
        n_numbers = max(int(need.max()), 1) * len(vectors) * real(vectors[0]).size
        has_all = keep and n_numbers <= self.room
        kept = None
        if keep:
            kept = "all" if has_all else "ends" if is_reversible(expansion) else "checkpoints"
        series = [Series(expansion, v, kept) for v in vectors]
        blocks: list[tuple[int, int, list[int]]] = []
        low, is_growing = 0, False
        is_overflowing = not np.isfinite(sizes).all()
        recent = sizes.copy()  # the larger of the last two vectors
        while not is_overflowing:
            high = min(low + BLOCK, max(group.end for group in groups))
            active = [group.n_active(low) for group in groups]
            for j, one in enumerate(series):
                F = one.advance(low, high)
                last = norms(F[-1], norm)
                growth = float(np.max(np.where(sizes[j] > 0, last / np.where(sizes[j] > 0, sizes[j], 1), 0)))
                if not growth <= GROWTH:
                    is_growing = True
                    break
                self.growth = max(self.growth, growth)
                for judged in groups:  # errors of early vectors stay in later ones, however small these are
                    judged.add_rounding(j, low, high, np.maximum(sizes[j], last))
                # polynomials have zeros: the last vector alone may be small by chance
                recent[j] = np.maximum(last, norms(F[-2], norm)) if len(F) > 1 else np.maximum(recent[j], last)
                for group, C, sums, n in zip(rows, coefficients[j], Z, active):
                    if n:
                        part = F if len(rows) == 1 else np.ascontiguousarray(F[:, :, group.columns])
                        add_products(C[:n, low:high], part, sums[:n])
            if is_growing:
                break
            blocks.append((low, high, active))
            low = high
            for judged, sums in zip(groups, Z):
                judged.judge(
                    low, sums, np.minimum(recent, sizes), tol, SHARP if self.is_sharp else 1.0, norm, expansion.d
                )
            end = max(group.end for group in groups)
            if self.watch is not None:
                done = start + min(low / end, 1.0) * float(local.max())
                self.told = max(self.told, min(1.0, done / self.t_max))
                self.watch(self.told)
            if end <= low:
                break
        is_overflowing = is_overflowing or (not is_growing and not all(np.isfinite(x).all() for x in Z))
        piece = Piece(expansion, start, rows, coefficients, blocks, vectors, [one.record for one in series], kept, low)
        error, error_of_good = np.zeros(self.n_columns), np.zeros(self.n_columns)
        absolute = [judged.absolute for judged in groups]
        shorter: float = np.inf
        for judged in groups:
            error[judged.rows.columns] = judged.error
            error_of_good[judged.rows.columns] = judged.error_of_good
            shorter = min(shorter, judged.shorter)
        return Z, piece, Verdict(is_growing, is_overflowing, shorter, groups[0].n_lost, error, error_of_good, absolute)

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
            for row, found in zip(drive(self.terms, piece.start), gradients[1:]):
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
            for i, behind, F in backwards(piece, j, v):
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
                n_pairs = high - low - is_top
                if images is None:
                    B.sample(sampler, G[1 : n_pairs + 1], F[:n_pairs])
                else:
                    around = [behind, *F, *([] if above is None else [above])]  # F_(low - 1), F_low, ...
                    for first in range(0, n_pairs, FEW):
                        some = slice(first, min(first + FEW, n_pairs))
                        products = np.stack(
                            [around[k + 2] + tau_at(tau, low + k) * around[k] for k in range(n_pairs)[some]]
                        )
                        B.sample_products(sampler, G[1:][some], images[some], F[some], products, low + first)
                    above = F[0].copy()
            found.append(after[0].copy())
        return found

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
            series = Series(piece.expansion, v, None)
            for low, high, active in piece.blocks:
                before = series.before[1].copy()
                F = series.advance(low, high)
                dF = np.zeros((high - low, *dv.shape), dtype)
                for k in range(low, high):
                    out = dF[k - low]
                    if k == 0:
                        out[:] = dv
                    else:
                        B.at(k - 1).add(new, out)
                        if dB is not None:
                            dB.at(k - 1).add(np.ascontiguousarray(F[k - low - 1] if k > low else before), out)
                        if k > 1:
                            out -= tau_at(tau, k - 1) * last
                    last, new = new, out
                for group, C, sums, n in zip(piece.rows, piece.coefficients[j], dZ, active):
                    if n:
                        part = dF if len(piece.rows) == 1 else np.ascontiguousarray(dF[:, :, group.columns])
                        add_products(C[:n, low:high], part, sums[:n])
        return dZ


def first_good(rows: list[Rows], n_lost: int) -> int | None:
    """The latest row before those that are lost, if the sweep can go on from it and gains enough."""
    if len(rows) > 1 or n_lost >= len(rows[0].local):
        return None
    return n_lost if rows[0].local[n_lost] >= ENOUGH * rows[0].local[0] else None


def cut(Z: list[np.ndarray], piece: Piece, first: int) -> tuple[list[np.ndarray], Piece]:
    """The states and the piece up to that row, which is carried on as well."""
    (group,), (states,) = piece.rows, Z
    places = group.places[first - group.carries :]
    rows = Rows(group.columns, places, np.append(group.local[first], group.local[first:]), True)
    chosen = np.append(first, np.arange(first, len(group.local)))
    blocks = [(low, high, [n - first + 1]) for low, high, (n,) in piece.blocks if n > first]
    coefficients = [[C[chosen]] for (C,) in piece.coefficients]
    return [states[chosen]], piece._replace(rows=[rows], blocks=blocks, coefficients=coefficients)
