"""Linear dynamics whose Xi has entries on a fixed pattern only: what `LinearDynamics(n, pattern=...)` makes.

The parameters are dense vectors, one number an entry or an edge, so that every optimiser of torch works; Xi is made of
them at each use, as a `SparseMatrix`, and solved as a sparse one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from .. import matrices
from ..engine.problem import as_tensor, check_finite, is_dense
from ..errors import DtypeError, MethodError, OptionError, ShapeError, meant
from ..operators import Pattern, SparseMatrix
from ..sparse_ode import reader_of
from .base import modest
from .dynamics import InFullPrecision, LinearDynamics

SMALLEST = 1e-10  # of the largest rate: a rate of 0, which has no logarithm, becomes this


class Entries(nn.Module):
    """Values on a pattern from unconstrained numbers; the base of those that constrain them.

    rows, columns: places of the values, (nnz,).
    """

    name: ClassVar[str] = "free"
    summary: ClassVar[str] = "a matrix on the pattern"

    def __init__(self, rows: np.ndarray, columns: np.ndarray, n: int) -> None:
        super().__init__()
        self.n, self.rows, self.columns = n, rows, columns

    def forward(self, values: Tensor) -> Tensor:
        return values

    def right_inverse(self, values: Tensor) -> Tensor:
        parts = self.parts(values.detach().to("cpu", torch.float64))
        error, size = (float(x.abs().max()) if len(x) else 0.0 for x in (self.cpu_values(parts) - values.cpu(), values))
        if not error <= matrices.TOLERANCE * size:
            raise OptionError(
                f"Xi is not {self.summary}: it is {error:.2g} away from the one that was found near to it, and its "
                f"largest entry is {size:.2g}; nearest(Xi) gives the one that was found"
            )
        return parts.to(values)

    def cpu_values(self, parts: Tensor) -> Tensor:
        with torch.no_grad():
            return self(parts)

    def parts(self, values: Tensor) -> Tensor:
        """What `forward` makes such values of, or values near to them."""
        return values.clone()

    def initial(self) -> Tensor:
        """Values to start from: those of a matrix as modest as a dense one with as many entries in a row."""
        own = modest(self.n) if self.n <= 64 else None
        if own is not None:
            return own[self.rows, self.columns]
        size = (8 * max(len(self.rows) / self.n, 1.0)) ** 0.5
        noise = torch.randn(len(self.rows), dtype=torch.float64, device="cpu") / size
        return noise - 0.5 * torch.from_numpy((self.rows == self.columns).astype(float))


class Generator(Entries):
    """Rates of a Markov chain: entries off the diagonal are positive, from column to row, and columns sum to 0.

    The parameters are the logarithms of the rates, one an edge.
    Source: Norris (1997), Markov Chains, section 2.1 (there with rows and columns exchanged).
    """

    origin: Tensor
    name = "generator"
    summary = "a generator on the pattern (rates >= 0 off the diagonal, columns that sum to 0)"

    def __init__(self, rows: np.ndarray, columns: np.ndarray, n: int) -> None:
        off = rows != columns
        pairs = np.unique(rows[off].astype(np.int64) * n + columns[off])
        self_rows, self_columns = pairs // n, pairs % n
        everywhere = np.arange(n)
        super().__init__(np.concatenate([self_rows, everywhere]), np.concatenate([self_columns, everywhere]), n)
        self.register_buffer("origin", torch.from_numpy(self_columns), persistent=False)

    def forward(self, logarithms: Tensor) -> Tensor:
        return matrices.generator_entries(logarithms.exp(), self.origin, self.n)

    def parts(self, values: Tensor) -> Tensor:
        rates = values[: len(self.origin)]
        least = SMALLEST * (float(rates.abs().max()) if len(rates) else 1.0) or SMALLEST
        return rates.clamp(min=least).log()

    def initial(self) -> Tensor:
        """Each state is left at a rate of about 1/2."""
        counts = torch.bincount(self.origin.cpu(), minlength=self.n).clamp(min=1).double()
        rates = torch.rand(len(self.origin), dtype=torch.float64, device="cpu") / counts[self.origin.cpu()]
        return self.cpu_values(rates.clamp(min=SMALLEST).log())


class Laplacian(Entries):
    """Minus the Laplacian of a graph with positive weights: diffusion. Symmetric, and columns sum to 0.

    The parameters are the logarithms of the weights, one an edge; an edge may be given in one direction or in both.
    """

    low: Tensor
    high: Tensor
    name = "laplacian"
    summary = "minus a graph Laplacian on the pattern (symmetric, weights >= 0 off the diagonal, columns that sum to 0)"

    def __init__(self, rows: np.ndarray, columns: np.ndarray, n: int) -> None:
        off = rows != columns
        low, high = np.minimum(rows[off], columns[off]), np.maximum(rows[off], columns[off])
        pairs = np.unique(low.astype(np.int64) * n + high)
        low, high = pairs // n, pairs % n
        everywhere = np.arange(n)
        super().__init__(np.concatenate([low, high, everywhere]), np.concatenate([high, low, everywhere]), n)
        self.register_buffer("low", torch.from_numpy(low), persistent=False)
        self.register_buffer("high", torch.from_numpy(high), persistent=False)

    def forward(self, logarithms: Tensor) -> Tensor:
        weights = logarithms.exp()
        return matrices.generator_entries(torch.cat([weights, weights]), torch.cat([self.high, self.low]), self.n)

    def parts(self, values: Tensor) -> Tensor:
        count = len(self.low)
        weights = (values[:count] + values[count : 2 * count]) / 2
        least = SMALLEST * (float(weights.abs().max()) if count else 1.0) or SMALLEST
        return weights.clamp(min=least).log()

    def initial(self) -> Tensor:
        """Each node is left at a rate of about 1/2."""
        ends = torch.cat([self.low, self.high]).cpu()
        degree = torch.bincount(ends, minlength=self.n).clamp(min=1).double()
        size = torch.maximum(degree[self.low.cpu()], degree[self.high.cpu()])
        weights = torch.rand(len(self.low), dtype=torch.float64, device="cpu") / size
        return self.cpu_values(weights.clamp(min=SMALLEST).log())


KINDS: dict[str, type[Entries]] = {kind.name: kind for kind in (Entries, Generator, Laplacian)}


class PatternDynamics(LinearDynamics):
    """`LinearDynamics` with Xi on a pattern: see there."""

    entries: Tensor

    def _make_Xi(self, parametrization: Any, rank: int) -> None:
        if not isinstance(parametrization, str) or parametrization not in KINDS:
            hint = meant(parametrization, KINDS) if isinstance(parametrization, str) else ""
            known = ", ".join(map(repr, KINDS))
            raise OptionError(f"with a pattern, parametrization must be one of {known}, got {parametrization!r}{hint}")
        rows, columns = places_of(self._pattern, self.n)
        made = KINDS[parametrization](rows, columns, self.n)
        self.pattern = Pattern.of(made.rows, made.columns, self.n, "Xi")
        self.entries = nn.Parameter(made.initial())
        register_parametrization(self, "entries", made)
        self._pattern = None  # it may be what cannot be copied
        self.parametrizations.entries.__class__ = InFullPrecision  # type: ignore[union-attr]

    @property
    def Xi(self) -> Any:
        """The present matrix, a `SparseMatrix`; a sparse or dense matrix may be assigned."""
        return SparseMatrix.on(self.pattern, self.entries)

    @Xi.setter
    def Xi(self, values: Tensor) -> None:
        self.entries = values

    @property
    def parametrization(self) -> Any:
        return self.parametrizations.entries[0]  # type: ignore[union-attr, index]

    def nearest(self, matrix: Any) -> Any:
        with torch.no_grad():
            values = self._checked(matrix)
            found = self.parametrization(self.parametrization.parts(values.cpu().double()).to(values))
            return SparseMatrix.on(self.pattern, found)

    def init_from_data(self, t: Any, z: Any, u: Any = None) -> Tensor:
        raise MethodError(
            "fits work with a dense Xi, and this layer has a pattern: assign a matrix to Xi to start from"
        )

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.entries = self.parametrization.initial().to(self.entries)
        self._reset_forcing()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.pattern.nnz} entries"

    def _checked(self, matrix: Any) -> Tensor:
        """The entries of a matrix on the pattern, in its order."""
        if is_dense(matrix):
            given = as_tensor(matrix, "Xi").detach()
            check_finite(given, "Xi")
            shape, is_complex = tuple(given.shape), given.is_complex()
            own = scipy.sparse.csr_array(given.cpu().numpy()) if given.ndim == 2 else None
        else:
            read = reader_of(matrix, "Xi", None)()
            if not isinstance(read, SparseMatrix):
                raise DtypeError("Xi must have entries, got an operator")
            own, shape, is_complex = read.to_scipy(), tuple(read.shape), read.dtype.is_complex
        if shape != (self.n, self.n) or own is None:
            raise ShapeError(f"Xi has shape {shape}; Xi must be ({self.n}, {self.n})")
        if is_complex:
            raise DtypeError(f"Xi must be real, got {own.dtype}")
        rows, columns = self.parametrization.rows, self.parametrization.columns
        values = np.asarray(own[rows, columns]).reshape(-1) if len(rows) else np.zeros(0)
        inside = scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=own.shape)
        outside = own - own.multiply(inside != 0)
        if outside.nnz and abs(outside).max() > 0:
            raise OptionError(f"Xi has entries outside of the pattern, up to {abs(outside).max():.2g}")
        return torch.from_numpy(values.copy()).to(next(self.parametrizations.entries.parameters()))  # type: ignore[union-attr]


def places_of(pattern: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a pattern: of a sparse matrix, or indices (2, nnz)."""
    if not is_dense(pattern):
        read = reader_of(pattern, "pattern", None)()
        if not isinstance(read, SparseMatrix):
            raise DtypeError("pattern must be a sparse matrix or indices (2, nnz), got an operator")
        if read.n != n:
            raise ShapeError(f"pattern is {read.n} x {read.n}; it must be {n} x {n}")
        return read.pattern.rows, read.pattern.indices.astype(np.int64)
    index = np.asarray(pattern.cpu() if isinstance(pattern, Tensor) else pattern)
    if index.ndim != 2 or len(index) != 2 or (index.dtype.kind not in "iu" and index.size):
        raise ShapeError(
            f"pattern must be a sparse matrix or integers (2, nnz), rows and columns; got {index.dtype} {index.shape}"
        )
    own = Pattern.of(index[0].astype(np.int64), index[1].astype(np.int64), n, "pattern")
    return own.rows, own.indices.astype(np.int64)
