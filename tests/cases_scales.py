"""Cases of scale: random matrices of all sizes, extreme times, states and rates, bad balance, long spans."""

from __future__ import annotations

import numpy as np

from tests import case_builders as build
from tests.case_builders import (
    Case,
    generator,
    jordan,
    make_case,
    normal,
    random_unitary,
    rotated,
    scaled_basis,
    similar,
)

SHORT = [0.0, 0.3, 1.0, 2.0, 5.0]
GINIBRE = "Ginibre (1965), J. Math. Phys. 6: Gaussian matrices"
RANGE = "the range of float64"
BALANCE = "Osborne (1960), J. ACM 7(4); Parlett & Reinsch (1969), Numer. Math. 13: balancing"


def random_cases() -> list[Case]:
    kind = "random dense"
    cases = []
    for size, times in (
        (0.01, [0, 1, 10, 100]),
        (0.1, SHORT),
        (1.0, SHORT),
        (10.0, [0, 0.1, 1, 5]),
        (100.0, [0.01, 0.1, 1]),
    ):
        A = size * normal(generator(f"rd{size}"), 6, 6)
        cases.append(make_case(f"random_6_times_{size:g}", kind, A, times, GINIBRE))
    for size, times in ((0.1, SHORT), (1.0, SHORT), (30.0, [0.01, 0.1, 1])):
        A = size * normal(generator(f"rc{size}"), 5, 5, is_complex=True)
        cases.append(make_case(f"random_complex_5_times_{size:g}", "random complex", A, times, GINIBRE))
    cases.append(make_case("random_2", kind, normal(generator("r2"), 2, 2), SHORT, GINIBRE))
    cases.append(make_case("random_12", kind, normal(generator("r12"), 12, 12) / np.sqrt(12), SHORT, GINIBRE))
    cases.append(make_case("random_24", kind, normal(generator("r24"), 24, 24) / np.sqrt(24), [1, 10], GINIBRE))
    A = normal(generator("rs"), 8, 8) - 3 * np.eye(8)
    cases.append(make_case("random_stable_8", kind, A, [0, 1, 10], GINIBRE))
    cases.append(
        make_case("random_positive_5", kind, generator("rp").random((5, 5)), SHORT, "nonnegative: no cancellation")
    )
    cases.append(make_case("small_norm_2", kind, 1e-3 * normal(generator("sn"), 2, 2), SHORT, "numerics.md, trap 3"))
    cases.append(make_case("small_norm_1", kind, [[1e-2]], [0.3, 1, 4], "numerics.md, trap 3"))
    return cases


def normal_matrix_cases() -> list[Case]:
    rng = generator("normal matrices")
    A, C = normal(rng, 6, 6), normal(rng, 5, 5, is_complex=True)
    Q, U = random_unitary(rng, 5), random_unitary(rng, 4, is_complex=True)
    circulant = build.circulant([-2.0, 1.0, 0.3, 0, 0, 0.5, 0.1])
    source = "normal matrices: kappa(V) = 1"
    return [
        make_case("symmetric_6", "Hermitian", (A + A.T) / 2, SHORT, source),
        make_case("symmetric_negative_6", "Hermitian", -A @ A.T, SHORT, source),
        make_case("hermitian_5", "Hermitian", (C + C.conj().T) / 2, SHORT, source),
        make_case("skew_6", "skew", (A - A.T) / 2, SHORT, source),
        make_case("skew_hermitian_5", "skew", (C - C.conj().T) / 2, SHORT, source),
        make_case("skew_5_odd", "skew", (A - A.T)[:5, :5], [0, 1, 50], source),
        make_case("orthogonal_5", "unitary", Q, SHORT, source),
        make_case("unitary_4", "unitary", U, SHORT, source),
        make_case("circulant_7", "circulant", circulant, SHORT, source),
        make_case(
            "rotation_generator_3d",
            "skew",
            [[0, -3, 2], [3, 0, -1], [-2, 1, 0]],
            [0, 1, 10, 100],
            "Rodrigues's formula",
        ),
    ]


def oscillation_cases() -> list[Case]:
    kind = "long oscillation"
    rng = generator("oscillations")
    A, C = normal(rng, 4, 4), normal(rng, 3, 3, is_complex=True)
    modes = build.direct_sum(*(np.array([[-1e-4, w], [-w, -1e-4]]) for w in (1.0, 3.0, 3.0001)))
    source = "numerics.md, trap 9"
    return [
        make_case("rotation_1e4", kind, [[0, 1e4], [-1e4, 0]], [0.1, 1, 3], "Al-Mohy & Higham (2009), test matrices"),
        make_case("rotation_1e6", kind, [[0, 1], [-1, 0]], [10, 1e3, 1e5, 1e6], source),
        make_case("rotation_1e7", kind, [[0, 1e3], [-1e3, 0]], [1, 1e2, 1e4], source),
        make_case("oscillator_unbalanced", kind, [[0, 1], [-1e6, 0]], [1e-3, 1, 100], source),
        make_case("skew_4_1e6", kind, A - A.T, [1, 1e3, 3e5], source),
        make_case("skew_hermitian_3_1e6", kind, C - C.conj().T, [1, 1e3, 3e5], source),
        make_case("lightly_damped_modes", kind, similar(rng, modes, 5.0), [0, 10, 1e3, 1e4], source),
        make_case("lightly_damped_fast", kind, [[-1e-2, 1e4], [-1e4, -1e-2]], [0, 1, 30, 100], source),
        make_case("defective_oscillator_long", kind, build.real_jordan_pair(2, -1e-3, 1.0), [0, 10, 1e3], source),
    ]


def range_cases() -> list[Case]:
    kind, eigenvector = "range", "eigenvector start"
    rng = generator("ranges")
    growing = rotated(rng, np.diag([640.0, 600.0, 1.0]))
    decaying = rotated(rng, np.diag([-680.0, -681.0, -690.0]))
    slow_fast = np.array([[-1.0, 0.5, 0], [0, -20.0, 3.0], [0, 0, -30.0]])
    V = np.array([[1.0, 1, 0], [0, 2, 1], [1, 0, 1]])  # determinant 3
    # 3 V D V^-1 = V D adj(V) has integer entries, so that V[:, 1] is an exact eigenvector
    A = np.round(3 * V @ np.diag([-1.0, -5.0, -12.0]) @ np.linalg.inv(V))
    return [
        make_case("growth_1e277", kind, growing, [0.1, 0.5, 1.0], RANGE),
        make_case("growth_defective", kind, jordan(3, 600.0), [0.1, 0.5, 1.0], RANGE),
        make_case("growth_scalar_1e280", kind, [[644.0]], [0.5, 1.0], RANGE),
        make_case("decay_1e-300", kind, decaying, [1.0], RANGE),
        make_case("decay_1e-300_path", kind, decaying, [0, 0.1, 0.5, 1.0], RANGE),
        make_case("decay_defective", kind, jordan(3, -690.0), [0.5, 1.0], RANGE),
        make_case("decay_mixed", kind, np.diag([-690.0, -800.0, -1.0]), [0.5, 1.0], RANGE),
        make_case(
            "decay_underflowing_mode",
            kind,
            similar(rng, np.diag([-1e4, -900.0, -1.0]), 3.0),
            [0, 0.5, 1.0],
            RANGE,
        ),
        make_case("state_1e15", kind, normal(rng, 4, 4), SHORT, RANGE, z0_scale=1e15),
        make_case("state_1e-15", kind, normal(rng, 4, 4), SHORT, RANGE, z0_scale=1e-15),
        make_case("loss_1e10", kind, normal(rng, 4, 4), SHORT, "numerics.md, trap 2", g_scale=1e10),
        make_case("loss_1e-10", kind, normal(rng, 4, 4), SHORT, "numerics.md, trap 2", g_scale=1e-10),
        make_case(
            "state_and_loss_1e12",
            kind,
            rotated(rng, jordan(4, -1.0)),
            SHORT,
            RANGE,
            z0_scale=1e12,
            g_scale=1e12,
        ),
        make_case("state_of_mixed_size", kind, normal(rng, 3, 3), SHORT, RANGE, z0=[1e12, 1.0, 1e-12]),
        make_case("slow_eigenvector", eigenvector, slow_fast, SHORT, "stays on one mode", z0=[1.0, 0, 0]),
        make_case("fast_eigenvector", eigenvector, A, [0, 0.1, 0.3], "a decaying mode among slower ones", z0=V[:, 1]),
        make_case(
            "fast_eigenvector_diagonal",
            eigenvector,
            np.diag([-1.0, -50.0]),
            [0, 0.1, 0.5],
            "exact zeros",
            z0=[0.0, 1.0],
        ),
        make_case(
            "null_vector",
            eigenvector,
            [[1, -1, 0], [2, -2, 0], [0.0, 1, -1]],
            SHORT,
            "Xi z0 = 0",
            z0=[1.0, 1, 1],
        ),
    ]


def time_cases() -> list[Case]:
    kind = "times"
    rng = generator("times")
    A, J = normal(rng, 5, 5), rotated(rng, jordan(4, -0.5))
    C = normal(rng, 4, 4, is_complex=True)
    source = "numerics.md, traps 6 and 8"
    return [
        make_case("times_tiny", kind, A, [1e-12, 1e-10, 1e-9], source),
        make_case("times_mixed", kind, A, [1e-12, 1e-6, 1e-3, 1, 8], source),
        make_case("times_negative", kind, A, [-3, -1, -0.1], source),
        make_case("times_both_signs", kind, J, [-2, -1, 0, 1, 2], source),
        make_case("times_repeated", kind, J, [1, 1, 1, 3, 3], source),
        make_case("times_unsorted", kind, C, [2, 0.1, 5, 0, -1, 1], source),
        make_case("times_decreasing", kind, A, [4, 3, 2, 1, 0], source),
        make_case("times_all_zero", kind, A, [0, 0, 0], source),
        make_case("times_one", kind, C, [1.7], source),
        make_case("times_uniform", kind, J, np.linspace(0, 3, 16), source),
        make_case("times_almost_equal", kind, J, [1, 1 + 2**-52, 1 + 1e-9], source),
        make_case("times_subnormal", kind, A, [5e-324, 1e-310, 1], source),
        make_case("times_huge_small_Xi", kind, 1e-12 * A, [1e9, 1e12, 3e12], source),
    ]


def balance_cases() -> list[Case]:
    kind = "bad balance"
    rng = generator("balance")
    A, C = normal(rng, 5, 5), normal(rng, 4, 4, is_complex=True)
    wild = 10.0 ** rng.integers(-8, 9, 5)
    cyclic = np.roll(np.diag([1e6, 1e-6, 1e3, 1e-3]), 1, axis=0)
    return [
        make_case("balance_1e4", kind, scaled_basis(A, 10.0 ** np.array([-2, -1, 0, 1, 2])), SHORT, BALANCE),
        make_case("balance_1e8", kind, scaled_basis(A, 10.0 ** np.array([-4, -2, 0, 2, 4])), SHORT, BALANCE),
        make_case("balance_1e16", kind, scaled_basis(A, 10.0 ** np.array([8, -8, 0, 4, -4])), SHORT, BALANCE),
        make_case("balance_random", kind, scaled_basis(rotated(rng, jordan(5, -1.0)), wild), SHORT, BALANCE),
        make_case("balance_complex", kind, scaled_basis(C, 10.0 ** np.array([3, 0, -3, 6])), SHORT, BALANCE),
        make_case(
            "balance_two_units",
            kind,
            scaled_basis(-A @ A.T, np.array([1e3, 1e3, 1e-3, 1e-3, 1])),
            SHORT,
            "metres and microns",
        ),
        make_case("cyclic_imbalance", kind, cyclic - np.eye(4), SHORT, BALANCE),
        make_case("reducible_imbalance", kind, [[-1, 1e8, 1], [0, -2, 1e8], [0, 0, -3]], SHORT, BALANCE),
        make_case(
            "watkins_hessenberg",
            kind,
            np.triu(A, -1) * np.where(np.eye(5, k=-1), 1e-9, 1.0),
            SHORT,
            "Watkins (2006), A case where balancing is harmful",
        ),
    ]


def scale_cases() -> list[Case]:
    return [
        *random_cases(),
        *normal_matrix_cases(),
        *oscillation_cases(),
        *range_cases(),
        *time_cases(),
        *balance_cases(),
    ]
