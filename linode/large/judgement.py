"""How good the states of a piece are: terms that are missing, rounding, and the errors of earlier pieces."""

from __future__ import annotations

import math

import numpy as np

from .series import BLOCK, Expansion, Piece, Rows, Series, add_products, norms

ROUNDINGS = 8 * 2.0**-53  # of sum_k |f_k| |v|: what rounding leaves; 1 to 5 units of 2^-53 were seen
SMALLEST = 1e-290  # states below have no digits to keep
PROBED, HIGH = 10.0, 200.0  # tolerances: from errors of these on a random vector goes along, and they are told
SAFETY = 4.0  # of errors that a random vector stands for
TOLD = 1e-6  # smaller ones are left to the estimate


class Ledger:
    """The error of the states, relative to each, over all pieces.

    A state may decay faster than its error: fast modes leave rounding in slow ones, and in transport out of a domain
    the state leaves where its error stays. So absolute errors add up, and grow by e^(u t) at most. Where that bound is
    more than is allowed, a random vector is taken along, whose decay is that of an error.
    Where Xi is normal, a piece leaves what its coefficients at its end say; elsewhere what it had at any of its times
    may be left.
    """

    def __init__(self, n_columns: int, tol: float) -> None:
        self.tol, self.error, self.absolute = tol, np.zeros(n_columns), np.zeros(n_columns)
        self.probe: np.ndarray | None = None

    @property
    def is_high(self) -> bool:
        return bool((self.error > max(HIGH * self.tol, TOLD)).any())

    def add(
        self, expansion: Expansion, piece: Piece, Z: list[np.ndarray], error: np.ndarray, absolute: list[np.ndarray]
    ) -> None:
        """One more piece with its own errors: relative, the largest, and absolute, of groups of columns, (T, R)."""
        ends = np.concatenate([norms(states[0], expansion.norm) for states in Z if len(states)])
        if len(ends) != len(self.error):  # some columns have no times left
            self.error = self.error + error
            return
        h = float(max(group.local[0] for group in piece.rows if len(group.local)))
        factor = math.exp(min(expansion.u * h, 700.0))
        if self.probe is not None or (self.absolute * factor > PROBED * self.tol * ends).any():
            factor = min(factor, self.decay(expansion, piece, h))
        carried = self.absolute * factor
        own = np.concatenate([x[0] if expansion.is_normal else x.max(0) for x in absolute if len(x)])
        self.absolute = carried + own
        left = carried if expansion.is_normal else self.absolute
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(ends > SMALLEST, (1 if self.probe is None else SAFETY) * left / ends, 0.0)
        self.error = np.maximum(self.error, error + relative if expansion.is_normal else np.maximum(error, relative))

    def decay(self, expansion: Expansion, piece: Piece, h: float) -> float:
        """|e^(Xi h) r| / |r| for a random vector r, which is e^(Xi h) r from then on.

        What is random decays at first as its fast parts do; errors are smoother. So the first r has gone such a way
        before.
        """
        n = len(piece.vectors[0])
        if self.probe is None or len(self.probe) != n:
            self.probe = np.random.default_rng(5).standard_normal((n, 1)).astype(piece.vectors[0].dtype)
            self.advance(expansion, piece, h)
        return self.advance(expansion, piece, h)

    def advance(self, expansion: Expansion, piece: Piece, h: float) -> float:
        """The random vector after h, of length 1, and the factor by which it decayed."""
        probe = np.asarray(self.probe)
        C = expansion.coefficients("exp", np.array([h]), 0.0)
        series, total = Series(expansion, probe, None), np.zeros((1, *probe.shape), probe.dtype)
        n_terms = min(piece.blocks[-1][1], C.shape[1])
        for low in range(0, n_terms, BLOCK):
            high = min(low + BLOCK, n_terms)
            add_products(C[:, low:high], series.advance(low, high), total)
        before, after = (float(norms(x, expansion.norm)[0]) for x in (probe, total[0]))
        self.probe = total[0] / after if after > 0 else probe
        return after / before


class Group:
    """Rows of a piece that share columns, latest first: how many terms each needs, and how good it is."""

    def __init__(
        self, rows: Rows, starts: np.ndarray, coefficients: np.ndarray, tails: np.ndarray, need: np.ndarray
    ) -> None:
        self.rows, self.starts, self.tails = rows, starts[:, rows.columns], tails  # sizes (J, R); (J, T, N)
        found = np.abs(coefficients)
        # rounding of the FFT is that of the largest value, for every coefficient
        self.masses = np.maximum(found, found.max(2, keepdims=True, initial=0) / found.shape[2])
        self.floors = np.zeros((len(rows.local), rows.columns.stop - rows.columns.start))
        self.need = np.maximum.accumulate(need[::-1])[::-1] if len(need) else need  # later rows need no fewer
        self.n_judged = len(need)  # rows from here on are done
        self.error = np.zeros(rows.columns.stop - rows.columns.start)
        self.error_of_good = self.error  # of states that are not lost in rounding
        self.absolute = np.zeros_like(self.floors)  # not relative
        self.shorter, self.n_lost = np.inf, 0

    @property
    def end(self) -> int:
        return int(self.need[0]) if len(self.need) else 0

    def n_active(self, k: int) -> int:
        return int((self.need > k).sum())

    def add_rounding(self, j: int, low: int, high: int, size: np.ndarray) -> None:
        """What rounding of terms low to high of series j leaves in the states, for |F_k| of size (R,)."""
        mass = self.masses[j, :, low:high].sum(1)
        self.floors += ROUNDINGS * np.multiply.outer(mass, size[self.rows.columns])

    def judge(
        self, k: int, Z: np.ndarray, sizes: np.ndarray, tol: float, part: float, norm: float, d: np.ndarray | None
    ) -> None:
        """Look at the rows that were to end before k: done, or to be continued.

        sizes (J, R): of the last vectors F_k of all terms. part: of the tolerance to which terms are added.
        """
        low, high = self.n_active(k), self.n_judged
        if low >= high:
            return
        states = Z[low:high]
        size = norms(states, norm)  # (T, R)
        scale = size if d is None else norms(states * d[:, None], norm) / d.max()
        sizes = sizes[:, self.rows.columns]
        floor = self.floors[low:high]
        allowed = np.maximum(tol * scale, SMALLEST)
        n_terms = self.tails.shape[2]
        tail = np.einsum("jt,jr->tr", self.tails[:, low:high, k], sizes) if k < n_terms else np.zeros_like(floor)
        enough = np.maximum(part * allowed, floor)
        is_short = tail > enough
        if is_short.any():
            i = int(np.flatnonzero(is_short.any(1))[-1])
            full = np.einsum("jtn,jr->tnr", self.tails[:, low : low + i + 1], sizes)
            more = (full > enough[: i + 1, None]).sum(1).max()
            self.need[: low + i + 1] = np.maximum(self.need[: low + i + 1], more)
            low += i + 1
            if low >= high:
                return
            cut = slice(i + 1, None)
            size, scale, floor, tail, allowed = (x[cut] for x in (size, scale, floor, tail, allowed))
        self.n_judged = low
        is_lost = floor > allowed
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(scale > SMALLEST, (tail + 4 * floor) / scale, 0.0)
            is_good = ~is_lost.any(1, keepdims=True)
            self.error_of_good = np.maximum(self.error_of_good, np.where(is_good, error, 0.0).max(0))
        self.error = np.maximum(self.error, error.max(0))
        self.absolute[low:high] = tail + 4 * floor
        if is_lost.any():
            self.n_lost = max(self.n_lost, low + int(np.flatnonzero(is_lost.any(1))[-1]) + 1)
            h = float(self.rows.local[0])
            times = self.rows.local[low:high][:, None]
            most = math.log(max(tol / ROUNDINGS, 2.0)) * 0.8  # of the logarithm of |v| / |z|
            with np.errstate(divide="ignore", invalid="ignore"):
                decay = np.log(self.starts.sum(0) / np.maximum(size, 1e-300))
                fair = np.where(is_lost, times * most / np.maximum(decay, 1e-9), np.inf).min()
            self.shorter = min(self.shorter, min(max(fair, h / 8), h / 2))
