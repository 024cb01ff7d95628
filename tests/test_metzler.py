"""Matrices without a negative entry off the diagonal: every component, however small, against ball arithmetic.

Errors are relative to each entry, not to a norm. Rates spread over up to sixteen powers of ten.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from flint import arb, ctx

import linode
import linode.nn
from linode import LinearODE, MethodError
from linode.methods import Auto, Workload, metzler
from tests import oracles
from tests.accuracy import differentiate, lines_of, linode_method, score
from tests.balls import matrix
from tests.case_builders import generator
from tests.cases import CASES

TOLERANCE = 1e-12  # of every component
DECADES = 16  # between the slowest and the fastest rate
LEAST = 1e-290  # truths below it are only asked to come out as small
YEAR = 365.25 * 86400
HALF_LIVES = [4.468e9 * YEAR, 24.1 * 86400, 70.2, 2.455e5 * YEAR, 7.54e4 * YEAR, 1600 * YEAR, 3.82 * 86400]
HALF_LIVES += [186.0, 1608.0, 1194.0, 1.643e-4, 22.3 * YEAR, 5.01 * 86400, 138.4 * 86400]  # uranium-238 to lead-206


def chain(rates: np.ndarray) -> np.ndarray:
    """Each state decays into the next; the last is stable."""
    return np.diag([*-rates, 0.0]) + np.diag(rates, -1)


def closed(flows: np.ndarray, outflows: Any = 0.0) -> np.ndarray:
    """Xi of flows from column to row, and of outflows."""
    flows = flows * (1 - np.eye(len(flows)))
    return flows - np.diag(flows.sum(0) + outflows)


URANIUM = chain(np.log(2) / np.array(HALF_LIVES))


def unit(n: int, i: int = 0) -> np.ndarray:
    return np.eye(n)[i]


def problem(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Xi, z0 >= 0 and three times between the fastest and the slowest rate."""
    rng = generator(f"metzler {kind} {seed}")
    n, decades = int(rng.integers(3, 16)), rng.choice([1.0, 4.0, 8.0, DECADES])
    top = rng.uniform(-4, 4)
    rates = lambda *shape: 10.0 ** rng.uniform(top - decades, top, shape)  # noqa: E731
    sparse = rng.random((n, n)) < 0.3
    Xi = {
        "chain": lambda: chain(rates(n - 1)),
        "queue": lambda: closed(np.diag(rates(n - 1), 1) + np.diag(rates(n - 1), -1)),
        "compartments": lambda: closed(rates(n, n), rates(n)),
        "sparse compartments": lambda: closed(rates(n, n) * sparse, rates(n) * (rng.random(n) < 0.3)),
        "rows": lambda: closed(rates(n, n)).T.copy(),
    }[kind]()
    z0 = unit(n, int(rng.integers(n))) if rng.random() < 0.7 else rng.random(n)
    return Xi, z0, 10.0 ** rng.uniform(-top - 3, -top + decades / 2 + 1, 3)


KINDS = ("chain", "queue", "compartments", "sparse compartments", "rows")
PROBLEMS = [(kind, seed) for kind in KINDS for seed in range(8)]
every_problem = pytest.mark.parametrize(("kind", "seed"), PROBLEMS)


@cache
def truth(kind: str, seed: int) -> np.ndarray:
    return states(*problem(kind, seed))


def states(Xi: np.ndarray, z0: np.ndarray, t: Any) -> np.ndarray:
    """Balls of 3000 bits, so that the smallest components have digits too."""
    with ctx.workprec(3000):
        A, start = matrix(np.asarray(Xi, float)), matrix(np.asarray(z0, float)[:, None])
        return np.array([[float(x.mid()) for x in ((A * arb(float(s))).exp() * start).entries()] for s in t])


def error(got: np.ndarray, true: np.ndarray) -> float:
    """The largest relative error of an entry."""
    is_tiny = np.abs(true) < LEAST
    assert np.all(np.abs(got[is_tiny]) <= 10 * LEAST)
    return float(np.max(np.abs(got - true)[~is_tiny] / np.abs(true)[~is_tiny], initial=0.0))


# ---- states --------------------------------------------------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("method", ["auto", "metzler"])
def test_every_component_is_accurate_and_none_is_negative(kind: str, seed: int, method: str):
    Xi, z0, t = problem(kind, seed)
    ode = LinearODE(Xi, z0, method=method)
    z, true = ode(t), truth(kind, seed)
    if ode.decomposition.method != "metzler":  # rates alike, few steps apart: no component was found to be small
        flows = Xi[(Xi > 0) & ~np.eye(len(Xi), dtype=bool)]
        assert flows.min() >= 1e-3 * np.abs(Xi).max()
        assert np.all(np.abs(z - true) <= 1e-14 * np.abs(true).max(1, keepdims=True))
        return
    assert error(z, true) <= TOLERANCE
    assert np.all(z >= 0)


@pytest.mark.parametrize("years", [1.0, 4.5e9])
def test_amounts_of_a_nuclide_chain_keep_their_digits_over_a_year_and_the_age_of_the_earth(years: float):
    ode = LinearODE(URANIUM, unit(15))
    solution = ode.solve([years * YEAR])
    assert solution.method == "metzler"
    assert error(solution.z, states(URANIUM, unit(15), [years * YEAR])) <= 1e-13
    assert abs(solution.z.sum() - 1) <= 1e-14


def test_many_times_of_a_nuclide_chain_are_as_accurate_as_few():
    t = np.geomspace(1e-3, 1e18, 60)
    assert error(LinearODE(URANIUM, unit(15))(t), states(URANIUM, unit(15), t)) <= 1e-13


def test_times_between_few_nodes_are_as_accurate_as_scattered_ones(monkeypatch: pytest.MonkeyPatch):
    Xi, z0, t = closed(np.diag([1e-4, 2.0, 1e-9], -1)), unit(4), np.linspace(0.0, 4.0, 500)
    z = LinearODE(Xi, z0, method="metzler")(t)
    few = slice(1, None, 50)
    assert error(z[few], states(Xi, z0, t[few])) <= 1e-13
    monkeypatch.setattr(metzler, "PART_ENTRIES", 1000)  # times in parts
    assert error(LinearODE(Xi, z0, method="metzler")(t), z) <= 1e-14


def test_states_that_only_long_ways_reach_have_their_first_digits_at_early_times():
    n = 40
    Xi = np.diag(np.ones(n - 1), -1)
    z = LinearODE(Xi, unit(n), method="metzler")([1e-3, 0.3])
    factorials = np.array([math.factorial(k) for k in range(n)], float)
    assert error(z, np.array([[t**k for k in range(n)] for t in (1e-3, 0.3)]) / factorials) <= 1e-14


def test_starts_of_both_signs_have_errors_that_are_parts_of_what_their_moduli_become():
    for kind, seed in PROBLEMS[::5]:
        Xi, _, t = problem(kind, seed)
        z0 = generator("signs").standard_normal(len(Xi))
        got, true, size = LinearODE(Xi, z0, method="metzler")(t), states(Xi, z0, t), states(Xi, np.abs(z0), t)
        assert np.all(np.abs(got - true) <= 1e-13 * size + 10 * LEAST)


# ---- what is conserved -------------------------------------------------------------------------------------------


def stationary(Xi: np.ndarray) -> np.ndarray:
    """The distribution that stays, from the flows alone: cofactors by balls."""
    n = len(Xi)
    with ctx.workprec(400):
        A = matrix(Xi)
        for j in range(n):
            A[j, j] = -sum((A[i, j] for i in range(n) if i != j), arb(0))
        for j in range(n):
            A[n - 1, j] = 1
        return np.array([float(x.mid()) for x in A.solve(matrix(unit(n, n - 1)[:, None])).entries()])


@pytest.mark.parametrize("is_exact", [True, False])
@pytest.mark.parametrize("t", [1e20, 1e300])
def test_late_columns_of_a_generator_are_its_stationary_distribution(t: float, is_exact: bool):
    """Also where column sums are what rounding left of 0: the states would grow or die out long before."""
    flows = 10.0 ** generator("stationary").uniform(-3, 2, (4, 4))
    Xi = closed(np.round(flows * 2**20) / 2**20 if is_exact else flows)
    assert np.any(np.array([np.array([*map(float, column)]).sum() for column in Xi.T]) != 0) or is_exact
    P = LinearODE(Xi, unit(4)).propagator(t)
    for column in P.T:
        assert error(column, stationary(Xi)) <= 1e-13
    assert np.all(np.abs(P.sum(0) - 1) <= 1e-15)


@pytest.mark.parametrize("kind", ["queue", "rows"])
def test_sums_that_a_generator_keeps_are_kept(kind: str):
    for seed in range(8):
        Xi, _, _ = problem(kind, seed)
        t = 10.0 / np.abs(Xi).max()
        P = LinearODE(Xi, unit(len(Xi)), method="metzler").propagator(t)
        assert np.all(np.abs(P.sum(1 if kind == "rows" else 0) - 1) <= 1e-14)


def test_a_slow_loss_beside_fast_exchange_is_not_lost():
    fast, slow = 2.0**20, 2.0**-30  # exact sums
    Xi = np.array([[-fast - slow, fast], [fast, -fast]])
    assert Xi.sum(0).tolist() == [-slow, 0.0]
    t = [2.0**30, 2.0**34]
    assert error(LinearODE(Xi, [1.0, 1.0], method="metzler")(t), states(Xi, [1.0, 1.0], t)) <= 1e-14


# ---- growth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "coupling"), [(5, 1e9), (6, 1e9), (6, 1e6), (8, 1e6), (10, 1e4)])
def test_graded_couplings_have_the_values_of_their_closed_form(n: int, coupling: float):
    z = LinearODE(coupling * np.eye(n, k=1) - np.eye(n), np.ones(n))([1.0])[0]
    with ctx.workprec(300):
        terms = [arb(coupling) ** k / arb(k).fac_ui(k) for k in range(n)]
        true = [float((sum(terms[: n - i], arb(0)) * arb(-1).exp()).mid()) for i in range(n)]
    assert error(z, np.array(true)) <= 1e-14


@pytest.mark.parametrize(
    "Xi",
    [
        [[1.0, 1e4], [0.0, -1.0]],
        [[0.0, 1.0], [0.0, 0.0]],
        [[2.0, 1e-8], [1e8, 1.0]],
        [[-1.0, 1e100], [0.0, -1.0]],
        np.abs(generator("growth").standard_normal((6, 6))),
    ],
    ids=["overscaled", "integrator", "graded", "1e100", "dense"],
)
def test_growing_states_are_accurate(Xi: Any):
    z0, t = np.ones(len(Xi)), [0.1, 1.0, 30.0]
    assert error(LinearODE(Xi, z0, method="metzler")(t), states(Xi, z0, t)) <= 1e-13


def test_a_constant_inflow_is_an_augmented_system_of_this_kind():
    Xi, b = closed(np.diag([1e-6, 50.0], -1), [0.0, 0.0, 1e-2]), [1e5, 0.0, 1e-9]
    t = [1e-3, 10.0, 1e4]
    with ctx.workprec(300):
        whole = np.zeros((4, 4))
        whole[:3, :3], whole[:3, 3] = Xi, b
    assert error(LinearODE(Xi, np.zeros(3), b=b)(t), states(whole, unit(4, 3), t)[:, :3]) <= 1e-12


def test_states_that_grow_past_any_float_are_left_to_others():
    Xi = [[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1e-9, -1.0]]
    with pytest.raises(MethodError, match=r"states grow by up to exp\(.* t\)"):
        LinearODE(Xi, [1.0, 0.0, 0.0], method="metzler")([400.0])
    assert LinearODE(Xi, [1.0, 0.0, 0.0])([400.0]).tolist() == [[np.inf] * 3]


# ---- gradients -----------------------------------------------------------------------------------------------------


def gradients(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S and a by balls of 3000 bits."""
    with ctx.workprec(3000):
        S, a, _ = oracles._gradient_balls(matrix(Xi), z0, t, g)
        return np.array([float(x.mid()) for x in S]).reshape(Xi.shape), np.array([float(x.mid()) for x in a])


def by_autograd(Xi: np.ndarray, z0: np.ndarray, t: np.ndarray, g: np.ndarray, **options: Any) -> list[np.ndarray]:
    X, start = (torch.tensor(x, requires_grad=True) for x in (Xi, z0))
    z = LinearODE(X, start, **options)(torch.tensor(t))
    return [x.numpy() for x in torch.autograd.grad((z * torch.tensor(g)).sum(), (X, start))]


GRADED = [("chain", 0), ("queue", 1), ("compartments", 2), ("sparse compartments", 3), ("rows", 4)]


@pytest.mark.parametrize(("kind", "seed"), GRADED)
@pytest.mark.parametrize("is_signed", [False, True])
def test_every_entry_of_a_gradient_is_accurate_and_cancels_only_by_signs_of_the_cotangent(
    kind: str, seed: int, is_signed: bool
):
    Xi, z0, t = problem(kind, seed)
    g = generator("cotangents").standard_normal((3, len(Xi)))
    g = g if is_signed else np.abs(g)
    sizes = gradients(Xi, z0, t, np.abs(g))
    for got, true, size in zip(by_autograd(Xi, z0, t, g, method="metzler"), gradients(Xi, z0, t, g), sizes):
        assert np.all(np.abs(got - true) <= TOLERANCE * size + 10 * LEAST)


def test_gradients_of_a_nuclide_chain_over_a_year_keep_every_entry():
    t, g = np.array([YEAR]), np.ones((1, 15)) * np.arange(1, 16)
    for got, true in zip(by_autograd(URANIUM, unit(15), t, g), gradients(URANIUM, unit(15), t, g)):
        assert error(got, true) <= 1e-13


def test_gradients_of_growing_states_keep_every_entry():
    Xi, t, g = np.diag([2.0, -1.0, -2.0]) + np.diag([0.0, 1.0], -1), np.array([60.0]), np.ones((1, 3))
    for got, true in zip(by_autograd(Xi, np.ones(3), t, g, method="metzler"), gradients(Xi, np.ones(3), t, g)):
        assert error(got, true) <= 1e-13


def test_many_times_have_the_gradient_of_their_sum(monkeypatch: pytest.MonkeyPatch):
    Xi, z0, t = closed(np.diag([1e-4, 2.0, 1e-9], -1), 0.1), unit(4), np.linspace(0.0, 4.0, 400)
    g = np.ones((400, 4))
    whole = by_autograd(Xi, z0, t, g, method="metzler")
    for got, true in zip(whole, gradients(Xi, z0, t, g)):
        assert error(got, true) <= 1e-13
    monkeypatch.setattr(metzler, "PART_ENTRIES", 1000)
    for got, same in zip(by_autograd(Xi, z0, t, g, method="metzler"), whole):
        assert error(got, same) <= 1e-13


# ---- batches, transforms and the plan ------------------------------------------------------------------------------


def test_systems_of_a_batch_are_what_they_are_alone():
    chosen = [problem(kind, 1) for kind in KINDS]
    n = max(len(Xi) for Xi, _, _ in chosen)
    systems, starts = np.zeros((len(chosen), n, n)), np.zeros((len(chosen), n))
    for s, (Xi, z0, _) in enumerate(chosen):
        systems[s, : len(Xi), : len(Xi)], starts[s, : len(Xi)] = Xi, z0
    t = np.stack([t for _, _, t in chosen])
    together = LinearODE(systems, starts, method="metzler")(t)
    for s in range(len(chosen)):
        alone = LinearODE(systems[s], starts[s], method="metzler")(t[s])
        assert error(together[s], alone) <= 1e-13


def test_auto_takes_it_for_the_systems_of_a_batch_that_need_it():
    dense = closed(generator("narrow").uniform(0.5, 2.0, (15, 15)))
    systems = np.stack([URANIUM, dense, -np.abs(dense)])
    t = np.array([[1.0], [1.0], [0.1]])
    ode = LinearODE(systems, np.ones((3, 15)) / 15)
    z = ode(t)
    assert "metzler[1]" in ode.decomposition.details
    assert "1 systems by metzler" in ode.explain()
    assert error(z[0], states(URANIUM, np.ones(15) / 15, t[0])) <= 1e-13
    for s in (1, 2):
        true = states(systems[s], np.ones(15) / 15, t[s])
        assert np.linalg.norm(z[s] - true) <= 1e-13 * np.linalg.norm(true)


def test_the_plan_of_the_adjoint_shares_the_powers_and_is_as_accurate():
    Xi, z0, t = problem("compartments", 3)
    plan = linode.methods.Metzler().plan(torch.tensor(Xi)[None], None, Workload(1, 1, 3, len(Xi), 1.0, float(t.max())))
    z = plan.adjoint().evaluate(torch.tensor(z0)[None, None], torch.tensor(t)[None, None])[0, 0].numpy()
    assert error(z, states(Xi.T, z0, t)) <= TOLERANCE
    both = plan.subset(torch.tensor([0, 0]))
    assert both.accepted.tolist() == [True, True]
    assert "no negative entry" in both.reason


def test_transforms_and_second_derivatives_see_the_same_gradients():
    Xi, z0, t = (torch.tensor(x) for x in (closed(np.eye(3) + 0.5, 0.3), unit(3), np.array([0.5, 2.0])))
    f = lambda X: LinearODE(X, z0, method="metzler")(t)  # noqa: E731
    true = torch.func.jacrev(lambda X: LinearODE(X, z0, method="propagator")(t))(Xi)
    assert torch.allclose(torch.func.jacrev(f)(Xi), true, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradgradcheck(f, Xi.clone().requires_grad_())


def test_a_plan_for_one_time_serves_others_and_makes_another_where_it_must():
    ode = LinearODE([[1.0, 1e4], [0.0, -1.0]], [1.0, 1.0], method="metzler")
    for t in (1e-6, 1.0, 200.0, 1e-3):
        assert error(ode([t]), states([[1.0, 1e4], [0.0, -1.0]], [1.0, 1.0], [t])) <= 1e-12


# ---- what it refuses, and the choice -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "Xi",
    [[[1.0, -1.0], [1.0, 1.0]], [[1j, 0.0], [0.0, 1.0]], [[-1.0, 1e300], [1.0, -1.0]]],
    ids=["sign", "complex", "size"],
)
def test_other_matrices_are_refused_with_the_reason(Xi: Any):
    with pytest.raises(
        MethodError, match=r"'metzler' cannot be accurate.*negative entry off its diagonal.*'propagator'"
    ):
        LinearODE(Xi, [1.0, 1.0], method="metzler")([1.0])


def test_times_before_0_are_refused_by_name_and_left_to_others_by_auto():
    Xi = chain(np.array([1e-3, 1e3]))
    with pytest.raises(MethodError, match="'metzler'"):
        LinearODE(Xi, unit(3), method="metzler")([-1e-3])
    true = oracles.trajectory(Xi, unit(3), np.array([-1e-3, 1.0]))
    assert np.allclose(LinearODE(Xi, unit(3))([-1e-3, 1.0]), true, rtol=0, atol=1e-13)


def test_ordinary_problems_keep_their_fast_methods():
    rng = generator("ordinary")
    for Xi in (rng.standard_normal((6, 6)), closed(rng.uniform(0.1, 2, (6, 6)), 0.1), chain(np.array([0.2, 0.1, 0.5]))):
        assert LinearODE(Xi, np.ones(len(Xi))).solve(np.linspace(0, 5, 200)).method in ("chain", "eig")


def test_the_hard_cases_of_this_kind_pass_entry_by_entry():
    own = [case for case in CASES if case.name.startswith(("bateman", "absorbing", "birth", "decay"))]
    assert len(own) > 5
    for case in own:
        flows = case.Xi[~np.eye(len(case.Xi), dtype=bool)]
        if not np.iscomplexobj(flows) and flows.min() >= 0 and case.t.min() >= 0:
            record = score(case, *linode_method("metzler")(case))
            assert record.passes_componentwise, lines_of(record)


def test_few_states_whose_rounding_shows_go_to_doubled_precision_and_many_say_what_was_traded():
    rng = generator("traded")
    V = rng.standard_normal((12, 12))
    Xi, z0 = V @ np.diag(-np.geomspace(1, 1e6, 12)) @ np.linalg.inv(V), rng.standard_normal(12)
    ode, true = LinearODE(Xi, z0), oracles.trajectory(Xi, z0, np.array([1.0]))
    solution = ode.solve([1.0])
    assert solution.method == "propagator"
    assert np.linalg.norm(solution.z - true) <= 1e-14 * np.linalg.norm(true)
    assert any(reason.startswith("eig: rounding of") for reason in solution.stats.rejected)
    many = LinearODE(Xi, z0).solve(np.linspace(0, 1, 300))
    assert many.method == "eig"
    assert "'propagator' leaves less" in many.stats.reason
    only = LinearODE(Xi, z0, method=Auto(candidates=("eig", "chain"))).solve([1.0])
    assert only.method == "eig"
    assert LinearODE(Xi, z0, rtol=1e-6).solve([1.0]).method == "eig"


def test_ordinary_methods_say_nothing_of_trades():
    assert "rounding may" not in LinearODE([[0.0, 1.0], [-1.0, -0.1]], [1.0, 0.0]).explain([0.0, 10.0])


# ---- layers --------------------------------------------------------------------------------------------------------


def test_a_compartmental_layer_keeps_small_amounts_and_their_gradients():
    layer = linode.nn.LinearDynamics(5, "compartmental").double()
    layer.Xi = torch.tensor(chain(np.array([1e3, 1e-2, 1e-6, 10.0])))
    Xi, z0, t = layer.Xi.detach(), torch.tensor(unit(5)), torch.tensor([1e-6, 1.0, 1e5], dtype=torch.float64)
    z = layer(z0, t)
    assert error(z.detach().numpy(), states(Xi.numpy(), unit(5), t.tolist())) <= TOLERANCE
    (z.log().sum()).backward()
    (logarithms,) = layer.parameters()
    own = Xi.clone().requires_grad_()
    (S,) = torch.autograd.grad(LinearODE(own, z0, method="metzler")(t).log().sum(), own)
    assert bool(torch.isfinite(logarithms.grad).all())
    assert bool(torch.isfinite(S).all())
    assert bool((z >= 0).all())


def test_gradients_agree_with_the_engine_where_times_have_them():
    case = next(case for case in CASES if case.name.startswith("bateman"))
    _, S, a, dt = differentiate(case, lambda Xi, z0, t: LinearODE(Xi, z0, method="metzler")(t))
    true = oracles.gradients(case.Xi, case.z0, case.t, case.g)
    for got, expected in zip((S, a, dt), true):
        assert np.linalg.norm(got - expected) <= 1e-11 * np.linalg.norm(expected)


@pytest.mark.parametrize("method", ["metzler", Auto(candidates=("metzler",))], ids=["by name", "auto"])
def test_that_negative_times_are_what_is_refused_is_said(method: object):
    """-Xi has negative entries off its diagonal: Xi itself is not to blame."""
    ode = LinearODE([[-1.0, 1.0], [1.0, -1.0]], [1.0, 0.0], method=method)
    with pytest.raises(MethodError, match=r"times before 0 take -Xi in the place of Xi, and with -Xi .* is"):
        ode([-1.0, 1.0])
    assert ode([1.0]).shape == (1, 2)
