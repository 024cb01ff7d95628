"""Cases from applications: kinetics, Markov chains, mechanics, discretised partial differential equations."""

from __future__ import annotations

import numpy as np

from tests import case_builders as build
from tests.case_builders import Case, generator, make_case, normal, rotated, similar

SHORT = [0.0, 0.3, 1.0, 2.0, 5.0]
HAIRER = "Hairer & Wanner (1996), Solving ODEs II"
SIDJE = "Sidje (1998), ACM TOMS 24(1): Markov chains"
TISSEUR = "Tisseur & Meerbergen (2001), SIAM Review 43(2): quadratic eigenproblems"
LEVEQUE = "LeVeque (2007), Finite Difference Methods for ODEs and PDEs"


def robertson(y2: float, y3: float) -> np.ndarray:
    k1, k2, k3 = 0.04, 3e7, 1e4
    return np.array([[-k1, k3 * y3, k3 * y2], [k1, -k3 * y3 - 2 * k2 * y2, -k3 * y2], [0.0, 2 * k2 * y2, 0.0]])


def stiff_cases() -> list[Case]:
    kind = "stiff"
    times = [0.0, 1e-6, 1e-3, 0.1, 1.0]
    cases = [
        make_case("robertson_start", "kinetics", robertson(3.6e-5, 1e-4), [0, 1e-3, 1, 40], HAIRER + ", (IV.1.4)"),
        make_case("robertson_late", "kinetics", robertson(6e-6, 0.3), [0, 1e-4, 1, 400], HAIRER + ", (IV.1.4)"),
        make_case(
            "bateman_equal_rates",
            "kinetics",
            build.decay_chain([1.0] * 6),
            SHORT,
            "Bateman (1910): equal rates, a Jordan block",
        ),
        make_case(
            "bateman_spread_rates",
            "kinetics",
            build.decay_chain([1e3, 1e-3, 10, 0.1, 1e2, 0]),
            SHORT,
            "Bateman (1910)",
        ),
        make_case(
            "bateman_close_rates",
            "kinetics",
            build.decay_chain([1, 1 + 1e-9, 1 - 1e-9, 1 + 2e-9]),
            SHORT,
            "Bateman (1910)",
        ),
    ]
    for top, kappa in ((1e3, 5.0), (1e6, 5.0), (1e6, 100.0)):
        values = np.diag(-np.geomspace(1.0, top, 6))
        A = similar(generator(f"st{top}{kappa}"), values, kappa)
        cases.append(make_case(f"stiff_{top:g}_kappa{kappa:g}", kind, A, times, HAIRER + ", IV"))
    A = similar(generator("stc"), np.diag(-np.geomspace(1.0, 1e5, 4) * (1 + 0.3j)), 5.0)
    cases.append(make_case("stiff_complex", kind, A, times, HAIRER + ", IV"))
    A = rotated(generator("sts"), np.diag(-np.geomspace(1e-2, 1e6, 8)))
    cases.append(make_case("stiff_symmetric", kind, (A + A.T) / 2, [0, 1e-5, 1e-2, 1, 50], HAIRER + ", IV"))
    slow_fast = np.block(
        [[build.real_jordan_pair(1, -0.1, 1.0), np.ones((2, 2))], [1e5 * np.ones((2, 2)), -1e6 * np.eye(2)]]
    )
    cases.append(make_case("slow_manifold", kind, slow_fast, times, "singular perturbation: two slow, two fast"))
    triangle = np.diag([-1.0, -1e2, -1e4, -1e6]) + np.triu(normal(generator("stt"), 4, 4), 1) * 1e3
    cases.append(make_case("stiff_triangle", kind, triangle, times, HAIRER + ", IV"))
    triangle = np.diag([-1e6, -1e3, -1.0, 0.0]) + np.tril(normal(generator("stl"), 4, 4), -1)
    cases.append(make_case("stiff_lower_triangle", kind, triangle, times, HAIRER + ", IV"))
    A = np.array([[998.0, 1998.0], [-999.0, -1999.0]])
    cases.append(make_case("stiff_textbook", kind, A, [0, 1e-3, 1, 10], "Gear (1971): eigenvalues -1, -1000"))
    A = np.array([[-0.5e6, 1.0], [0.0, -0.5e6 - 1e-3]])
    cases.append(make_case("stiff_close_fast_pair", kind, A, [0, 1e-7, 1e-6, 1e-5], "two fast modes nearly equal"))
    return cases


def markov_cases() -> list[Case]:
    kind = "Markov generator"
    cyclic = np.roll(np.eye(6), 1, axis=0) - np.eye(6)
    absorbing = build.birth_death([0.3, 0.5, 0.2, 0.1, 0.4], [0.0, 0.6, 0.1, 0.5, 0.3])
    fast = build.birth_death([1e5, 2.0], [3e4, 1.0])
    rng = generator("markov")
    blocks = [rng.random((3, 3)) for _ in range(2)]
    weak = build.direct_sum(*blocks) + 1e-6 * rng.random((6, 6))
    weak -= np.diag(np.diag(weak))
    weak -= np.diag(weak.sum(axis=0))
    probability = np.eye(8)[0]
    queue = build.birth_death([0.9] * 15, [1.0] * 15)
    erlang = build.decay_chain([2.0] * 7 + [0.0])
    jukes_cantor = np.ones((4, 4)) / 3 - 4 / 3 * np.eye(4)
    return [
        make_case(
            "birth_death_8",
            kind,
            build.birth_death(np.arange(1, 8), np.arange(7, 0, -1)),
            SHORT,
            SIDJE,
            z0=probability,
        ),
        make_case(
            "birth_death_slow",
            kind,
            build.birth_death([0.1] * 7, [0.2] * 7),
            [0, 1, 100, 1e4],
            SIDJE,
            z0=probability,
        ),
        make_case("mm1_queue_16", kind, queue, [0, 1, 30, 1e3], SIDJE),
        make_case("cyclic_6", kind, cyclic, SHORT, SIDJE),
        make_case("cyclic_6_long", kind, cyclic, [1e2, 1e4], SIDJE),
        make_case("absorbing_6", kind, absorbing, [0, 1, 10, 1e3], SIDJE),
        make_case("three_states_stiff", kind, fast, [0, 1e-5, 1e-2, 3], SIDJE),
        make_case("nearly_decomposable", kind, weak, [0, 1, 1e3, 1e7], "Simon & Ando (1961)"),
        make_case("erlang_phases_8", kind, erlang, SHORT, "Neuts (1981): phase-type, a Jordan block"),
        make_case("jukes_cantor", kind, jukes_cantor, SHORT, "Jukes & Cantor (1969): triple eigenvalue"),
    ]


def mechanical_cases() -> list[Case]:
    kind = "mechanical"
    M = np.diag([1.0, 2.0, 0.5])
    K = np.array([[30.0, -10, 0], [-10, 25, -15], [0, -15, 15]])
    oscillator = build.first_order(np.eye(1), np.array([[2.0]]), np.array([[1.0]]))
    half_damped = build.first_order(np.eye(2), np.diag([4.0, 0.0]), np.diag([4.0, 9.0]))
    springs = build.first_order(np.eye(5), 2e-3 * np.eye(5), -build.laplacian(5))
    gyroscope = build.first_order(np.eye(2), np.array([[0, -3.0], [3.0, 0]]), np.eye(2))
    free = build.first_order(np.eye(3), np.zeros((3, 3)), np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]]))
    rng = generator("mech")
    stiff_spring = build.first_order(np.diag([1.0, 1e-3]), np.zeros((2, 2)), np.array([[1e6, -10], [-10, 20]]))
    drone_gains = normal(rng, 4, 4) * 0.1
    return [
        make_case("masses_undamped", kind, build.first_order(M, 0 * M, K), [0, 1, 10, 1e3], TISSEUR),
        make_case("masses_lightly_damped", kind, build.first_order(M, 1e-3 * K, K), [0, 1, 10, 1e2], TISSEUR),
        make_case("masses_overdamped", kind, build.first_order(M, 50 * np.eye(3), K), SHORT, TISSEUR),
        make_case("critically_damped", kind, oscillator, SHORT, TISSEUR + ": defective"),
        make_case(
            "critically_damped_two",
            kind,
            np.kron(oscillator, np.eye(2)),
            SHORT,
            TISSEUR + ": defective twice",
        ),
        make_case("critical_and_undamped", kind, half_damped, SHORT, TISSEUR),
        make_case("spring_chain_5", kind, springs, [0, 0.1, 1, 10], TISSEUR),
        make_case("gyroscopic", kind, gyroscope, [0, 1, 10, 100], TISSEUR),
        make_case("free_masses", kind, free, [0, 1, 10, 100], "rigid body mode: a Jordan block at 0"),
        make_case("stiff_spring", kind, stiff_spring, [0, 1e-3, 0.1, 10], TISSEUR),
        make_case(
            "hover_linearised",
            kind,
            np.block([[build.jordan(4, 0.0), drone_gains], [np.zeros((4, 4)), -20 * np.eye(4)]]),
            SHORT,
            "integrators with actuators",
        ),
    ]


def pde_cases() -> list[Case]:
    heat, advection = "diffusion", "advection"
    n = 12
    upwind = (n + 1) * (np.eye(n, k=-1) - np.eye(n))
    peclet = 0.02 * build.laplacian(n) + (n + 1) / 2 * (np.eye(n, k=-1) - np.eye(n, k=1))
    periodic = 6 * (np.roll(np.eye(n), 1, axis=0) - np.roll(np.eye(n), -1, axis=0))
    wave = build.first_order(np.eye(6), np.zeros((6, 6)), -build.laplacian(6))
    x = np.linspace(-1, 1, 10)
    schroedinger = 1j * (0.05 * build.laplacian(10) - np.diag(20 * x**2))
    ginzburg = (1 + 2j) * 0.01 * build.laplacian(8) + (0.5 + 0.3j) * np.eye(8)
    neumann = build.laplacian(10)
    neumann[0, 0], neumann[-1, -1] = neumann[0, 1] * -1, neumann[-1, -2] * -1
    advect_long = build.toeplitz_band(16, b0=-1.0, c1=1.0)
    return [
        make_case("heat_12", heat, build.laplacian(12), [0, 1e-4, 1e-2, 0.1, 1], LEVEQUE),
        make_case("heat_24", heat, build.laplacian(24), [0, 1e-3, 0.1], LEVEQUE),
        make_case("heat_neumann_10", heat, neumann, [0, 1e-3, 0.1, 10], LEVEQUE),
        make_case(
            "heat_variable",
            heat,
            -np.diff(np.eye(9), axis=0) @ np.diag(np.geomspace(1e-3, 1e4, 9)) @ np.diff(np.eye(9), axis=0).T,
            [0, 1e-3, 1, 100],
            LEVEQUE,
        ),
        make_case(
            "heat_4x4_grid",
            heat,
            np.kron(build.laplacian(4), np.eye(4)) + np.kron(np.eye(4), build.laplacian(4)),
            [0, 1e-2, 0.1, 1],
            LEVEQUE + ": repeated eigenvalues",
        ),
        make_case("upwind_12", advection, upwind, [0, 0.1, 0.5, 1, 2], LEVEQUE + ": a Jordan block"),
        make_case("upwind_16_far", advection, advect_long, [1, 10, 30], LEVEQUE + ": a Jordan block"),
        make_case(
            "advection_diffusion_12",
            advection,
            peclet,
            [0, 0.1, 0.5, 2],
            "Reddy & Trefethen (1994), SIAM J. Appl. Math. 54",
        ),
        make_case("advection_periodic_12", advection, periodic, [0, 0.1, 1, 100], LEVEQUE + ": skew"),
        make_case("wave_6", "wave", wave, [0, 0.1, 1, 10], LEVEQUE),
        make_case(
            "schroedinger_10",
            "Schroedinger",
            schroedinger,
            [0, 0.1, 1, 50],
            "Lubich (2008), From Quantum to Classical Molecular Dynamics",
        ),
        make_case(
            "ginzburg_landau_8",
            "complex diffusion",
            ginzburg,
            [0, 0.5, 2, 5],
            "Aranson & Kramer (2002), linearised",
        ),
    ]


def physical_cases() -> list[Case]:
    return [*stiff_cases(), *markov_cases(), *mechanical_cases(), *pde_cases()]
