"""Xi as what maps vectors to vectors: products, products with the adjoint, and gradients on its pattern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


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
        n_products, n_transposed: how many products were taken so far.
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
