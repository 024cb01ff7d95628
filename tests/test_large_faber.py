"""Faber series against ball arithmetic: states and gradients at every tolerance, forcing, columns, guards, counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

import linode
from linode.errors import MethodError, NonFiniteError, NotDifferentiableError
from linode.large.linear import Functions, Matrix
from linode.large.region import segment
from linode.methods import Faber
from linode.methods.faber import FaberPlan
from linode.methods.large import Task, Term
from tests.large_truth import Sparse, csr, generator, line, random, states, systems, truth

EPS = 2.0**-53
SYSTEMS = {case.name: case for case in systems()}
SMALL = {case.name: case for case in systems(20)}  # ball arithmetic of 60 states takes seconds
RTOLS = (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)


def matrix(Xi: sp.csr_array) -> Matrix:
    return Matrix(Xi.indptr, Xi.indices, Xi.data)


def plan_of(Xi: sp.csr_array, t: np.ndarray, rtol: float, n_columns: int = 1, wants_gradient: bool = True) -> FaberPlan:
    return Faber().plan_large(matrix(Xi), Task(float(t.max()), t.shape[-1], n_columns, rtol, wants_gradient))


def cotangent(case: Sparse, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((len(case.t), case.n))
    return g + 1j * rng.standard_normal(g.shape) if np.iscomplexobj(case.Xi.data) else g


def relative(x: np.ndarray, y: np.ndarray) -> float:
    size = float(np.linalg.norm(y))
    return float(np.linalg.norm(x - y)) / size if size else float(np.linalg.norm(x))


# ---- accuracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_states_and_gradients_keep_every_tolerance(name: str):
    case = SYSTEMS[name]
    g = cotangent(case)
    true = truth(case, g)
    for rtol in RTOLS:
        plan = plan_of(case.Xi, case.t, rtol)
        answer, pullback = plan.record([Term(case.z0[:, None])], case.t[None])
        of_Xi, (of_z0,) = pullback(g[None])
        assert answer.trouble is None
        assert max(relative(z, y) for z, y in zip(answer.z[0], true.z)) <= 10 * rtol
        assert relative(of_Xi, true.values) <= 10 * rtol
        assert relative(of_z0[:, 0], true.z0) <= 10 * rtol
        velocity = (case.Xi @ answer.z[0].T).T
        # rounding of z is multiplied by |Xi| here
        rounding = 40 * EPS * np.abs(case.Xi).sum(1).max() * np.linalg.norm(case.z0) / np.linalg.norm(velocity)
        assert relative(np.einsum("tn,tn->t", g.conj(), velocity).real, true.dt) <= 10 * rtol + rounding


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_derivative_along_a_direction_agrees_with_the_gradient(name: str):
    case = SYSTEMS[name]
    g = cotangent(case)
    true = truth(case, g)
    rng = np.random.default_rng(8)
    dXi, dz0 = rng.standard_normal(len(case.Xi.data)), rng.standard_normal((case.n, 1))
    z, dz = plan_of(case.Xi, case.t, 1e-10).jvp([Term(case.z0[:, None])], case.t[None], dXi, [dz0])
    expected = np.vdot(true.values, dXi).real + np.vdot(true.z0, dz0[:, 0]).real
    size = np.linalg.norm(true.values) * np.linalg.norm(dXi) + np.linalg.norm(true.z0) * np.linalg.norm(dz0)
    assert relative(z[0], true.z) <= 1e-9
    assert abs(np.vdot(g, dz[0]).real - expected) <= 1e-9 * size


@pytest.mark.parametrize("n", [100, 200])
@pytest.mark.parametrize(
    "build",
    [
        lambda n: line(n, 2e3, -4e3, 2e3),
        lambda n: line(n, 101.0, -100.0, -1.0),
        lambda n: generator(n, 2),
        lambda n: random(n, 5, is_complex=True),
    ],
    ids=["stiff diffusion", "mostly advection", "generator", "complex random"],
)
def test_states_of_larger_systems_keep_every_tolerance(build, n):
    Xi = build(n)
    z0 = np.random.default_rng(n).standard_normal(n).astype(Xi.dtype)
    t = np.array([0.4, 1.0])
    true = states(Xi.toarray(), z0, t)
    for rtol in (1e-5, 1e-9, 1e-12):
        answer = plan_of(Xi, t, rtol, wants_gradient=False).states([Term(z0[:, None])], t[None])
        assert max(relative(z, y) for z, y in zip(answer.z[0], true)) <= 10 * rtol


@pytest.mark.parametrize("kind", ["eigenvector", "three eigenvectors", "null vector", "zero"])
def test_gradients_are_right_where_z0_sits_in_a_small_invariant_subspace(kind: str):
    """Basis methods break down there, and what they then differentiate is wrong."""
    n = 60
    Xi = line(n, 50.0, -100.0, 50.0) if kind != "null vector" else generator(n, 9)
    modes = np.sin(np.outer(np.arange(1, n + 1), np.arange(1, n + 1)) * np.pi / (n + 1))
    z0 = {
        "eigenvector": modes[0],
        "three eigenvectors": modes[0] + modes[3] - 0.5 * modes[7],
        "null vector": np.linalg.svd(Xi.toarray())[2][-1],
        "zero": np.zeros(n),
    }[kind]
    case = Sparse(kind, Xi, z0, np.array([0.5, 1.0]))
    g = cotangent(case)
    true = truth(case, g)
    for rtol in (1e-6, 1e-10):
        answer, pullback = plan_of(Xi, case.t, rtol).record([Term(z0[:, None])], case.t[None])
        of_Xi, (of_z0,) = pullback(g[None])
        assert max(relative(z, y) for z, y in zip(answer.z[0], true.z)) <= 10 * rtol
        assert relative(of_Xi, true.values) <= 10 * rtol
        assert relative(of_z0[:, 0], true.z0) <= 10 * rtol


@pytest.mark.parametrize(
    ("Xi", "z0"),
    [
        (csr(sp.csr_array((5, 5))), np.arange(5.0)),
        (csr(sp.csr_array([[-2.5]])), np.array([2.0])),
        (csr(sp.csr_array([[0.0]])), np.array([2.0])),
        (csr(sp.csr_array([[1j]])), np.array([2.0 + 1j])),
        (csr(3.0 * sp.eye_array(4)), np.arange(4.0)),
        (csr(sp.csr_array([[0.0, 1.0], [0.0, 0.0]])), np.array([1.0, 1.0])),
    ],
    ids=["zero matrix", "n = 1", "n = 1, zero", "n = 1, imaginary", "multiple of 1", "Jordan block"],
)
def test_the_smallest_systems(Xi, z0):
    case = Sparse("", Xi, z0, np.array([0.7, 2.0]))
    g = cotangent(case)
    true = truth(case, g)
    answer, pullback = plan_of(Xi, case.t, 1e-11).record([Term(z0[:, None])], case.t[None])
    of_Xi, (of_z0,) = pullback(g[None])
    assert relative(answer.z[0], true.z) <= 1e-11
    assert relative(of_Xi, true.values) <= 1e-11
    assert relative(of_z0[:, 0], true.z0) <= 1e-11


# ---- forcing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["diffusion", "advection and diffusion", "skew", "growth", "complex random", "generator"]
)
@pytest.mark.parametrize("w", [0.0, -1.5, 6j, 0.3 - 2j])
def test_driven_states_and_gradients_keep_their_tolerance(name: str, w: complex):
    case = SMALL[name]
    rng = np.random.default_rng(6)
    v = rng.standard_normal(case.n)
    g = rng.standard_normal((len(case.t), case.n))
    if np.iscomplexobj(case.Xi.data) or complex(w).imag:
        g = g + 1j * rng.standard_normal(g.shape)
    true = truth(case, g, v, w)
    assert true.v is not None
    driving = Term(v[:, None], "phi1") if w == 0 else Term(v[:, None], "harmonic", w)
    for rtol in (1e-6, 1e-11):
        plan = plan_of(case.Xi, case.t, rtol)
        answer, pullback = plan.record([Term(case.z0[:, None]), driving], case.t[None])
        of_Xi, (of_z0, of_v) = pullback(g[None])
        assert max(relative(z, y) for z, y in zip(answer.z[0], true.z)) <= 10 * rtol
        assert relative(of_Xi, true.values) <= 10 * rtol
        if not np.iscomplexobj(case.z0):
            of_z0 = of_z0.real
        assert relative(of_z0[:, 0], true.z0) <= 10 * rtol
        assert relative(of_v[:, 0], true.v) <= 10 * rtol
        assert (
            relative(
                plan.jvp([Term(case.z0[:, None]), driving], case.t[None], None, [case.z0[:, None], v[:, None]])[1][0],
                true.z,
            )
            <= 10 * rtol
        )


# ---- times and columns -------------------------------------------------------------------------------------


def test_times_may_be_repeated_unsorted_and_zero():
    case = SYSTEMS["advection and diffusion"]
    t = np.array([0.9, 0.0, 0.3, 0.9, 0.0, 0.05])
    answer = plan_of(case.Xi, t, 1e-10).states([Term(case.z0[:, None])], t[None])
    true = states(case.dense, case.z0, t)
    assert max(relative(z, y) for z, y in zip(answer.z[0], true)) <= 1e-9
    assert np.array_equal(answer.z[0, 1], case.z0)


@pytest.mark.parametrize("name", ["advection and diffusion", "i times real", "reversible walk"])
@pytest.mark.parametrize("has_own_times", [False, True])
def test_columns_are_trajectories_of_their_own(name: str, has_own_times: bool):
    case = SMALL[name]
    rng = np.random.default_rng(12)
    R, T = 3, 4
    z0 = rng.standard_normal((case.n, R)).astype(case.z0.dtype)
    t = rng.uniform(0, 1, (R if has_own_times else 1, T))
    t[0, 0] = 0.0
    g = rng.standard_normal((R, T, case.n)).astype(case.z0.dtype)
    plan = plan_of(case.Xi, t, 1e-10, R)
    answer, pullback = plan.record([Term(z0)], t)
    of_Xi, (of_z0,) = pullback(g)
    total = 0
    for r in range(R):
        true = truth(Sparse("", case.Xi, z0[:, r], t[r if has_own_times else 0]), g[r])
        assert max(relative(z, y) for z, y in zip(answer.z[r], true.z)) <= 1e-9
        assert relative(of_z0[:, r], true.z0) <= 1e-9
        total = total + true.values
    assert relative(of_Xi, total) <= 1e-9


def test_many_steps_give_what_one_gives():
    case = SYSTEMS["diffusion in a plane"]
    g = cotangent(case)
    true = truth(case, g)
    plan = FaberPlan(matrix(case.Xi), segment(-320, 0, "given"), Task(1.0, 2, 1, 1e-10, True), 7, 60, 0.0)
    answer, pullback = plan.record([Term(case.z0[:, None])], case.t[None])
    of_Xi, (of_z0,) = pullback(g[None])
    assert plan.details["n_pieces"] >= 7
    assert max(relative(z, y) for z, y in zip(answer.z[0], true.z)) <= 1e-9
    assert relative(of_Xi, true.values) <= 1e-9
    assert relative(of_z0[:, 0], true.z0) <= 1e-9


@pytest.mark.parametrize(
    "name", ["mostly advection", "stiff diffusion", "skew", "i times real", "Hermitian", "generator"]
)
def test_vectors_made_again_give_the_gradient_of_kept_ones(name: str, monkeypatch):
    case = SYSTEMS[name]
    g = cotangent(case)
    found = []
    for most in (1e8, 0):
        monkeypatch.setattr("linode.large.sweep.MOST_KEPT", most)
        plan = plan_of(case.Xi, case.t, 1e-8)
        of_Xi, (of_z0,) = plan.vjp([Term(case.z0[:, None])], case.t[None], g[None])
        found.append((of_Xi, of_z0, plan.details["n_products_of_reverse"]))
    assert relative(found[0][0], found[1][0]) <= 2e-12
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][2] == 0 < found[1][2]


# ---- counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stiff diffusion", "skew", "advection and diffusion"])
def test_product_counts_are_deterministic_and_do_not_jump_with_the_number_of_times(name: str):
    case = SYSTEMS[name]
    Xi = line(2000, *(case.dense[1, :3]))

    def count(T: int) -> int:
        t = np.linspace(0, 1, T + 1)[1:]
        plan = plan_of(Xi, t, 1e-8, wants_gradient=False)
        plan.states([Term(np.sin(np.arange(2000.0))[:, None])], t[None])
        return plan.details["n_products"]

    counts = [count(T) for T in (1, 2, 3, 10, 11, 50, 51, 100, 101, 201, 202)]
    assert counts == [count(T) for T in (1, 2, 3, 10, 11, 50, 51, 100, 101, 201, 202)]
    for i in (0, 1, 3, 5, 7, 9):
        assert counts[i + 1] <= 1.5 * counts[i]


@pytest.mark.parametrize("name", ["diffusion", "skew", "generator", "i times real"])
def test_the_reverse_takes_as_many_products_as_the_states(name: str):
    case = SYSTEMS[name]
    for T in (1, 30):
        t = np.linspace(0, 1, T + 1)[1:]
        plan = plan_of(case.Xi, t, 1e-8)
        _, pullback = plan.record([Term(case.z0[:, None])], t[None])
        pullback(np.ones((1, T, case.n)))
        assert plan.details["n_transposed"] == plan.details["n_products"]


# ---- symmetry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diffusion", "Xi is Hermitian"),
        ("Hermitian", "Xi is Hermitian"),
        ("skew", "Xi is skew-Hermitian"),
        ("i times real", "Xi is skew-Hermitian"),
        ("reversible walk", "D^-1 Xi D is Hermitian"),
        ("growth", "D^-1 Xi D is Hermitian"),
        ("generator", "1-norm"),
        ("advection and diffusion", "Gershgorin"),
    ],
)
def test_symmetry_is_found_and_reported(name: str, words: str):
    case = SYSTEMS[name]
    plan = plan_of(case.Xi, case.t, 1e-8)
    assert words in plan.details["region"]
    assert plan.details["symmetrised"] == (words.startswith("D"))


def test_i_times_a_real_matrix_needs_real_products_only():
    plan = plan_of(SYSTEMS["i times real"].Xi, SYSTEMS["i times real"].t, 1e-8)
    assert plan.expansion(plan.step).B.dtype == float


# ---- guards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.999, 0.98, 0.9])
def test_a_region_that_is_too_small_is_widened_until_it_serves(share: float):
    case = SYSTEMS["stiff diffusion"]
    plan = FaberPlan(matrix(case.Xi), segment(-4000 * share, 0, "too small"), Task(1.0, 2, 1, 1e-8, True), 1, 300, 0.0)
    answer = plan.states([Term(case.z0[:, None])], case.t[None])
    assert answer.trouble is None
    assert plan.details["widened"] > 0
    true = states(case.dense, case.z0, case.t)
    assert max(relative(z, y) for z, y in zip(answer.z[0], true)) <= 1e-7


def test_a_region_that_cannot_be_mended_is_a_trouble():
    case = SYSTEMS["stiff diffusion"]
    plan = FaberPlan(matrix(case.Xi), segment(-1e-3, 0, "nonsense"), Task(1.0, 2, 1, 1e-8, True), 1, 300, 0.0)
    answer = plan.states([Term(case.z0[:, None])], case.t[None])
    assert answer.trouble == "REGION"
    assert answer.error[0] == math.inf


def test_states_that_decay_below_rounding_within_a_step_are_still_accurate():
    case = SYSTEMS["diffusion in a plane"]
    t = np.array([1.0, 4.0, 20.0])  # z falls to 1e-55 of z0
    Xi = csr(case.Xi - 2.0 * sp.eye_array(case.n))
    answer = plan_of(Xi, t, 1e-9).states([Term(case.z0[:, None])], t[None])
    true = states(Xi.toarray(), case.z0, t)
    assert answer.trouble is None
    assert max(relative(z, y) for z, y in zip(answer.z[0], true)) <= 1e-8


@pytest.mark.parametrize("rtol", [1e-6, 1e-10])
def test_states_that_leave_the_domain_faster_than_their_errors_are_told(rtol: float):
    """Upwind transport: what is left at the end is below rounding of what was there, and no digit of it is sure."""
    Xi = line(120, 1e3, -1e3, 0.0)
    z0 = np.random.default_rng(3).standard_normal(120)
    t = np.array([0.05, 0.5])
    answer = plan_of(Xi, t, rtol).states([Term(z0[:, None])], t[None])
    true = states(Xi.toarray(), z0, t)
    assert relative(answer.z[0, 0], true[0]) <= 10 * rtol
    assert answer.trouble == "DECAY" or relative(answer.z[0, 1], true[1]) <= answer.error[0]


def test_states_past_the_largest_float_are_inf_and_told():
    Xi = csr(10.0 * sp.eye_array(20) + line(20, 1.0, -2.0, 1.0))
    t = np.array([1.0, 100.0, 2.0])
    answer = plan_of(Xi, t, 1e-8).states([Term(np.ones((20, 1)))], t[None])
    assert answer.trouble == "OVERFLOW"
    assert np.isinf(answer.z[0, 1]).all()
    assert relative(answer.z[0, 0], states(Xi.toarray(), np.ones(20), t[:1])[0]) <= 1e-7


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e150])
def test_the_unit_of_time_does_not_matter(scale: float):
    case = SYSTEMS["advection and diffusion"]
    Xi = csr(case.Xi * scale)
    answer = plan_of(Xi, case.t / scale, 1e-9).states([Term(case.z0[:, None])], case.t[None] / scale)
    assert relative(answer.z[0], states(case.dense, case.z0, case.t)) <= 1e-8


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_unit_of_states_does_not_matter(scale: float):
    case = SYSTEMS["diffusion"]
    answer, pullback = plan_of(case.Xi, case.t, 1e-9).record([Term(scale * case.z0[:, None])], case.t[None])
    true = truth(case, cotangent(case))
    assert relative(answer.z[0] / scale, true.z) <= 1e-8
    assert relative(pullback(cotangent(case)[None])[0] / scale, true.values) <= 1e-8


# ---- windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1500, 2999])
@pytest.mark.parametrize("kind", ["birth and death", "advection", "i times real"])
def test_a_point_mass_is_solved_on_its_surroundings(place: int, kind: str):
    """The truth is that of the 200 states around it: what is further has less than rounding."""
    n = 3000
    Xi = {
        "birth and death": csr(line(n, 3.0, -5.0, 2.0) + sp.diags_array(np.linspace(0, -0.5, n))),
        "advection": line(n, 7.0, -8.0, 1.0),
        "i times real": csr(1j * line(n, 2.0, -4.0, 2.0)),
    }[kind]
    z0 = np.zeros(n, Xi.dtype)
    z0[place] = 1.0
    t = np.array([0.5, 2.0])
    plan = plan_of(Xi, t, 1e-9, wants_gradient=False)
    answer = plan.states([Term(z0[:, None])], t[None])
    near = slice(max(place - 100, 0), min(place + 100, n))
    true = states(Xi[near, near].toarray(), z0[near], t)
    assert plan.details["window"] < 1000
    assert max(relative(z, y) for z, y in zip(answer.z[0, :, near], true)) <= 1e-8
    far = np.ones(n, bool)
    far[near] = False
    assert np.abs(answer.z[0][:, far]).max() <= 1e-12
    whole, _ = plan.record([Term(z0[:, None])], t[None])
    assert relative(answer.z, whole.z) <= 1e-12


# ---- functions ---------------------------------------------------------------------------------------------


def functions(Xi: sp.csr_array, **known) -> Functions:
    adjoint = csr(Xi.conj().T)
    return Functions(lambda X: Xi @ X, Xi.shape[0], rmatvec=lambda Y: adjoint @ Y, dtype=Xi.dtype, **known)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("diffusion", {"is_hermitian": True, "bounds": (-240.0, 0.0)}),
        ("diffusion", {"is_hermitian": True}),
        ("stiff diffusion", {"is_hermitian": True, "is_dissipative": True}),
        ("advection and diffusion", {"is_dissipative": True}),
        ("advection and diffusion", {"bounds": (-200.0, 0.0)}),
        ("advection and diffusion", {}),
        ("skew", {"bounds": (0.0, 0.0, -60.0, 60.0)}),
        ("upwind, one Jordan block", {"is_dissipative": True}),
        ("random", {}),
        ("complex random", {}),
        ("Jordan blocks", {}),
    ],
)
def test_functions_keep_the_tolerance_whatever_is_known_of_them(name: str, known: dict):
    case = SYSTEMS[name]
    A = functions(case.Xi, **known)
    plan = Faber().plan_large(A, Task(1.0, 2, 1, 1e-8, True))
    answer, pullback = plan.record([Term(case.z0[:, None])], case.t[None])
    g = cotangent(case)
    true = truth(case, g)
    _, (of_z0,) = pullback(g[None])
    assert answer.trouble is None
    assert max(relative(z, y) for z, y in zip(answer.z[0], true.z)) <= 1e-7
    assert relative(of_z0[:, 0], true.z0) <= 1e-7


def test_gradients_reach_the_parameters_of_functions():
    case = SYSTEMS["diffusion in a plane"]
    n = case.n
    theta = np.exp(np.random.default_rng(1).standard_normal(n))
    L = case.Xi
    A = Functions(
        lambda X: theta[:, None] * (L @ X),
        n,
        rmatvec=lambda Y: L.T @ (theta[:, None] * Y),
        vjp=lambda Y, X: [(Y * (L @ X)).sum(1)],
        jvp=lambda dtheta, X: dtheta[0][:, None] * (L @ X),
        is_dissipative=False,
    )
    plan = Faber().plan_large(A, Task(0.3, 2, 1, 1e-9, True))
    t = np.array([[0.1, 0.3]])
    g = np.random.default_rng(2).standard_normal((1, 2, n))
    (of_theta,), _ = plan.vjp([Term(case.z0[:, None])], t, g)
    Xi = csr(sp.diags_array(theta) @ L)
    true = truth(Sparse("", Xi, case.z0, t[0]), g[0])
    rows = np.repeat(np.arange(n), np.diff(Xi.indptr))
    expected = np.bincount(rows, true.values * L.toarray()[rows, Xi.indices], n)
    assert relative(of_theta, expected) <= 1e-8
    dtheta = np.random.default_rng(5).standard_normal(n)
    _, dz = plan.jvp([Term(case.z0[:, None])], t, [dtheta], [np.zeros((n, 1))])
    assert abs((g * dz).sum() - expected @ dtheta) <= 1e-8 * np.linalg.norm(expected) * np.linalg.norm(dtheta)


def test_a_gradient_without_products_of_the_adjoint_is_refused():
    case = SYSTEMS["diffusion"]
    A = Functions(lambda X: case.Xi @ X, case.n, bounds=(-240.0, 0.0))
    plan = Faber().plan_large(A, Task(1.0, 2, 1, 1e-8, True))
    with pytest.raises(NotDifferentiableError, match="rmatvec"):
        plan.vjp([Term(case.z0[:, None])], case.t[None], cotangent(case)[None])


def test_a_product_that_is_not_finite_is_an_error_with_its_number():
    case = SYSTEMS["diffusion"]
    calls = []

    def matvec(X: np.ndarray) -> np.ndarray:
        calls.append(1)
        return case.Xi @ X if len(calls) < 5 else np.full_like(X, np.nan)

    A = Functions(matvec, case.n, bounds=(-240.0, 0.0), is_hermitian=True)
    plan = Faber().plan_large(A, Task(1.0, 2, 1, 1e-8, False))
    with pytest.raises(NonFiniteError, match="number 5"):
        plan.states([Term(case.z0[:, None])], case.t[None])


# ---- the registry ------------------------------------------------------------------------------------------


def test_a_method_for_large_systems_is_refused_for_a_dense_matrix():
    for method in ("faber", Faber()):
        with pytest.raises(MethodError, match="sparse"):
            linode.LinearODE([[1.0]], [1.0], method=method)


def test_progress_is_told_and_may_stop_the_work():
    case = SYSTEMS["stiff diffusion"]
    told: list[float] = []
    plan_of(case.Xi, case.t, 1e-8).states([Term(case.z0[:, None])], case.t[None], told.append)
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan_of(case.Xi, case.t, 1e-8).states([Term(case.z0[:, None])], case.t[None], stop)
