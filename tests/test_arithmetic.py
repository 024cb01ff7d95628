"""The number types of `linode.kernels` against exact rational arithmetic, mpmath, and what rounding really does."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from linode.kernels.arithmetic.double_double import DoubleDouble, two_prod, two_sum
from linode.kernels.arithmetic.noisy import Noise, Noisy
from linode.kernels.arithmetic.ranged import Ranged
from linode.kernels.stepping import Stepper, choose_step, power_norm
from linode.kernels.taylor import EXTENDED
from tests.accuracy import EPS
from tests.case_builders import generator, normal

Exact = list[list[Fraction]]
SHAPES = [(2, 1, 2), (3, 3, 3), (4, 17, 2), (2, 64, 2), (1, 300, 1)]


def graded(rng: np.random.Generator, *shape: int, bits: int = 40) -> Tensor:
    """Gaussian entries times random powers of two of `bits` bits either way."""
    return torch.tensor(normal(rng, *shape) * 2.0 ** rng.integers(-bits, bits + 1, shape))


def random_double(rng: np.random.Generator, *shape: int) -> DoubleDouble:
    """Full double-doubles: lo is random too, half a unit of hi at most."""
    hi = torch.tensor(normal(rng, *shape))
    return DoubleDouble(*two_sum(hi, hi * 2.0**-53 * torch.tensor(rng.uniform(-1, 1, shape))))


def fractions(x: DoubleDouble | Tensor) -> Exact:
    parts = x.parts if isinstance(x, DoubleDouble) else (x,)
    return [[sum(map(Fraction, entry)) for entry in zip(*row)] for row in zip(*(p.tolist() for p in parts))]


def product(A: Exact, B: Exact) -> Exact:
    return [[sum((a * b for a, b in zip(row, column)), Fraction()) for column in zip(*B)] for row in A]


def transposed(A: Exact) -> Exact:
    return [list(row) for row in zip(*A)]


def assert_close(got: DoubleDouble, true: Exact, scale: Exact, bits: int) -> None:
    """|got - true| <= 2^-bits scale, entry by entry and exactly."""
    for row, true_row, scale_row in zip(fractions(got), true, scale):
        for x, y, s in zip(row, true_row, scale_row):
            assert abs(x - y) <= Fraction(1, 2**bits) * s


def largest(A: Exact) -> list[Fraction]:
    """Of every row."""
    return [max(map(abs, row)) for row in A]


def outer(rows: list[Fraction], columns: list[Fraction]) -> Exact:
    return [[r * c for c in columns] for r in rows]


# ---- double-double -----------------------------------------------------------------------------------------


def test_two_sum_and_two_prod_have_no_error():
    rng = generator("two_sum")
    a, b = graded(rng, 1000, bits=200), graded(rng, 1000, bits=200)
    for exact, (main, rest) in ((Fraction.__add__, two_sum(a, b)), (Fraction.__mul__, two_prod(a, b))):
        for x, y, p, q in zip(a.tolist(), b.tolist(), main.tolist(), rest.tolist()):
            assert exact(Fraction(x), Fraction(y)) == Fraction(p) + Fraction(q)


@pytest.mark.parametrize("cancels", [False, True])
def test_sums_differences_and_entrywise_products_have_a_hundred_bits(cancels: bool):
    rng = generator("double-double")
    a = random_double(rng, 20, 20)
    b = DoubleDouble(-a.hi * (1 + 1e-9), a.lo) if cancels else random_double(rng, 20, 20)
    A, B = fractions(a), fractions(b)
    for got, exact in ((a + b, Fraction.__add__), (a - b, Fraction.__sub__), (a * b, Fraction.__mul__)):
        true = [[exact(x, y) for x, y in zip(*rows)] for rows in zip(A, B)]
        assert_close(got, true, [[abs(x) for x in row] for row in true], 100)


@pytest.mark.parametrize("shape", SHAPES)
def test_matrix_products_have_ninety_bits_of_the_largest_term(shape: tuple[int, int, int]):
    rng, (m, k, n) = generator(f"product {shape}"), shape
    a, b = random_double(rng, m, k), random_double(rng, k, n)
    A, B = fractions(a), fractions(b)
    assert_close(a @ b, product(A, B), outer(largest(A), largest(transposed(B))), 90)


def test_rows_and_columns_of_a_product_may_differ_by_any_size():
    rng = generator("graded product")
    a, b = (DoubleDouble(torch.tensor(normal(rng, 6, 6))) for _ in range(2))
    powers = torch.exp2(torch.arange(-300.0, 301.0, 120.0, dtype=torch.float64))
    a, b = a.scale(powers[:, None]), b.scale(powers.flip(0))
    A, B = fractions(a), fractions(b)
    assert_close(a @ b, product(A, B), outer(largest(A), largest(transposed(B))), 90)


def test_terms_of_a_sum_over_rows_may_be_products_of_large_and_small():
    """As in a gradient: states grow from time to time while cotangents decay."""
    rng = generator("row product")
    powers = torch.exp2(torch.arange(-300.0, 301.0, 30.0, dtype=torch.float64))[:, None]
    a, b = (DoubleDouble(torch.tensor(normal(rng, len(powers), 3))) for _ in range(2))
    a, b = a.scale(powers), b.scale(powers.flip(0))
    A, B = fractions(a), fractions(b)
    sizes = max(p * q for p, q in zip(largest(A), largest(B)))
    assert_close(a.row_product(b), product(transposed(A), B), [[sizes] * 3] * 3, 90)


@pytest.mark.parametrize("factor", ["left", "right", "both"])
def test_small_entries_of_a_product_are_accurate_relative_to_their_own_terms(factor: str):
    """Entries of a row or column differ by 2^400: slices relative to the largest would hold nothing of the small."""
    rng = generator("graded entries")
    a, b = (DoubleDouble(torch.tensor(np.abs(normal(rng, 5, 5)))) for _ in range(2))  # nothing cancels
    powers = torch.exp2(torch.tensor(rng.integers(-200, 201, (5, 5)), dtype=torch.float64))
    a, b = a.scale(powers) if factor != "right" else a, b.scale(powers.flip(0)) if factor != "left" else b
    true = product(fractions(a), fractions(b))
    assert_close(a @ b, true, true, 95)


def test_a_factor_that_was_used_before_gives_the_same_products_transposed():
    rng = generator("slices")
    a, b, c = (random_double(rng, 5, 5) for _ in range(3))
    A, B, C = map(fractions, (a, b, c))
    a @ b  # keeps the slices of both
    for got, left, right in ((a.mT @ c, transposed(A), C), (c @ b.mT, C, transposed(B)), (b @ a, B, A)):
        assert_close(got, product(left, right), outer(largest(left), largest(transposed(right))), 90)


def test_a_batch_of_products_is_that_of_its_elements():
    rng = generator("batch")
    a, b = random_double(rng, 3, 4, 5), random_double(rng, 3, 5, 2)
    for i in range(3):
        one, all_ = a[i] @ b[i], (a @ b)[i]
        assert torch.equal(one.hi, all_.hi)
        assert torch.equal(one.lo, all_.lo)


def test_the_exponential_of_one_step_has_ninety_bits():
    A = torch.tensor(normal(generator("step"), 1, 5, 5))
    H = choose_step(*power_norm(A))
    E = Stepper(DoubleDouble(A), H, EXTENDED).E(3)[0]
    with mpmath.workdps(60):
        true = mpmath.expm(mpmath.matrix((A[0] * H * 8).tolist()), method="taylor")
        got = [[mpmath.mpf(p) + mpmath.mpf(q) for p, q in zip(*rows)] for rows in zip(E.hi.tolist(), E.lo.tolist())]
        error = mpmath.mnorm(mpmath.matrix(got) - true, 1) / mpmath.mnorm(true, 1)
        assert error < mpmath.mpf(2) ** -90


# ---- noisy -------------------------------------------------------------------------------------------------


def alternating_series(x: float, n_terms: int = 120) -> tuple[float, ...]:
    """exp(x) by Horner's rule in noisy 1 x 1 products: its value and the relative
    responses to data and to rounding.
    """
    noise = Noise()
    X = Noisy.data(torch.full((1, 1, 1), x, dtype=torch.float64), noise)
    one = Noisy.exact(torch.ones(1, 1, 1, dtype=torch.float64), noise)
    total = one
    for j in range(n_terms, 0, -1):
        total = one + (X @ total).scale(torch.tensor(1.0 / j, dtype=torch.float64))
    data, rounding = total.spreads()
    return total.parts[0][0].item(), data.item(), rounding.item()


def test_noise_shows_the_cancellation_that_plain_arithmetic_suffers():
    value, data, rounding = alternating_series(-10.0)
    error = abs(value / np.exp(-10.0) - 1)
    assert rounding > 100 * data
    assert error / 100 < rounding < 100 * error


def test_noise_shows_no_more_than_the_condition_where_nothing_cancels():
    _, data, rounding = alternating_series(10.0)
    assert 0.02 < data / (10 * EPS / 2) < 1.01  # exp has condition x
    assert rounding < 3 * data


def test_noise_is_the_same_for_every_call_and_leaves_global_state_alone():
    before = torch.get_rng_state()
    assert alternating_series(-3.0) == alternating_series(-3.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_for_arrays_larger_than_the_pool_is_nowhere_zero():
    factors = Noise().factors(torch.empty(3, 2**17, 2, dtype=torch.float64))
    assert factors.shape == (3, 2**17, 2)
    assert (factors != 1).double().mean() > 0.999
    assert (factors - 1).abs().max() <= 2.0**-26


# ---- ranged ------------------------------------------------------------------------------------------------


def mpmath_of(x: Ranged) -> mpmath.matrix:
    mantissa, exponent = (p.tolist() for p in x.parts)
    return mpmath.matrix([[mpmath.ldexp(m, int(e)) for m, e in zip(*rows)] for rows in zip(mantissa, exponent)])


@pytest.mark.parametrize("n_squarings", [5, 12, 20])
def test_powers_far_beyond_the_range_of_floats_are_those_of_mpmath(n_squarings: int):
    A = torch.tensor(np.abs(normal(generator("ranged"), 3, 3)))  # nothing cancels
    x = Ranged(A * 2.0**500)
    with mpmath.workdps(40):
        true = mpmath.matrix(A.tolist()) * mpmath.mpf(2) ** 500
        for _ in range(n_squarings):
            x, true = x @ x, true * true
        got = mpmath_of(x)
        assert abs(mpmath.log(true[0, 0], 2)) > 500 * 2**n_squarings * 0.9
        assert all(abs(got[i, j] / true[i, j] - 1) < 3 * 2**n_squarings * EPS for i in range(3) for j in range(3))


def test_sums_of_ranged_numbers_cancel_and_absorb_as_floats_do():
    values, exponents = torch.tensor([[3.0, -1.0]], dtype=torch.float64), torch.tensor([[5000.0, 5000.0]]).double()
    big, opposite = Ranged(values, exponents), Ranged(-values, exponents)
    small = Ranged(torch.tensor([[2.0, 0.5]], dtype=torch.float64))
    assert (big + small + opposite).round().tolist() == [[0.0, 0.0]]
    assert (big + opposite + small).round().tolist() == [[2.0, 0.5]]


def test_the_negative_of_a_ranged_number_has_the_same_size():
    x = torch.tensor([[3.0, -1.0, 0.25]], dtype=torch.float64)
    assert torch.equal((-Ranged(x)).round(), -x)


def test_ranged_numbers_round_to_signed_infinities_zeros_and_themselves():
    values = torch.tensor([[1.5, -1.5, 1.5, -1.5, -0.75, 0.0]], dtype=torch.float64)
    exponents = torch.tensor([[3000.0, 1e9, -3000.0, -1e9, 3.0, 1e12]], dtype=torch.float64)
    assert Ranged(values, exponents).round().tolist() == [[np.inf, -np.inf, 0.0, -0.0, -6.0, 0.0]]
    everyday = graded(generator("everyday"), 5, 5, bits=500)
    assert torch.equal(Ranged(everyday).round(), everyday)


def test_complex_ranged_products_are_those_of_complex_numbers():
    rng = generator("ranged complex")
    a, b = (torch.tensor(normal(rng, 3, 3, is_complex=True)) for _ in range(2))
    torch.testing.assert_close((Ranged(a) @ Ranged(b)).round(), a @ b, rtol=1e-14, atol=1e-15)
