"""What Xi may be beside a dense array: entries on a pattern (`SparseMatrix`), or functions that multiply (`Operator`).

Sparse tensors of torch and sparse arrays of scipy are read here: their indices become one sorted CSR pattern on the
host, without duplicates, and their values stay a tensor, so that derivatives reach them. Nothing here decomposes or
multiplies: methods do, with what `linode.large` makes of these.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from .errors import DeviceError, DtypeError, MethodError, OptionError, ShapeError
from .large.linear import Matrix

COMPRESSED = (torch.sparse_csr, torch.sparse_csc)
HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
SUPPORTED = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Pattern:
    """Where a matrix has entries, (n, n): CSR on the host, columns sorted within rows, each place once.

    place: of each value that was given, its number in CSR order, (nnz given,); None: they are in CSR order.
    """

    def __init__(self, n: int, indptr: np.ndarray, indices: np.ndarray, place: np.ndarray | None) -> None:
        kind = np.int32 if max(n, len(indices)) < 2**31 else np.int64  # products with int32 take less time
        self.n, self.indptr, self.indices = n, indptr.astype(kind, copy=False), indices.astype(kind, copy=False)
        self.place = None if place is None else torch.from_numpy(place.astype(np.int64, copy=False))

    @classmethod
    def of(cls, rows: np.ndarray, columns: np.ndarray, n: int, name: str) -> Pattern:
        """Of places in any order, also repeated.

        Raises:
            ShapeError: an index is out of range.
        """
        for index, kind in ((rows, "row"), (columns, "column")):
            if index.size and not (index.min() >= 0 and index.max() < n):
                k = int(np.flatnonzero((index < 0) | (index >= n))[0])
                raise ShapeError(f"{name} is {n} x {n}, but its entry {k} has the {kind} index {index[k]}")
        keys = rows.astype(np.int64) * n + columns
        place = None
        if keys.size and not (keys[1:] > keys[:-1]).all():
            keys, place = np.unique(keys, return_inverse=True)
        indptr = np.zeros(n + 1, dtype=np.int64)
        np.cumsum(np.bincount(keys // n, minlength=n), out=indptr[1:])
        return cls(n, indptr, keys % n, place)

    @property
    def nnz(self) -> int:
        return len(self.indices)

    @cached_property
    def in_order(self) -> Pattern:
        """The same places, of values in CSR order."""
        return self if self.place is None else Pattern(self.n, self.indptr, self.indices, None)

    @cached_property
    def matrix(self) -> Matrix:
        """A matrix on the pattern, from which those with values are made: they share what is found in the pattern."""
        return Matrix(self.indptr, self.indices, np.zeros(self.nnz))

    @property
    def rows(self) -> np.ndarray:
        return np.repeat(np.arange(self.n), np.diff(self.indptr))

    def entries(self, values: Tensor) -> Tensor:
        """Values (nnz given,) in CSR order (nnz,); those at one place add up. Differentiable."""
        if self.place is None:
            return values
        return values.new_zeros(self.nnz).index_add(0, self.place.to(values.device), values)

    def picked(self, values: Tensor) -> Tensor:
        """Values (nnz given,) in CSR order (nnz,), of which those at one place are equal."""
        if self.place is None:
            return values
        return values.new_zeros(self.nnz).index_copy(0, self.place.to(values.device), values)

    def dense(self, entries: Tensor) -> Tensor:
        """The matrix (n, n) with these entries (nnz,), differentiable."""
        flat = torch.from_numpy(self.rows * self.n + self.indices).to(entries.device)
        return entries.new_zeros(self.n * self.n).index_add(0, flat, entries).reshape(self.n, self.n)


class SparseMatrix:
    """A sparse square matrix by its values and their places; unlike sparse tensors of torch, differentiable in its
    values in forward mode, under torch.func and, up to 256 states, to any order.

    Args:
        values: (nnz,), tensor or array.
        indices: (2, nnz), integers: rows and columns, in any order. Values at one place add up.
        n: size.

    A change of `values` in place is seen by the next call of a solver.

    Raises:
        ShapeError, DtypeError, DeviceError: an argument that cannot be used, by name.

    Example:
        >>> import torch, linode
        >>> rates = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
        >>> Xi = linode.SparseMatrix(rates, [[0, 1], [0, 0]], 2)  # a flow from state 0 to state 1
        >>> Xi.to_dense().tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
        >>> z = linode.LinearODE(Xi, torch.tensor([1.0, 0.0], dtype=torch.float64))(1.0)
        >>> z[1].backward()
        >>> [round(x, 6) for x in rates.grad.tolist()]
        [0.264241, 0.632121]
    """

    def __init__(self, values: Any, indices: Any, n: int) -> None:
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise OptionError(f"n must be an int of at least 1, got {n!r}")
        places = np.asarray(indices.detach().cpu() if isinstance(indices, Tensor) else indices)
        if places.ndim != 2 or len(places) != 2 or (places.dtype.kind not in "iu" and places.size):
            raise ShapeError(f"indices must be integers (2, nnz), rows and columns; got {places.dtype} {places.shape}")
        self.is_numpy = not isinstance(values, Tensor)
        self.values = as_values(values, "values")
        if self.values.shape != (places.shape[1],):
            raise ShapeError(
                f"values has shape {tuple(self.values.shape)}; it must be ({places.shape[1]},), as indices"
            )
        self.pattern = Pattern.of(places[0].astype(np.int64), places[1].astype(np.int64), int(n), "Xi")

    @classmethod
    def on(cls, pattern: Pattern, values: Tensor, is_numpy: bool = False) -> SparseMatrix:
        """With values in the order that the pattern was given in."""
        matrix = object.__new__(cls)
        matrix.pattern, matrix.values, matrix.is_numpy = pattern, values, is_numpy
        return matrix

    @property
    def n(self) -> int:
        return self.pattern.n

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.n, self.n))

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def result_dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def entries(self) -> Tensor:
        """The values in CSR order, each place once, (nnz,); differentiable."""
        return self.pattern.entries(self.values)

    def to_dense(self) -> Tensor:
        """The matrix as a dense tensor (n, n), differentiable in the values.

        Example:
            >>> import linode
            >>> linode.SparseMatrix([2.0, 3.0], [[0, 0], [1, 1]], 2).to_dense().tolist()
            [[0.0, 5.0], [0.0, 0.0]]
        """
        return self.pattern.dense(self.entries)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The matrix as a `scipy.sparse.csr_array`, without derivatives.

        Example:
            >>> import linode
            >>> linode.SparseMatrix([2.0], [[0], [1]], 2).to_scipy().toarray().tolist()
            [[0.0, 2.0], [0.0, 0.0]]
        """
        entries = self.entries.detach().cpu().numpy()
        return scipy.sparse.csr_array((entries, self.pattern.indices, self.pattern.indptr), shape=tuple(self.shape))

    def __repr__(self) -> str:
        return f"SparseMatrix({self.n} x {self.n}, {self.pattern.nnz} entries, {self.dtype})"


class Operator:
    """A square matrix known by its products with vectors: matrix-free Xi, with derivatives in its parameters.

    Args:
        matvec: a function of v (..., n) that gives Xi v (..., n), in torch operations. It may take the parameters as
            further arguments, matvec(v, *parameters), which derivatives within torch.func need.
        n: size.
        rmatvec: the same for Xi^H v; derivatives need it. None: matvec where `hermitian`, else not known.
        parameters: tensors that matvec depends on and that are differentiated; all that need gradients must be named.
        hermitian: Xi = Xi^H.
        dissipative: Re <v, Xi v> <= 0 for every v: no state grows in the 2-norm.
        bounds: of the numerical range {<v, Xi v> / <v, v>}, as far as known: (left, right) of its real parts, or
            (left, right, bottom, top) with its imaginary parts, 1/time. What is not given is estimated from some 20
            products, with a margin that costs products: `LinearODE.explain` says how many.
        solve: a function of (v, gamma), with the parameters as further arguments where matvec has them, that gives
            (I - gamma Xi)^-1 v, for the method "rational". rsolve: the same of Xi^H, for derivatives; None: solve
            where `hermitian`.
        dtype: of the vectors that matvec takes and gives; None: float64, or complex128 where a parameter is complex.

    Raises:
        OptionError, DtypeError: an argument that cannot be used, by name. When solved: ShapeError, DtypeError,
        NonFiniteError: what matvec gives cannot be used; NotDifferentiableError: a derivative without rmatvec.

    Example:
        >>> import torch, linode
        >>> def diffusion(v, rate):  # on a ring
        ...     return rate * (v.roll(1, -1) - 2 * v + v.roll(-1, -1))
        >>> rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> Xi = linode.Operator(diffusion, 1000, parameters=[rate], hermitian=True, dissipative=True)
        >>> z0 = torch.cos(2 * torch.pi * torch.arange(1000, dtype=torch.float64) / 1000)  # an eigenvector
        >>> z = linode.LinearODE(Xi, z0)(100.0)
        >>> decay = 2 - 2 * torch.cos(torch.tensor(2 * torch.pi / 1000, dtype=torch.float64))
        >>> bool(torch.dist(z, torch.exp(-decay * 2.0 * 100.0) * z0) < 1e-8)
        True
    """

    def __init__(
        self,
        matvec: Callable[..., Any],
        n: int,
        *,
        rmatvec: Callable[..., Any] | None = None,
        parameters: Sequence[Tensor] = (),
        hermitian: bool = False,
        dissipative: bool = False,
        bounds: Sequence[float] | None = None,
        solve: Callable[..., Any] | None = None,
        rsolve: Callable[..., Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for function, name in ((matvec, "matvec"), (rmatvec, "rmatvec"), (solve, "solve"), (rsolve, "rsolve")):
            if not (callable(function) or (function is None and name != "matvec")):
                raise OptionError(f"{name} must be a function of v (..., n), got {type(function).__name__}")
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise OptionError(f"n must be an int of at least 1, got {n!r}")
        if isinstance(parameters, Tensor) or not all(isinstance(x, Tensor) for x in parameters):
            kinds = type(parameters) if isinstance(parameters, Tensor) else {type(x).__name__ for x in parameters}
            raise OptionError(f"parameters must be a sequence of tensors, got {kinds}")
        self.parameters = tuple(parameters)
        if len({x.device for x in self.parameters}) > 1:
            raise DeviceError(f"parameters must be on one device, got {[str(x.device) for x in self.parameters]}")
        own = [x.dtype for x in self.parameters if x.is_floating_point() or x.is_complex()]
        self.result_dtype = dtype or reduce(torch.promote_types, own, torch.float32)  # beside that of z0
        if dtype is None:
            is_complex = any(x.is_complex() for x in self.parameters)
            dtype = torch.complex128 if is_complex else torch.float64
        if dtype not in SUPPORTED:
            raise DtypeError(f"dtype must be one of {', '.join(map(str, SUPPORTED))}, got {dtype!r}")
        self.matvec, self.n, self.dtype = matvec, int(n), dtype
        self.solve, self.rsolve = solve, solve if rsolve is None and hermitian else rsolve
        self.rmatvec = matvec if rmatvec is None and hermitian else rmatvec
        self.hermitian, self.dissipative = bool(hermitian), bool(dissipative)
        self.bounds = None if bounds is None else checked_bounds(bounds)
        self.is_numpy = False
        self.takes_parameters = takes_parameters(matvec, len(self.parameters))
        self.undeclared: list[str] | None = None  # tensors that matvec depends on beside these; None: not looked at

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.n, self.n))

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device if self.parameters else torch.device("cpu")

    def as_vector(self) -> tuple[Tensor, Callable[[Tensor], Operator]]:
        """All parameters in one vector, without derivatives, and the function that makes an operator of such a one.

        Raises:
            MethodError: there are none.
        """
        if not self.parameters:
            raise MethodError("a condition number is with respect to entries or parameters, and this operator has none")
        dtype = reduce(torch.promote_types, (x.dtype for x in self.parameters), torch.float64)

        def made(v: Tensor) -> Operator:
            parts = v.split([x.numel() for x in self.parameters])
            other = copy.copy(self)
            other.parameters = tuple(
                (part if x.is_complex() or not part.is_complex() else part.real).to(x.dtype).reshape(x.shape)
                for part, x in zip(parts, self.parameters)
            )
            return other

        return torch.cat([x.detach().reshape(-1).to(dtype) for x in self.parameters]), made

    def __repr__(self) -> str:
        known = [name for name in ("hermitian", "dissipative") if getattr(self, name)]
        return f"Operator({', '.join([f'{self.n} x {self.n}', str(self.dtype), *known])})"


def checked_bounds(bounds: Sequence[float]) -> tuple[float, ...]:
    try:
        found = tuple(float(x) for x in bounds)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in (2, 4) or not all(a <= b for a, b in zip(found[::2], found[1::2])):
        raise OptionError(f"bounds must be (left, right) or (left, right, bottom, top), increasing, got {bounds!r}")
    return found


def takes_parameters(function: Callable[..., Any], count: int) -> bool:
    """Whether a function of v takes the parameters too: whether it cannot be called with v alone."""
    if not count:
        return False
    function = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        kinds = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of functions written in C
        return False
    needed = [x for x in kinds if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD) and x.default is x.empty]
    return len(needed) > 1 or any(x.kind == x.VAR_POSITIONAL for x in kinds)


# ---- reading ---------------------------------------------------------------------------------------------------------


def as_values(values: Any, name: str) -> Tensor:
    """Values of a sparse matrix as a tensor of a supported dtype; integers become float64."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "fciub":
            raise DtypeError(f"{name} must hold real or complex numbers, got {type(values).__name__} of {array.dtype}")
        if (array.dtype.itemsize > 8 and array.dtype.kind == "f") or array.dtype.itemsize > 16:
            raise DtypeError(f"{name} is {array.dtype}; linode works in float32, float64, complex64 and complex128")
        kind = array.dtype.newbyteorder("=") if array.dtype.kind in "fc" else np.dtype(np.float64)
        values = torch.from_numpy(array.astype(kind, order="C", copy=True))
    elif not (values.is_floating_point() or values.is_complex()):
        values = values.to(torch.float64)
    return values.to(HALF.get(values.dtype, values.dtype))


def from_scipy(Xi: Any, name: str) -> SparseMatrix:
    """A scipy.sparse array or matrix of any format. Its values are copied."""
    check_square(Xi.shape, name)
    as_values(np.zeros(0, Xi.dtype), name)  # scipy fails at formats of objects, without a name
    if Xi.format == "csr":
        rows, columns, values = np.repeat(np.arange(Xi.shape[0]), np.diff(Xi.indptr)), Xi.indices, Xi.data
        if len(rows) != len(columns):  # scipy allows room beyond the last entry
            columns, values = columns[: len(rows)], values[: len(rows)]
    else:
        own = Xi.tocoo()
        rows, columns, values = own.row, own.col, own.data
    return SparseMatrix.on(Pattern.of(rows, columns, Xi.shape[0], name), as_values(values, name), is_numpy=True)


def from_linear_operator(Xi: LinearOperator, name: str) -> Operator:
    """A LinearOperator of scipy: an operator without parameters."""
    check_square(Xi.shape, name)
    kind = np.dtype(Xi.dtype if Xi.dtype is not None else np.float64)
    dtype = torch.from_numpy(np.zeros(0, kind if kind.kind in "fc" else np.float64)).dtype

    def product(multiply: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensor], Tensor]:
        return lambda v: torch.from_numpy(np.asarray(multiply(v.reshape(-1, Xi.shape[0]).numpy().T)).T).reshape(v.shape)

    operator = Operator(product(Xi.matmat), Xi.shape[0], rmatvec=product(Xi.rmatmat), dtype=dtype)
    operator.is_numpy = True
    return operator


def check_square(shape: Sequence[int], name: str) -> None:
    """Raise unless this is the shape of one square matrix."""
    if len(shape) > 2:
        raise ShapeError(
            f"{name} has shape {tuple(shape)}, a batch of sparse matrices, and a sparse {name} has no batch "
            f"dimensions: solve for one at a time, or for all as blocks on the diagonal of one sparse matrix "
            f"(scipy.sparse.block_diag), or, where n is small, give a dense {name}"
        )
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ShapeError(f"{name} has shape {tuple(shape)}; a sparse {name} must be (n, n) with n of at least 1")


def check_tensor(Xi: Tensor, name: str) -> None:
    """Raise unless this is one square matrix of a sparse layout that is read."""
    if Xi.layout not in (torch.sparse_coo, *COMPRESSED):
        raise DtypeError(
            f"{name} has layout {Xi.layout}; dense, torch.sparse_csr, torch.sparse_coo and torch.sparse_csc are read: "
            f"use {name}.to_sparse_csr() or {name}.to_dense()"
        )
    if Xi.layout == torch.sparse_coo and Xi.dense_dim():
        raise DtypeError(
            f"{name} is a hybrid tensor with {Xi.dense_dim()} dense dimensions; its entries must be numbers"
        )
    check_square(Xi.shape, name)
    if not (Xi.is_floating_point() or Xi.is_complex()) and Xi.requires_grad:
        raise DtypeError(f"{name} is {Xi.dtype}, which has no gradient")
    if Xi.is_meta:
        raise DeviceError(f"{name} is on the meta device and has no values")


def coordinates(Xi: Tensor) -> tuple[Tensor, ...]:
    """The tensors of indices of a sparse tensor, as it keeps them."""
    own = Xi.detach()
    if own.layout == torch.sparse_coo:
        return (own._indices(),)
    if own.layout == torch.sparse_csr:
        return own.crow_indices(), own.col_indices()
    return own.ccol_indices(), own.row_indices()


def raw_values(Xi: Tensor) -> Tensor:
    """Its values (nnz,), without derivatives, as it keeps them."""
    own = Xi.detach()
    return own._values() if own.layout == torch.sparse_coo else own.values()


def pattern_of(Xi: Tensor, name: str) -> Pattern:
    """The pattern of a checked sparse tensor."""
    n, index = Xi.shape[0], [x.cpu().numpy() for x in coordinates(Xi)]
    if Xi.layout == torch.sparse_coo:
        return Pattern.of(index[0][0], index[0][1], n, name)
    pointers, inner = index
    if len(pointers) != n + 1 or pointers[0] != 0 or pointers[-1] != len(inner) or (np.diff(pointers) < 0).any():
        raise ShapeError(f"{name} has pointers that do not rise from 0 to its {len(inner)} entries in {n} steps")
    outer = np.repeat(np.arange(n), np.diff(pointers))
    rows, columns = (outer, inner) if Xi.layout == torch.sparse_csr else (inner, outer)
    return Pattern.of(rows, columns, n, name)


def with_values(Xi: Tensor, entries: Tensor, pattern: Pattern) -> Tensor:
    """A sparse tensor of the layout of Xi, with entries (nnz,) in CSR order: on its own indices; where COO has places
    twice, coalesced.
    """
    values = entries if pattern.place is None else entries[pattern.place.to(entries.device)]
    with warnings.catch_warnings():  # torch says at the first CSR of a process that CSR is in beta
        warnings.filterwarnings("ignore", ".*in beta state.*", UserWarning)
        warnings.filterwarnings("ignore", ".*[Ii]nvariant checks.*", UserWarning)
        if Xi.layout != torch.sparse_coo:
            make: Any = torch.sparse_csr_tensor if Xi.layout == torch.sparse_csr else torch.sparse_csc_tensor
            return make(*coordinates(Xi), values, Xi.shape, check_invariants=False)
        index, is_coalesced = Xi.detach()._indices(), Xi.is_coalesced()
        if len(values) != pattern.nnz:
            places = np.stack([pattern.rows, pattern.indices]).astype(np.int64)
            index, values, is_coalesced = torch.from_numpy(places).to(entries.device), entries, True
        return torch.sparse_coo_tensor(index, values, Xi.shape, is_coalesced=is_coalesced, check_invariants=False)
