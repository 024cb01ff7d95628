"""Polynomials in (I - gamma Xi)^-1 against ball arithmetic: states, gradients, counts, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

from linode.errors import NonFiniteError, NotDifferentiableError, OptionError
from linode.large import factor, leja
from linode.large.factor import Factors, profile
from linode.large.linear import Functions, Linear, Matrix
from linode.methods import Faber, Rational
from linode.methods.large import LargePlan, Task, Term
from linode.methods.rational import RationalPlan
from tests.large_truth import Sparse, Truth, csr, line, plane, states, systems, truth

EPS = 2.0**-52
REFUSED = ("skew", "i times real")
BEYOND = ("mostly advection", "i times real, not symmetric")  # waves that turn often: not what the method is for


def linear(Xi: sp.csr_array) -> Matrix:
    return Matrix(Xi.indptr, Xi.indices, Xi.data)


def task_of(t: np.ndarray, rtol: float, n_columns: int = 1, wants_gradient: bool = True) -> Task:
    return Task(float(np.max(t)), np.shape(t)[-1], n_columns, rtol, wants_gradient)


def planned(
    Xi: sp.csr_array, t: np.ndarray, rtol: float, method: Rational | None = None, **about: bool
) -> RationalPlan:
    plan = (method or Rational()).plan_large(linear(Xi), task_of(t, rtol, **about))
    assert isinstance(plan, RationalPlan), plan.reason
    return plan


def relative(x: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(x - true) / np.linalg.norm(true))


def cotangents(case: Sparse) -> np.ndarray:
    rng = np.random.default_rng(3)
    g = rng.standard_normal((len(case.t), case.n))
    return g + 1j * rng.standard_normal(g.shape) if np.iscomplexobj(case.z0) else g


def rounding(case: Sparse) -> float:
    """What I - gamma Xi loses by rounding, of states and gradients."""
    return 4 * float(abs(case.Xi).sum(1).max()) * float(case.t.max()) * EPS


def check(case: Sparse, rtol: float, true: Truth, g: np.ndarray, *others: Term) -> RationalPlan:
    """All within 10 rtol, and the estimate not less than a tenth of the error."""
    plan = planned(case.Xi, case.t, rtol)
    answer, pullback = plan.record([Term(case.z0[:, None]), *others], case.t[None])
    values, (a, *of_others) = pullback(g[None])
    most = 10 * rtol + rounding(case)
    errors = [relative(answer.z[0, i], true.z[i]) for i in range(len(case.t))]
    assert answer.trouble is None
    assert max(errors) <= most
    assert max(errors) <= 10 * answer.error[0] + 50 * EPS
    assert relative(values, true.values) <= most
    assert relative(a[:, 0] if np.iscomplexobj(case.z0) else a[:, 0].real, true.z0) <= most
    for b in of_others:
        assert true.v is not None
        assert relative(b[:, 0], true.v) <= most
    return plan


# ---- stiff systems -----------------------------------------------------------------------------------------


def rough(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def uneven(n: int) -> sp.csr_array:
    """Diffusion on a line between cells whose conductances spread over three decades."""
    conductance = 10 ** np.random.default_rng(8).uniform(-1, 2, n + 1)
    middle = -(conductance[:-1] + conductance[1:])
    return csr(20 * sp.diags_array([conductance[1:-1], middle, conductance[1:-1]], offsets=[-1, 0, 1]))


def carried(n: int, peclet: float) -> sp.csr_array:
    """Advection and diffusion that depend on the place, on a line that loses nothing: not symmetrisable by little."""
    h = 1 / n
    speed = peclet * np.sin(2 * np.pi * np.arange(1, n) * h)
    right, left = 1 / h**2 + speed / (2 * h), 1 / h**2 - speed / (2 * h)
    return csr(sp.diags_array([right, -np.append(right, 0) - np.append(0, left), left], offsets=[-1, 0, 1]))


def stiff() -> list[Sparse]:
    n = 64
    ring = line(n, 1.0, -2.0, 1.0).tolil()
    ring[0, n - 1] = 1.5
    ring[n - 1, 0] = 0.5
    cases = {
        "heat on a line": (line(n, 2e4, -4e4, 2e4), np.array([0.02, 0.3, 1.0])),
        "heat in a plane": (plane(8, 3e3), np.array([0.002, 0.01])),
        "uneven diffusion": (uneven(n), np.array([0.05, 1.0])),
        "advection and diffusion": (carried(n, 10.0), np.array([0.01, 0.2])),
        "ring, not normal": (csr(3e3 * sp.csr_array(ring)), np.array([0.1, 1.0])),
        "complex rates": (csr(line(n, 4e3, -8e3, 4e3) * (1 + 0.2j)), np.array([0.02, 0.2])),
        "Hermitian, complex": (csr(line(n, 4e3, -8e3, 4e3) + 900j * line(n, 1.0, 0.0, -1.0)), np.array([0.02, 0.2])),
    }
    found = []
    for i, (name, (Xi, t)) in enumerate(cases.items()):
        z0 = rough(n, i)
        found.append(Sparse(name, Xi, z0 + 1j * rough(n, 50 + i) if np.iscomplexobj(Xi.data) else z0, t))
    return found


STIFF = stiff()
each_stiff = pytest.mark.parametrize("case", STIFF, ids=[case.name for case in STIFF])
OTHERS = [case for case in systems(60) if case.name not in (*REFUSED, *BEYOND)]


@each_stiff
@pytest.mark.parametrize("rtol", [1e-4, 1e-8, 1e-10, 1e-12])
def test_stiff_states_and_gradients_are_within_the_tolerance(case: Sparse, rtol: float):
    g = cotangents(case)
    check(case, rtol, truth(case, g), g)


@pytest.mark.parametrize("case", OTHERS, ids=[case.name for case in OTHERS])
def test_systems_of_all_kinds_are_within_the_tolerance(case: Sparse):
    g = cotangents(case)
    true = truth(case, g)
    for rtol in (1e-4, 1e-8, 1e-12):
        check(case, rtol, true, g)


@pytest.mark.parametrize("case", [STIFF[0], STIFF[3], STIFF[5]], ids=lambda case: case.name)
@pytest.mark.parametrize(("kind", "w"), [("phi1", 0.0), ("harmonic", -0.7), ("harmonic", 2j)])
def test_what_drives_a_stiff_system_is_within_the_tolerance(case: Sparse, kind: str, w: complex):
    g = cotangents(case)
    if complex(w).imag and not np.iscomplexobj(g):
        g = g + 0.5j * g[:, ::-1]
    v = rough(case.n, 90).astype(case.z0.dtype)
    true = truth(case, g, v, w)
    if not np.iscomplexobj(v):
        true = true._replace(v=true.v if complex(w).imag else np.real(true.v))
    for rtol in (1e-6, 1e-11):
        check(case, rtol, true, g, Term(v[:, None], kind, w))


def test_states_that_decay_by_twelve_digits_keep_their_relative_accuracy():
    case = Sparse("decay", line(64, 3e4, -6e4, 3e4), rough(64, 1), np.array([0.01, 0.4]))
    g = cotangents(case)
    true = truth(case, g)
    assert np.linalg.norm(true.z[1]) < 1e-12 * np.linalg.norm(case.z0)
    check(case, 1e-8, true, g)


def test_gradients_hold_where_the_initial_state_is_an_eigenvector():
    """A polynomial that is right on the spectrum only would give the states, and not these."""
    n = 60
    Xi = line(n, 2e3, -4e3, 2e3)
    z0 = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    case = Sparse("eigenvector", Xi, z0, np.array([0.05, 0.3]))
    g = cotangents(case)
    for rtol in (1e-6, 1e-10):
        check(case, rtol, truth(case, g), g)


def test_the_gradient_of_a_zero_initial_state_is_right():
    case = STIFF[0]
    zero = Sparse("zero", case.Xi, np.zeros(case.n), case.t)
    g = cotangents(case)
    plan = planned(case.Xi, case.t, 1e-10)
    answer, pullback = plan.record([Term(zero.z0[:, None])], case.t[None])
    values, (a,) = pullback(g[None])
    assert not answer.z.any()
    assert not values.any()
    assert answer.error[0] < 1e-10
    assert relative(a[:, 0], truth(zero, g).z0) < 1e-9


@each_stiff
def test_tangents_are_the_transpose_of_gradients(case: Sparse):
    rng = np.random.default_rng(5)
    g = cotangents(case)
    plan = planned(case.Xi, case.t, 1e-9)
    terms = [Term(case.z0[:, None]), Term(case.z0[::-1, None], "phi1")]
    dXi = rng.standard_normal(len(case.Xi.data)) * abs(case.Xi.data)
    dv = [rng.standard_normal((case.n, 1)).astype(case.z0.dtype) for _ in terms]
    _, pullback = plan.record(terms, case.t[None])
    values, of_vectors = pullback(g[None])
    z, dz = plan.jvp(terms, case.t[None], dXi, dv)
    sides = np.vdot(g, dz[0]).real, np.vdot(values, dXi).real + sum(np.vdot(a, x).real for a, x in zip(of_vectors, dv))
    assert math.isclose(*sides, rel_tol=1e-9)
    assert relative(z, plan.states(terms, case.t[None]).z) < 1e-14
    _, only_vectors = plan.jvp(terms, case.t[None], None, dv)
    other = plan.states([Term(x, term.kind) for x, term in zip(dv, terms)], case.t[None]).z
    assert relative(only_vectors, other) < 1e-8


# ---- times and columns -------------------------------------------------------------------------------------


def test_times_in_any_order_repeated_and_zero():
    case = STIFF[0]
    t = np.array([0.3, 0.0, 1.0, 0.02, 0.3, 0.0])
    z = planned(case.Xi, t, 1e-10).states([Term(case.z0[:, None])], t[None]).z[0]
    true = states(case.dense, case.z0, t)
    assert np.array_equal(z[1], case.z0)
    assert np.array_equal(z[5], case.z0)
    assert np.array_equal(z[0], z[4])
    assert max(relative(x, y) for x, y in zip(z, true)) < 1e-9


def test_only_the_time_zero_takes_no_solve():
    case = STIFF[0]
    t = np.zeros(3)
    plan = planned(case.Xi, t, 1e-8)
    answer, pullback = plan.record([Term(case.z0[:, None])], t[None])
    g = np.random.default_rng(1).standard_normal((1, 3, case.n))
    values, (a,) = pullback(g)
    assert plan.details["n_solves"] == 0
    assert not values.any()
    assert np.array_equal(answer.z[0], np.tile(case.z0, (3, 1)))
    assert np.allclose(a[:, 0], g[0].sum(0), rtol=1e-14)


def test_times_that_spread_by_many_decades_have_several_gammas():
    n = 64
    Xi = line(n, 2e6, -4e6, 2e6)
    t = np.array([0.0, *np.geomspace(1e-6, 1e-2, 9)])
    case = Sparse("spread", Xi, rough(n, 2), t)
    g = cotangents(case)
    plan = check(case, 1e-9, truth(case, g), g)
    gammas = plan.details["gamma"]
    assert 2 <= len(gammas) <= 4
    assert len(set(gammas)) == len(gammas)
    assert plan.details["n_solves"] < 80 * len(gammas)


def test_trajectories_with_times_of_their_own():
    case = STIFF[3]
    rng = np.random.default_rng(6)
    starts = rng.standard_normal((case.n, 3))
    t = np.array([[0.01, 0.2, 0.0], [0.05, 0.05, 0.1], [1e-4, 0.02, 0.2]])
    g = rng.standard_normal((3, 3, case.n))
    plan = planned(case.Xi, t, 1e-10, n_columns=3)
    answer, pullback = plan.record([Term(starts)], t)
    values, (a,) = pullback(g)
    trues = [truth(Sparse("one", case.Xi, starts[:, r], t[r]), g[r]) for r in range(3)]
    for r, true in enumerate(trues):
        assert relative(answer.z[r], true.z) < 1e-9
        assert relative(a[:, r], true.z0) < 1e-9
    assert relative(values, sum(true.values for true in trues)) < 1e-9
    shared = planned(case.Xi, t[1], 1e-10, n_columns=3).states([Term(starts)], t[1][None]).z
    for r in range(3):
        assert relative(shared[r], states(case.dense, starts[:, r], t[1])) < 1e-9


# ---- counts ------------------------------------------------------------------------------------------------


def solves(Xi: sp.csr_array, t: np.ndarray, rtol: float = 1e-8) -> tuple[int, int]:
    plan = planned(Xi, t, rtol)
    answer, pullback = plan.record([Term(rough(Xi.shape[0], 3)[:, None])], t[None])
    pullback(np.ones_like(answer.z))
    return plan.details["n_solves"], plan.details["n_transposed"]


@pytest.mark.parametrize("case", [STIFF[0], STIFF[3]], ids=lambda case: case.name)
def test_counts_are_the_same_in_every_run_and_in_reverse(case: Sparse):
    t = np.linspace(0.005, 0.1, 20)
    forward, reverse = solves(case.Xi, t)
    assert (forward, reverse) == solves(case.Xi, t)
    assert forward == reverse < 80


def test_counts_do_not_depend_on_the_number_of_times():
    t = np.linspace(0.01, 1.0, 201)
    n_solves = solves(STIFF[0].Xi, t)
    assert n_solves == solves(STIFF[0].Xi, t[::2]) == solves(STIFF[0].Xi, np.append(t, 0.5))


def test_counts_do_not_depend_on_stiffness():
    Xi = carried(200, 0.0)  # loses nothing: the slowest mode is constant
    counts = {s: solves(csr(s * Xi), np.array([0.5, 1.0]))[0] for s in (1.0, 1e2, 1e4)}
    assert max(counts.values()) <= 45
    assert max(counts.values()) - min(counts.values()) <= 15


def test_factors_are_kept_for_later_calls():
    case = STIFF[0]
    t = np.array([0.3, 0.6, 1.0])
    plan = planned(case.Xi, t, 1e-8)
    made = []
    own = plan.series.factor
    plan.series.factor = lambda gamma: made.append(gamma) or own(gamma)
    for scale in (1.0, 1.0, 0.9, 0.5):
        plan.states([Term(case.z0[:, None])], scale * t[None])
    assert not made
    t = 1e-4 * t
    z = plan.states([Term(case.z0[:, None])], t[None]).z[0]
    assert len(made) == 1
    assert relative(z, states(case.dense, case.z0, t)) < 1e-7


# ---- what can be factored ----------------------------------------------------------------------------------


def shuffled(A: sp.csr_array, seed: int) -> sp.csr_array:
    order = np.random.default_rng(seed).permutation(A.shape[0])
    return csr(A[order][:, order])


def test_profile_is_that_of_the_best_known_order():
    assert profile(shuffled(line(500, 1.0, -2.0, 1.0), 1)).entries == 499
    assert profile(csr(sp.eye_array(7))).entries == 0
    assert profile(csr(sp.csr_array((4, 4)))).entries == 0
    assert profile(csr(sp.csr_array(np.ones((6, 6))))).entries == 15
    assert profile(line(50, 1.0, -1.0, 0.0)).entries == 49  # of Xi and its transpose together
    grid = profile(shuffled(plane(30, 1.0), 2)).entries
    assert 900 * 10 < grid < 900 * 30


def wild(n: int) -> sp.csr_array:
    """Rates between random pairs."""
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, n, (2, 3 * n))
    A = sp.coo_array((np.ones(3 * n), (i, j)), shape=(n, n))
    A = csr(A + A.T)
    return csr(A - sp.diags_array(np.asarray(A.sum(1)).ravel()))


def refusal(Xi: sp.csr_array, t_max: float = 1.0, method: Rational | None = None) -> str:
    plan: LargePlan = (method or Rational()).plan_large(linear(Xi), Task(t_max, 3, 1, 1e-8, True))
    assert not plan.is_accepted
    with pytest.raises(TypeError, match="refused"):
        plan.states([], np.zeros((1, 0)))
    return plan.reason


def test_a_pattern_that_would_fill_up_is_refused_before_it_is_factored(monkeypatch):
    monkeypatch.setattr(factor, "splu", lambda *_, **__: pytest.fail("factored"))
    Xi = wild(20_000)
    assert "profile" in refusal(Xi, 1e4)
    assert "fill up" in refusal(Xi, 1e4)
    seconds, words = Rational().cost_large(linear(Xi), Task(1e4, 3, 1, 1e-8, True))
    assert seconds == math.inf
    assert "fill up" in words


def test_factors_larger_than_the_memory_are_refused(monkeypatch):
    Xi = plane(60, 1e6)
    assert Rational().plan_large(linear(Xi), Task(1.0, 3, 1, 1e-8, True)).is_accepted
    monkeypatch.setattr(factor, "machine_memory", lambda: 1e6)
    assert "GB" in refusal(Xi)


def test_bounds_of_the_fill_hold():
    for Xi in (line(300, 1.0, -2.0, 1.0), plane(20, 1.0), wild(200)):
        found = profile(Xi)
        assert Factors(Xi, 0.1).fill * found.bytes_per_entry <= found.memory + 24 * found.n


def test_what_cannot_converge_is_refused_with_the_reason():
    n = 60
    assert "skew" in refusal(line(n, -1e3, 0.0, 1e3))
    assert "skew" in refusal(csr(1j * line(n, 1e3, -2e3, 1e3)))
    assert "grow" in refusal(csr(line(n, 1.0, -2.0, 1.0) + 1e3 * sp.eye_array(n)))
    assert "waves" in refusal(csr(line(n, -1e4, 0.0, 1e4) - 5.0 * sp.eye_array(n)))


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.inf, math.nan, "a", True])
def test_gamma_must_be_a_time(gamma):
    with pytest.raises(OptionError, match="gamma must be a finite number above 0 or None"):
        Rational(gamma=gamma)


def test_a_gamma_that_was_given_is_the_only_one():
    case = STIFF[0]
    plan = planned(case.Xi, case.t, 1e-8, Rational(gamma=0.011))
    z = plan.states([Term(case.z0[:, None])], case.t[None]).z[0]
    assert plan.details["gamma"] == (0.011,)
    assert relative(z, states(case.dense, case.z0, case.t)) < 1e-7
    growing = csr(line(60, 1.0, -2.0, 1.0) + 5.0 * sp.eye_array(60))
    assert "1 / gamma" in refusal(growing, method=Rational(gamma=0.5))


# ---- operators ---------------------------------------------------------------------------------------------


def operator(Xi: sp.csr_array, **about) -> Functions:
    eye, adjoint = sp.eye_array(Xi.shape[0]), Xi.conj().T
    return Functions(
        lambda X: Xi @ X,
        Xi.shape[0],
        rmatvec=lambda Y: adjoint @ Y,
        dtype=Xi.dtype,
        **{
            "solve": lambda gamma, X: sp.linalg.splu(sp.csc_array(eye - gamma * Xi)).solve(X),
            "rsolve": lambda gamma, X: sp.linalg.splu(sp.csc_array(eye - gamma * adjoint)).solve(X),
            **about,
        },
    )


@pytest.mark.parametrize("case", [STIFF[0], STIFF[3], STIFF[6]], ids=lambda case: case.name)
def test_operators_with_a_solve_are_as_accurate(case: Sparse):
    is_hermitian = case is not STIFF[3]
    d = case.Xi.data.copy()
    A = operator(
        case.Xi,
        is_hermitian=is_hermitian,
        bounds=(-3e4, 300.0) if case is STIFF[6] else None,
        vjp=lambda Y, X: [np.einsum("nk,nk->", Y.conj(), case.Xi @ X).real],
    )
    plan = Rational().plan_large(A, task_of(case.t, 1e-9))
    assert plan.is_accepted, plan.reason
    g = cotangents(case)
    answer, pullback = plan.record([Term(case.z0[:, None])], case.t[None])
    (scale,), (a,) = pullback(g[None])
    true = truth(case, g)
    assert relative(answer.z[0], true.z) < 1e-8
    assert relative(a[:, 0], true.z0) < 1e-8
    assert math.isclose(scale, np.vdot(true.values, d).real, rel_tol=1e-7)


def test_operators_without_what_is_needed_are_refused():
    case = STIFF[3]
    task = task_of(case.t, 1e-8)
    assert "solve" in Rational().plan_large(operator(case.Xi, solve=None), task).reason
    one_way = operator(case.Xi, rsolve=None)
    assert "rsolve" in Rational().plan_large(one_way, task).reason
    plan = Rational().plan_large(one_way, task._replace(wants_gradient=False))
    assert plan.is_accepted
    with pytest.raises(NotDifferentiableError, match="rsolve"):
        plan.vjp([Term(case.z0[:, None])], case.t[None], cotangents(case)[None])
    wrong = operator(case.Xi, solve=lambda gamma, X: X)
    assert "residual" in Rational().plan_large(wrong, task).reason


def test_a_solve_that_is_not_finite_is_named_by_its_number():
    case, calls = STIFF[0], []
    right = operator(case.Xi, is_hermitian=True)

    def solve(gamma: float, X: np.ndarray) -> np.ndarray:
        calls.append(gamma)
        return right.solve(gamma, X) * (np.nan if len(calls) == 4 else 1)  # the first is the check

    with pytest.raises(NonFiniteError, match="solve number 3"):
        Rational().plan_large(operator(case.Xi, is_hermitian=True, solve=solve, rsolve=None), task_of(case.t, 1e-8))


# ---- guards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [7, 9, 30])
def test_a_state_that_decays_below_what_rounding_leaves_is_reported(mode: int):
    """Fast modes decay; what rounding leaves of slow ones stays."""
    n = 60
    Xi = line(n, 2e3, -4e3, 2e3)
    z0 = np.sin(np.pi * mode * np.arange(1, n + 1) / (n + 1))
    t = np.array([0.002, 0.1])
    answer = planned(Xi, t, 1e-8).states([Term(z0[:, None])], t[None])
    assert answer.trouble == "DECAY"
    error = max(relative(z, true) for z, true in zip(answer.z[0], states(Xi.toarray(), z0, t)))
    assert 1e-7 < error < 10 * answer.error[0]


def test_rounding_of_a_stiff_system_is_in_the_error_estimate():
    Xi = line(64, 1e9, -2e9, 1e9)
    t = np.array([0.5, 1.0])
    answer = planned(Xi, t, 1e-12).states([Term(rough(64, 1)[:, None])], t[None])
    assert answer.error[0] >= 4e9 * EPS / 2


def test_one_state_and_a_zero_matrix():
    for Xi, z in ((csr(sp.csr_array(np.array([[-3.0]]))), math.exp(-1.5)), (csr(sp.csr_array((1, 1))), 1.0)):
        t = np.array([0.5])
        answer, pullback = planned(Xi, t, 1e-10).record([Term(np.ones((1, 1)))], t[None])
        values, (a,) = pullback(np.ones((1, 1, 1)))
        assert math.isclose(answer.z[0, 0, 0], z, rel_tol=1e-9)
        assert math.isclose(a[0, 0], z, rel_tol=1e-9)
        assert np.allclose(values, 0.5 * z, rtol=1e-9)


# ---- the choice --------------------------------------------------------------------------------------------


def costs(A: Linear, task: Task) -> tuple[float, float]:
    return Faber().cost_large(A, task)[0], Rational().cost_large(A, task)[0]


def test_the_cost_is_least_where_xi_is_stiff():
    m = 100
    for wants_gradient in (False, True):
        A = linear(plane(m, 1.0))
        by_products, by_solves = costs(A, Task(1e2, 10, 1, 1e-8, wants_gradient))
        assert by_products < by_solves
        by_products, by_solves = costs(A, Task(1e6, 10, 1, 1e-8, wants_gradient))
        assert by_solves < by_products


def test_the_pattern_is_not_ordered_where_products_must_be_cheaper(monkeypatch):
    monkeypatch.setattr("linode.methods.rational.profile", lambda Xi: pytest.fail("ordered"))
    seconds, words = Rational().cost_large(linear(plane(100, 1.0)), Task(1.0, 10, 1, 1e-8, False))
    assert 0 < seconds < math.inf
    assert "not stiff" in words


# ---- ranges and points -------------------------------------------------------------------------------------


def test_the_hull_holds_all_points_and_its_corners_are_among_them():
    rng = np.random.default_rng(4)
    points = rng.standard_normal(40) + 1j * rng.standard_normal(40)
    corners = leja.hull(np.concatenate([points, points[:5]]))
    assert set(corners.tolist()) <= set(points.tolist())
    edges = np.roll(corners, -1) - corners
    assert ((edges.conj()[:, None] * (points - corners[:, None])).imag >= -1e-12).all()


@pytest.mark.parametrize("is_complex", [False, True])
def test_newton_polynomials_are_near_a_function_and_its_derivative_on_the_whole_set(is_complex: bool):
    rng = np.random.default_rng(2)
    H = 0.4 * np.eye(6) + 0.05 * rng.standard_normal((6, 6))
    if is_complex:
        H = H + 0.05j * rng.standard_normal((6, 6))
    K = leja.region(H, np.inf)
    assert K is not None
    assert K.is_symmetric != is_complex
    newton = leja.Newton(K)

    def f(r: np.ndarray) -> np.ndarray:
        return np.exp(5 * (1 - 1 / np.where(r == 0, 1e-300, r)))

    C, error = newton.approximations(f(newton.z)[None], 200)
    assert error < 1e-14
    samples = K.samples
    inner = np.concatenate([0.3 * samples + 0.7 * samples[7], samples[1:] * 0.99])
    inner = inner[abs(inner) > 0]

    def p(r: np.ndarray) -> np.ndarray:
        before, now, total = np.zeros_like(r), np.ones_like(r), np.zeros_like(r)
        for k, c in enumerate(C[0]):
            total = total + c * now
            if k < len(newton.c):
                before, now = now, ((r - newton.c[k]) * now) / newton.s[k] - newton.tau[k] * before
        return total

    largest = abs(f(samples[1:])).max()
    assert abs(p(inner) - f(inner)).max() < 1e-13 * largest
    step = 1e-5
    slope = (p(inner + step) - p(inner - step)) / (2 * step)
    true = 5 / inner**2 * f(inner)
    assert abs(slope - true).max() < 1e-6 * abs(true).max()


def test_a_range_that_reaches_the_left_half_plane_is_none():
    assert leja.region(np.array([[0.1, 1.0], [0.0, 0.1]]), np.inf) is None
