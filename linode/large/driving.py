"""Inputs of a sweep as functions of the time since the start of a piece: what restarts of the sweep do to terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def drive(terms: Sequence[Any], start: float) -> list[dict[int, complex]]:
    """Of each input among the terms, as a function of the time since `start`, the inputs that it is the sum of, by
    number, with factors: harmonics have another phase, a power (s + start)^q / q! is powers of s up to q.
    """
    inputs = [term for term in terms if term.kind != "exp"]
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


def combined(row: dict[int, complex], vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of vectors with factors."""
    parts = [vectors[j] if factor == 1 else vectors[j] * factor for j, factor in row.items()]
    total: np.ndarray = parts[0] if len(parts) == 1 else np.sum(parts, 0)
    return total


def order_of(term: Any) -> int | None:
    """The power of time that a term is as an input, 0 of a constant; None: it is none."""
    return {"phi1": 0, "power": int(complex(term.w).real)}.get(term.kind)


def phase(term: Any, start: float) -> complex:
    w = complex(term.w)
    return w * start if w.imag else w.real * start
