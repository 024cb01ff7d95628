"""Cases whose eigenvalues coincide or nearly do: diagonal, defective, nearly defective, augmented, nilpotent.

Where eigenvectors, and gradients through them, break down: Moler & Van Loan (2003), section 6.
"""

from __future__ import annotations

import numpy as np

from tests.case_builders import (
    Case,
    augmented,
    direct_sum,
    gear,
    generator,
    jordan,
    make_case,
    normal,
    random_unitary,
    real_jordan_pair,
    rotated,
    similar,
    with_corner,
)

MVL = "Moler & Van Loan (2003), SIAM Review 45(1)"
GOLUB_WILKINSON = "Golub & Wilkinson (1976), SIAM Review 18(4): ill-conditioned eigensystems"
EIG_TRAP = "torch.linalg.eig backward at repeated eigenvalues"
SHORT = [0.0, 0.3, 1.0, 2.0, 5.0]


def diagonal_cases() -> list[Case]:
    zero, scalar, diagonal = "zero", "scalar multiple of I", "repeated diagonal"
    return [
        make_case("zero_1", zero, np.zeros((1, 1)), SHORT, EIG_TRAP),
        make_case("zero_4", zero, np.zeros((4, 4)), SHORT, EIG_TRAP),
        make_case("zero_complex_3", zero, np.zeros((3, 3), complex), SHORT, EIG_TRAP),
        make_case(
            "zero_state",
            "zero state",
            rotated(generator("zs"), jordan(4, -1.0)),
            SHORT,
            EIG_TRAP,
            z0=np.zeros(4),
        ),
        make_case("scalar_1", scalar, [[-3.0]], SHORT, "scalar exponential"),
        make_case("scalar_1_complex", scalar, [[-0.1 + 40j]], SHORT, "scalar exponential"),
        make_case("identity_4", scalar, 2.0 * np.eye(4), SHORT, EIG_TRAP),
        make_case("minus_half_identity_6", scalar, -0.5 * np.eye(6), SHORT, EIG_TRAP),
        make_case("tiny_identity_3", scalar, 1e-8 * np.eye(3), [0, 1, 1e4, 1e8], EIG_TRAP),
        make_case("complex_identity_4", scalar, (-0.2 + 3j) * np.eye(4), SHORT, EIG_TRAP),
        make_case("diagonal_two_values", diagonal, np.diag([-1.0, -1, -1, 2, 2]), SHORT, EIG_TRAP),
        make_case("diagonal_zero_and_stiff", diagonal, np.diag([0.0, 0, -1, -1, -1e3]), SHORT, EIG_TRAP),
        make_case(
            "diagonal_extreme_rates",
            diagonal,
            np.diag([-1e-8, -1e-8, -1e4, -1e4]),
            [0, 1e-4, 1, 1e8],
            EIG_TRAP,
        ),
        make_case("diagonal_complex", diagonal, np.diag([2j, 2j, -2j, -2j, -1.0]), SHORT, EIG_TRAP),
    ]


def semisimple_cases() -> list[Case]:
    kind = "repeated semisimple"
    values = np.diag([-1.0, -1, -1, -3, -3, 0.2])
    pairs = np.kron(np.eye(3), np.array([[-0.1, 2.0], [-2.0, -0.1]]))
    symmetric = rotated(generator("semi"), values)
    return [
        make_case("semisimple_symmetric", kind, (symmetric + symmetric.T) / 2, SHORT, EIG_TRAP),
        make_case("semisimple_kappa10", kind, similar(generator("semi10"), values, 10.0), SHORT, EIG_TRAP),
        make_case("semisimple_kappa1000", kind, similar(generator("semi1000"), values, 1e3), SHORT, EIG_TRAP),
        make_case("semisimple_pairs", kind, similar(generator("semip"), pairs, 5.0), SHORT, EIG_TRAP),
        make_case("semisimple_complex", kind, similar(generator("semic"), values * (1 + 2j), 8.0), SHORT, EIG_TRAP),
        make_case("projector", kind, similar(generator("proj"), np.diag([1.0, 1, 1, 0, 0]), 20.0), SHORT, EIG_TRAP),
        make_case("rank_one", kind, np.outer([1.0, 2, 3, 4], [1.0, -1, 1, -1.5]), SHORT, EIG_TRAP),
        make_case(
            "householder_7",
            kind,
            np.eye(7) - 2 / 7 * np.ones((7, 7)),
            SHORT,
            "Higham, Test Matrix Toolbox: involutory",
        ),
    ]


def jordan_cases() -> list[Case]:
    kind = "Jordan block"
    sizes = [
        (2, 0.0),
        (2, -1.0),
        (3, 0.3),
        (4, -0.5),
        (5, 0.0),
        (6, -1.0),
        (8, -0.5),
        (8, 0.3),
        (12, -1.0),
        (16, -0.5),
    ]
    cases = [make_case(f"jordan_{n}_at_{x:g}", kind, jordan(n, x), SHORT, MVL + ", section 6") for n, x in sizes]
    cases += [make_case(f"jordan_pair_{m}", kind, real_jordan_pair(m, -0.3, 2.0), SHORT, MVL) for m in (2, 3, 4)]
    cases += [make_case(f"jordan_complex_{n}", kind, jordan(n, -0.2 + 3j), SHORT, MVL) for n in (2, 4, 6)]
    cases.append(make_case("jordan_6_long", kind, jordan(6, -0.5), [0, 1, 10, 50, 100], MVL))
    cases.append(make_case("jordan_4_large_coupling", kind, jordan(4, -1.0, 1e4), SHORT, MVL))
    cases.append(make_case("jordan_4_small_coupling", kind, jordan(4, -1.0, 1e-6), SHORT, MVL))
    kind = "rotated Jordan block"
    for n, x in [(2, -1.0), (3, 0.0), (4, -0.5), (6, -1.0), (8, 0.3), (12, -1.0)]:
        cases.append(
            make_case(
                f"rotated_jordan_{n}",
                kind,
                rotated(generator(f"rj{n}"), jordan(n, x)),
                SHORT,
                GOLUB_WILKINSON,
            )
        )
    for n in (3, 5):
        A = rotated(generator(f"rjc{n}"), jordan(n, -0.5 + 2j))
        cases.append(make_case(f"rotated_jordan_complex_{n}", kind, A, SHORT, GOLUB_WILKINSON))
    A = similar(generator("sj"), jordan(5, -1.0), 30.0)
    cases.append(make_case("similar_jordan_5", kind, A, SHORT, GOLUB_WILKINSON))
    A = rotated(generator("rjp"), real_jordan_pair(3, -0.2, 5.0))
    cases.append(make_case("rotated_jordan_pair_3", kind, A, SHORT, GOLUB_WILKINSON))
    return cases


def perturbed_jordan_cases() -> list[Case]:
    kind = "perturbed Jordan block"
    cases = []
    for n, size in [
        (2, 1e-4),
        (3, 1e-15),
        (4, 1e-4),
        (4, 1e-8),
        (4, 1e-12),
        (4, 1e-15),
        (8, 1e-10),
        (12, 1e-12),
    ]:
        cases.append(
            make_case(
                f"jordan_{n}_corner_{size:g}",
                kind,
                with_corner(jordan(n, -0.5), size),
                SHORT,
                GOLUB_WILKINSON,
            )
        )
    for size in (1e-6, 1e-10, 1e-14):
        rng = generator(f"pj{size}")
        A = rotated(rng, jordan(6, -0.5)) + size * normal(rng, 6, 6)
        cases.append(make_case(f"rotated_jordan_6_noise_{size:g}", kind, A, SHORT, GOLUB_WILKINSON))
    rng = generator("pjc")
    A = rotated(rng, jordan(4, -0.5 + 1j)) + 1e-9 * normal(rng, 4, 4, is_complex=True)
    cases.append(make_case("rotated_jordan_complex_4_noise", kind, A, SHORT, GOLUB_WILKINSON))
    return cases


def direct_sum_cases() -> list[Case]:
    kind = "direct sum"
    mixed = direct_sum(jordan(3, -1.0), -2.0, -5.0)
    derogatory = direct_sum(jordan(3, -1.0), jordan(2, -1.0), -1.0)
    integrators = direct_sum(jordan(2, 0.0), jordan(2, 0.0), 0.0)
    return [
        make_case("sum_jordan3_simple", kind, mixed, SHORT, GOLUB_WILKINSON),
        make_case("sum_jordan3_simple_rotated", kind, rotated(generator("dsr"), mixed), SHORT, GOLUB_WILKINSON),
        make_case("sum_derogatory", kind, derogatory, SHORT, GOLUB_WILKINSON),
        make_case("sum_derogatory_similar", kind, similar(generator("dd"), derogatory, 10.0), SHORT, GOLUB_WILKINSON),
        make_case("sum_integrators", kind, integrators, SHORT, GOLUB_WILKINSON),
        make_case(
            "sum_two_defective_pairs",
            kind,
            rotated(generator("dp"), direct_sum(real_jordan_pair(2, -0.1, 1.0), real_jordan_pair(2, -0.1, 3.0))),
            SHORT,
            GOLUB_WILKINSON,
        ),
        make_case(
            "sum_complex",
            kind,
            similar(generator("dc"), direct_sum(jordan(2, 1j), jordan(3, -1 + 1j), -2j), 5.0),
            SHORT,
            GOLUB_WILKINSON,
        ),
        make_case(
            "sum_jordan_and_stiff",
            kind,
            similar(generator("djs"), direct_sum(jordan(3, -1.0), -1e4, -1e4), 5.0),
            SHORT,
            GOLUB_WILKINSON,
        ),
        make_case("gear_8", kind, gear(8), SHORT, "Gear (1969), Math. Comp. 23: double eigenvalues"),
        make_case("gear_5", kind, gear(5), SHORT, "Gear (1969), Math. Comp. 23: double eigenvalues"),
    ]


def close_cases() -> list[Case]:
    kind = "close eigenvalues"
    source = MVL + ", method 14: nearly confluent"
    cases = []
    for gap in (1e-3, 1e-6, 1e-8, 1e-10, 1e-14):
        cases.append(make_case(f"close_pair_{gap:g}", kind, [[-1.0, 1.0], [0.0, -1.0 - gap]], SHORT, source))
    for gap in (1e-4, 1e-7, 1e-11):
        A = np.triu(normal(generator(f"ct{gap}"), 5, 5), 1) + np.diag(-1.0 - gap * np.arange(5.0) ** 2)
        cases.append(make_case(f"close_triangle_{gap:g}", kind, A, SHORT, source))
        A = rotated(generator(f"cr{gap}"), A)
        cases.append(make_case(f"close_rotated_{gap:g}", kind, A, SHORT, source))
    A = rotated(
        generator("cc"),
        np.triu(normal(generator("cc2"), 4, 4, is_complex=True), 1) + np.diag(1j + 1e-7 * np.arange(4)),
    )
    cases.append(make_case("close_complex", kind, A, SHORT, source))
    eps = 2.0**-52
    cases.append(make_case("confluent_eps", kind, [[1 + eps, 1.0], [0.0, 1 - eps]], SHORT, MVL + ", method 14"))
    A = np.block([[np.array([[0.0, 1], [-1, 0]]), np.eye(2)], [np.zeros((2, 2)), np.array([[0.0, 1 + 1e-9], [-1, 0]])]])
    cases.append(make_case("close_resonant_oscillators", kind, A, SHORT, "two oscillators near resonance"))
    return cases


def augmented_cases() -> list[Case]:
    kind = "augmented integrator"
    source = "Van Loan (1978), IEEE TAC 23(3)"
    rng = generator("augmented")
    stable = rotated(rng, np.diag([-0.3, -1.0, -2.0, -10.0])) + 0.3 * normal(rng, 4, 4)
    oscillator = np.array([[0.0, 1.0], [-25.0, -0.1]])
    skew = normal(rng, 3, 3, is_complex=True)
    return [
        make_case("augmented_4_2", kind, augmented(stable, normal(rng, 4, 2)), SHORT, source),
        make_case("augmented_large_input", kind, augmented(stable, 1e5 * normal(rng, 4, 2)), SHORT, source),
        make_case("augmented_oscillator", kind, augmented(oscillator, np.array([[0.0], [1.0]])), SHORT, source),
        make_case(
            "augmented_twice",
            kind,
            augmented(augmented(stable, normal(rng, 4, 1)), np.eye(5)[:, 4:]),
            SHORT,
            source,
        ),
        make_case("augmented_unstable", kind, augmented(np.diag([3.0, 1.0]), normal(rng, 2, 2)), SHORT, source),
        make_case("augmented_singular_Xi", kind, augmented(jordan(3, 0.0), normal(rng, 3, 2)), SHORT, source),
        make_case("augmented_complex", kind, augmented(skew - skew.conj().T, normal(rng, 3, 2) + 0j), SHORT, source),
        make_case("double_integrator_2d", kind, np.kron(jordan(2, 0.0), np.eye(2)), [0, 1, 10, 1e3], "kinematics"),
        make_case("constant_jerk", kind, np.kron(jordan(4, 0.0), np.eye(2)), [-3, 0.1, 1, 10], "kinematics"),
    ]


def nilpotent_cases() -> list[Case]:
    kind = "nilpotent"
    rng = generator("nilpotent")
    strict = np.triu(normal(rng, 6, 6), 1)
    pascal = np.diag(np.arange(1.0, 10.0), -1)
    Q = random_unitary(rng, 4, is_complex=True)
    square_zero = Q[:, :2] @ normal(rng, 2, 2, is_complex=True) @ Q[:, 2:].conj().T
    source = "Al-Mohy & Higham (2009), SIMAX 31(3), test matrices"
    return [
        make_case("strictly_upper_6", kind, strict, SHORT, source),
        make_case("strictly_upper_6_by_100", kind, 100 * strict, SHORT, source),
        make_case("strictly_upper_6_rotated", kind, rotated(rng, strict), SHORT, source),
        make_case("log_pascal_10", kind, pascal, [-1, 0.5, 1, 2], "Edelman & Strang (2004), Amer. Math. Monthly 111"),
        make_case("square_zero_complex", kind, square_zero, SHORT, "Xi^2 = 0 up to rounding"),
    ]


def degenerate_cases() -> list[Case]:
    return [
        *diagonal_cases(),
        *semisimple_cases(),
        *jordan_cases(),
        *perturbed_jordan_cases(),
        *direct_sum_cases(),
        *close_cases(),
        *augmented_cases(),
        *nilpotent_cases(),
    ]
