"""Xi as what maps vectors to vectors: products, products with the adjoint, and gradients on its pattern.

Real Xi takes complex vectors as pairs of real columns: a product of two real columns costs less than a complex one.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

# the products that scipy.sparse itself calls; they add to the result, which saves a pass over a vector or two
from scipy.sparse import _sparsetools as loops

from ..errors import NonFiniteError, NotDifferentiableError

CHUNK = 4096  # entries of the pattern whose rows and columns are gathered at once: they fit in the cache
MOST_DIAGONALS = 24  # of a pattern up to which sums are taken diagonal by diagonal, without gathering


class Sampler(ABC):
    """Sums of outer products Y_k X_k^H, kept only where Xi has entries, or only their effect on parameters."""

    @abstractmethod
    def add(self, Y: np.ndarray, X: np.ndarray, factor: complex = 1.0) -> None:
        """Add factor * sum_k Y_k X_k^H, for Y and X (K, n, R)."""

    @abstractmethod
    def total(self) -> Any:
        """(nnz,) in the order of the CSR entries; or a list of arrays, one for each parameter."""


class Linear(ABC):
    """A square matrix known by its products.

    Attributes:
        n: its size. dtype: float64 or complex128. has_adjoint: products with Xi^H are known.
        n_products, n_transposed: how many products were taken so far, with any number of columns.
    """

    n: int
    dtype: np.dtype
    has_adjoint: bool = True
    n_products: int = 0
    n_transposed: int = 0

    @abstractmethod
    def times(self, X: np.ndarray) -> np.ndarray:
        """Xi X for X (n, R).

        Raises:
            NonFiniteError: a product is not finite.
        """

    @abstractmethod
    def adjoint_times(self, X: np.ndarray) -> np.ndarray:
        """Xi^H X for X (n, R). Raises as `times`."""

    @abstractmethod
    def sampler(self) -> Sampler:
        """A new sum for the gradient with respect to Xi."""

    @abstractmethod
    def tangent(self, dXi: Any) -> Linear:
        """dXi, in the shape of `Sampler.total`, as a matrix of the same pattern; or the derivative along parameters."""

    @abstractmethod
    def negated(self) -> Linear:
        """-Xi."""

    def mapped(self, c: complex, rho: complex, d: np.ndarray | None = None) -> Mapped:
        """(D^-1 Xi D - c) / rho, as what adds its products to a vector; D = diag(d)."""
        return Mapped(self, c, rho, d)


class Mapped:
    """B = (D^-1 X D - c) / rho for a matrix X known by its products.

    Attributes:
        dtype: float64 where B maps real vectors to real ones.
        samples_products: gradients are sums of X^H Y_k and X X_k, not of Y_k and X_k: so it is where X = R.
    """

    samples_products = False
    bandwidth: int | None = None  # of B, where entries are known: see `window`

    def __init__(self, X: Linear, c: complex, rho: complex, d: np.ndarray | None = None) -> None:
        self.X, self.c, self.rho = X, plain(c), plain(rho)
        self.d = None if d is None else d[:, None]
        is_real = X.dtype.kind != "c" and not isinstance(self.c, complex) and not isinstance(self.rho, complex)
        self.dtype = np.dtype(float if is_real else complex)

    def at(self, k: int) -> Mapped:
        """The B of the step from F_k to F_(k + 1)."""
        return self

    def add(self, x: np.ndarray, out: np.ndarray) -> None:
        """out += B x, for x (n, R)."""
        y = self.X.times(x) if self.d is None else self.X.times(x * self.d) / self.d
        out += (y - self.c * x) / self.rho

    def add_adjoint(self, y: np.ndarray, out: np.ndarray) -> None:
        """out += B^H y."""
        x = self.X.adjoint_times(y) if self.d is None else self.X.adjoint_times(y / self.d) * self.d
        out += (x - np.conj(self.c) * y) / np.conj(self.rho)

    def sample(self, sampler: Sampler, Y: np.ndarray, X: np.ndarray) -> None:
        """Add what sum_k Y_k X_k^H, a gradient with respect to B, is as one with respect to Xi."""
        if self.d is not None:
            Y, X = Y / self.d, X * self.d
        sampler.add(Y, X, 1 / np.conj(self.rho))

    def sample_products(
        self, sampler: Sampler, Y: np.ndarray, BY: np.ndarray, X: np.ndarray, BX: np.ndarray, low: int
    ) -> None:
        """The same where `samples_products`; BY and BX are B^H Y_k and B X_k for k from low on."""
        raise NotImplementedError

    def within(self, span: slice) -> Mapped:
        """The block of B of these rows and columns, where it has entries."""
        raise NotImplementedError

    def tangent(self, dX: Linear) -> Mapped:
        """What a change of X changes in B."""
        return dX.mapped(0.0, self.rho, None if self.d is None else self.d[:, 0])


def plain(x: complex) -> complex:
    """A float where the imaginary part is 0."""
    return x.real if isinstance(x, complex) and x.imag == 0 else x


class Rows(NamedTuple):
    """Entries by row, as scipy's CSR arrays hold them."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray

    def add(self, x: np.ndarray, out: np.ndarray) -> None:
        """out += A x for contiguous x (n, R); a real A takes complex x."""
        n = len(self.indptr) - 1
        if self.data.dtype.kind != "c" and out.dtype.kind == "c":
            x, out = x.view(float), out.view(float)
        n_columns = x.size // n
        if n_columns == 1:
            loops.csr_matvec(n, n, *self, x.reshape(-1), out.reshape(-1))
        elif n_columns:
            loops.csr_matvecs(n, n, n_columns, *self, x.reshape(-1), out.reshape(-1))


class Pattern:
    """Where a matrix may have entries: CSR, indices sorted within each row, each once."""

    def __init__(self, indptr: np.ndarray, indices: np.ndarray) -> None:
        kind = np.int32 if len(indices) < 2**31 else np.int64
        self.indptr, self.indices = (np.ascontiguousarray(x, kind) for x in (indptr, indices))
        self.n = len(indptr) - 1

    @cached_property
    def rows(self) -> np.ndarray:
        """The row of every entry."""
        return np.repeat(np.arange(self.n, dtype=self.indices.dtype), np.diff(self.indptr))

    @cached_property
    def diagonal(self) -> np.ndarray:
        """Which entries are on the diagonal."""
        return np.flatnonzero(self.indices == self.rows)

    @cached_property
    def transposition(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """indptr and indices of the transpose, and which entry of the matrix each of its entries is."""
        indptr, indices = np.empty_like(self.indptr), np.empty_like(self.indices)
        order = np.empty_like(self.indices)
        places = np.arange(len(self.indices), dtype=self.indices.dtype)
        loops.csr_tocsc(self.n, self.n, self.indptr, self.indices, places, indptr, indices, order)
        return indptr, indices, order

    @cached_property
    def is_symmetric(self) -> bool:
        indptr, indices, _ = self.transposition
        return bool(np.array_equal(indptr, self.indptr) and np.array_equal(indices, self.indices))

    @cached_property
    def bandwidth(self) -> int:
        return int(np.abs(self.indices - self.rows).max(initial=0))

    @cached_property
    def offsets(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The diagonals that have entries, and that of each entry; None where they are many or nearly empty."""
        if not len(self.indices):
            return None
        gap = self.indices - self.rows
        least = int(gap.min())
        filled = np.bincount(gap - least) > 0
        found = np.flatnonzero(filled)
        if len(found) > MOST_DIAGONALS or len(found) * self.n > 3 * len(self.indices):
            return None
        return found + least, (np.cumsum(filled) - 1)[gap - least]

    def sampler(self, dtype: np.dtype) -> PatternSampler:
        return PatternSampler(self, dtype)


class PatternSampler(Sampler):
    """sum_k Y_k X_k^H on a pattern. For a real matrix, its real part."""

    def __init__(self, pattern: Pattern, dtype: np.dtype) -> None:
        self.pattern, self.dtype = pattern, dtype
        shape = (len(pattern.indices),) if pattern.offsets is None else (len(pattern.offsets[0]), pattern.n)
        self.sums = np.zeros(shape, dtype)

    def add(self, Y: np.ndarray, X: np.ndarray, factor: complex = 1.0) -> None:
        if not len(Y) or not self.sums.size:
            return
        if self.dtype.kind == "c":
            Y, X = Y.astype(complex, copy=False), X.astype(complex, copy=False)
        elif isinstance(plain(factor), complex):
            Y, X, factor = Y * factor, X.astype(complex, copy=False), 1.0
        if self.dtype.kind != "c" and (Y.dtype.kind == "c" or X.dtype.kind == "c"):
            Y, X = (np.ascontiguousarray(x, complex).view(float) for x in (Y, X))
        if self.pattern.offsets is not None:
            self.add_diagonals(Y, X, plain(factor))
        else:
            self.add_gathered(Y, X, plain(factor))

    def add_diagonals(self, Y: np.ndarray, X: np.ndarray, factor: complex) -> None:
        n, is_complex = self.pattern.n, X.dtype.kind == "c"
        n_vectors = Y[:, 0].size
        size = max(64, 2**17 // (n_vectors * len(self.sums)))
        Y, X = Y.reshape(len(Y), n, -1), X.reshape(len(X), n, -1)
        assert self.pattern.offsets is not None
        for start in range(0, n, size):
            for i, offset in enumerate(self.pattern.offsets[0].tolist()):
                low, high = max(start, -offset, 0), min(start + size, n, n - offset)
                if low < high:
                    x = X[:, low + offset : high + offset]
                    terms = np.einsum("knr,knr->n", Y[:, low:high], x.conj() if is_complex else x)
                    self.sums[i, low:high] += terms if factor == 1 else factor * terms

    def add_gathered(self, Y: np.ndarray, X: np.ndarray, factor: complex) -> None:
        rows, columns = self.pattern.rows, self.pattern.indices
        n = self.pattern.n
        Y, X = (np.ascontiguousarray(np.moveaxis(x, 1, 0)).reshape(n, -1) for x in (Y, X))
        if X.dtype.kind == "c":
            X = X.conj()
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            terms = np.einsum("ek,ek->e", Y[rows[chunk]], X[columns[chunk]])
            self.sums[chunk] += terms if factor == 1 else factor * terms

    def total(self) -> np.ndarray:
        if self.pattern.offsets is None:
            return self.sums
        return self.sums[self.pattern.offsets[1], self.pattern.rows]


class Matrix(Linear):
    """Xi with its entries: CSR arrays with sorted indices, each entry once (explicit zeros are entries)."""

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
        self.pattern = Pattern(indptr, indices)
        self._fill(data)

    def _fill(self, data: np.ndarray) -> None:
        data = np.asarray(data)
        self.dtype = np.dtype(complex if data.dtype.kind == "c" else float)
        self.data = np.ascontiguousarray(data, self.dtype)
        self.n = self.pattern.n

    def with_values(self, data: np.ndarray) -> Matrix:
        """Other values on the same pattern, of which all that was found is kept."""
        other = object.__new__(Matrix)
        other.pattern = self.pattern
        other._fill(data)
        return other

    @cached_property
    def symmetry(self) -> int:
        """1 where Xi is Hermitian, -1 where it is skew-Hermitian, else 0."""
        if not self.pattern.is_symmetric:
            return 0
        mirror = self.data[self.pattern.transposition[2]].conj()
        return 1 if np.array_equal(self.data, mirror) else -1 if np.array_equal(self.data, -mirror) else 0

    @cached_property
    def forward(self) -> Rows:
        return Rows(self.pattern.indptr, self.pattern.indices, self.data)

    @cached_property
    def adjoint(self) -> Rows:
        return self._adjoint_of(self.data)

    def _adjoint_of(self, data: np.ndarray) -> Rows:
        indptr, indices, order = self.pattern.transposition
        return Rows(indptr, indices, data[order].conj())

    def times(self, X: np.ndarray) -> np.ndarray:
        self.n_products += 1
        return self._product(self.forward, X, self.n_products)

    def adjoint_times(self, X: np.ndarray) -> np.ndarray:
        self.n_transposed += 1
        return self._product(self.adjoint, X, self.n_transposed)

    def _product(self, A: Rows, X: np.ndarray, number: int) -> np.ndarray:
        X = np.ascontiguousarray(X, np.result_type(X, self.dtype))
        out = np.zeros_like(X)
        A.add(X, out)
        return finite(out, number)

    def sampler(self) -> Sampler:
        return self.pattern.sampler(self.dtype)

    def tangent(self, dXi: np.ndarray) -> Matrix:
        return self.with_values(np.asarray(dXi))

    def negated(self) -> Matrix:
        return self.with_values(-self.data)

    def mapped(self, c: complex, rho: complex, d: np.ndarray | None = None) -> MappedMatrix:
        return MappedMatrix(self, c, rho, d)


class MappedMatrix(Mapped):
    """B with its own entries: a product is one pass over them."""

    def __init__(self, X: Matrix, c: complex, rho: complex, d: np.ndarray | None) -> None:
        super().__init__(X, c, rho, d)
        self.matrix = X
        self.ratio = None if d is None else d[X.pattern.indices] / d[X.pattern.rows]
        data = X.data if self.ratio is None else X.data * self.ratio
        data = data / self.rho
        self.shift: complex = 0.0  # of vectors, where not all of the diagonal is in the pattern
        if self.c:
            if len(X.pattern.diagonal) == X.n:
                if isinstance(self.c / self.rho, complex):
                    data = data.astype(complex, copy=False)
                data[X.pattern.diagonal] -= self.c / self.rho
            else:
                self.shift = plain(self.c / self.rho)
        if data.dtype.kind == "c" and not isinstance(self.shift, complex) and not data.imag.any():
            data = np.ascontiguousarray(data.real)  # i times a real matrix, turned back
        self.dtype = np.dtype(complex if isinstance(self.shift, complex) else data.dtype)
        self.rows = Rows(X.pattern.indptr, X.pattern.indices, data)

    @cached_property
    def adjoint_rows(self) -> Rows:
        if self.is_hermitian:
            return self.rows
        return self.matrix._adjoint_of(self.rows.data)

    @property
    def is_hermitian(self) -> bool:
        """B is Hermitian: D^-1 Xi D is, or Xi is and its multiple still is."""
        turn = {1: self.rho, -1: 1j * self.rho, 0: 1j}[1 if self.d is not None else self.matrix.symmetry]
        return isinstance(plain(turn), float) and not isinstance(plain(complex(self.c / self.rho)), complex)

    @property
    def bandwidth(self) -> int:  # type: ignore[override]
        return self.matrix.pattern.bandwidth

    def within(self, span: slice) -> MappedMatrix:
        """The block of B of these rows and columns."""
        other = copy.copy(self)
        ends = self.rows.indptr[span.start : span.stop + 1]
        entries = slice(ends[0], ends[-1])
        columns = self.rows.indices[entries] - span.start
        inside = (columns >= 0) & (columns < span.stop - span.start)
        counts = np.append(0, np.cumsum(inside)).astype(ends.dtype)
        other.rows = Rows(counts[ends - ends[0]], columns[inside], self.rows.data[entries][inside])
        return other

    def add(self, x: np.ndarray, out: np.ndarray) -> None:
        self.matrix.n_products += 1
        self.rows.add(x, out)
        if self.shift:
            out -= self.shift * x

    def add_adjoint(self, y: np.ndarray, out: np.ndarray) -> None:
        self.matrix.n_transposed += 1
        self.adjoint_rows.add(y, out)
        if self.shift:
            out -= np.conj(self.shift) * y


Product = Callable[[np.ndarray], np.ndarray]  # (n, R) -> (n, R)
Solve = Callable[[float, np.ndarray], np.ndarray]  # gamma, (n, R) -> (n, R)


class Functions(Linear):
    """Xi as functions of blocks of columns.

    Args:
        matvec: Xi X for X (n, R). rmatvec: Xi^H X; None where it is not known.
        n, dtype: as of `Linear`.
        vjp: for Y and X (n, R) the gradients of Re<Y, Xi X> with respect to each parameter, a list of arrays; None: no
            parameters.
        jvp: for changes of the parameters, a list, and X (n, R): the change of Xi X.
        is_hermitian, is_dissipative, bounds: what the user knows of the numerical range, see `region`.
        solve: (I - gamma Xi)^-1 X for a number gamma and X (n, R). rsolve: (I - gamma Xi^H)^-1 X, by default `solve`
            where Xi is Hermitian.
    """

    def __init__(
        self,
        matvec: Product,
        n: int,
        *,
        rmatvec: Product | None = None,
        dtype: Any = float,
        vjp: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]] | None = None,
        jvp: Callable[[Any, np.ndarray], np.ndarray] | None = None,
        is_hermitian: bool = False,
        is_dissipative: bool = False,
        bounds: tuple[float, ...] | None = None,
        solve: Solve | None = None,
        rsolve: Solve | None = None,
    ) -> None:
        self.solve, self.rsolve = solve, solve if is_hermitian and rsolve is None else rsolve
        self.matvec, self.n, self.dtype = matvec, n, np.dtype(dtype)
        self.rmatvec = matvec if is_hermitian and rmatvec is None else rmatvec
        self.vjp, self.jvp = vjp, jvp
        self.is_hermitian, self.is_dissipative, self.bounds = is_hermitian, is_dissipative, bounds
        self.has_adjoint = self.rmatvec is not None

    def times(self, X: np.ndarray) -> np.ndarray:
        self.n_products += 1
        return finite(self.matvec(X), self.n_products)

    def adjoint_times(self, X: np.ndarray) -> np.ndarray:
        if self.rmatvec is None:
            raise NotDifferentiableError("a gradient needs products with Xi^H: give the operator an rmatvec")
        self.n_transposed += 1
        return finite(self.rmatvec(X), self.n_transposed)

    def sampler(self) -> Sampler:
        return FunctionsSampler(self)

    def tangent(self, dXi: Any) -> Functions:
        if self.jvp is None:
            raise NotDifferentiableError("the operator has no parameters along which to differentiate")
        jvp = self.jvp
        return Functions(lambda X: jvp(dXi, X), self.n, dtype=self.dtype)

    def negated(self) -> Functions:
        def minus(function: Product | None) -> Product | None:
            return None if function is None else lambda X: -function(X)

        def turned(solve: Solve | None) -> Solve | None:
            return None if solve is None else lambda gamma, X: solve(-gamma, X)

        vjp, jvp = self.vjp, self.jvp
        return Functions(
            lambda X: -self.matvec(X),
            self.n,
            rmatvec=minus(self.rmatvec),
            dtype=self.dtype,
            vjp=None if vjp is None else lambda Y, X: [-x for x in vjp(Y, X)],
            jvp=None if jvp is None else lambda dXi, X: -jvp(dXi, X),
            is_hermitian=self.is_hermitian,
            bounds=None if self.bounds is None else negated_bounds(self.bounds),
            solve=turned(self.solve),
            rsolve=turned(self.rsolve),
        )


class FunctionsSampler(Sampler):
    """The gradient with respect to the parameters of an operator: one vjp of matvec for many columns."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.sums: list[np.ndarray] | None = None

    def add(self, Y: np.ndarray, X: np.ndarray, factor: complex = 1.0) -> None:
        if self.functions.vjp is None or not len(Y):
            return
        if self.functions.dtype.kind == "c" or isinstance(plain(factor), complex):
            Y = Y * factor
            factor = 1.0
        Y, X = (np.ascontiguousarray(np.moveaxis(x, 0, 1)).reshape(self.functions.n, -1) for x in (Y, X))
        size = max(1, 300_000 // self.functions.n)  # columns: larger blocks gain nothing
        for start in range(0, Y.shape[1], size):
            columns = slice(start, start + size)
            found = self.functions.vjp(Y[:, columns], X[:, columns])
            terms = [plain(factor) * np.asarray(x) for x in found]
            self.sums = terms if self.sums is None else [x + y for x, y in zip(self.sums, terms)]

    def total(self) -> list[np.ndarray] | None:
        """None where there were no products: the gradient is 0."""
        return self.sums


def negated_bounds(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """Bounds of -Xi from those of Xi, see `region`."""
    pairs = [(-high, -low) for low, high in zip(bounds[::2], bounds[1::2])]
    return tuple(x for pair in pairs for x in pair)


def finite(y: np.ndarray, number: int) -> np.ndarray:
    """y, a product.

    Raises:
        NonFiniteError: with the number of the product.
    """
    if not np.isfinite(y).all():
        raise NonFiniteError(f"product number {number} with Xi is not finite")
    return y
