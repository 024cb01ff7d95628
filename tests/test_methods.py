"""Methods as a user meets them: the choice and its reasons, the effect of every option, and errors."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from linode import LinearODE, MethodError
from linode.methods import Auto, Eig, Propagator, Schur, Workload, registry
from tests import oracles
from tests.accuracy import differentiate, relative_error, truth_of
from tests.case_builders import generator, jordan, rotated, similar
from tests.cases import CASES, Case

BY_NAME = {case.name: case for case in CASES}
NAMES = sorted(registry())
DEFECTIVE = rotated(generator("defective"), jordan(4, -0.5))
TIMES = np.linspace(0.0, 3.0, 7)


def with_kappa(kappa: float) -> np.ndarray:
    """Eigenvectors of 2-norm condition kappa."""
    return similar(generator(f"kappa {kappa}"), np.diag([-1.0, -0.5, 0.3, 0.7, -2.0]), kappa)


def solver(Xi: np.ndarray, **options: Any) -> LinearODE:
    return LinearODE(Xi, np.ones(len(Xi)), **options)


def error_of(case: Case, **options: Any) -> float:
    """Largest relative error of z and S."""
    z, S, *_ = differentiate(case, lambda Xi, z0, t: LinearODE(Xi, z0, **options)(t))
    truth = truth_of(case)
    return max(relative_error(z, truth.z, 1.0), relative_error(S, truth.gradients.S, 1.0))


def in_another_order(case: Case) -> Case:
    """In which Xi is not triangular: its powers have no closed forms."""
    order = [2, 0, 4, 1, 3]
    return replace(case, Xi=case.Xi[np.ix_(order, order)], z0=case.z0[order], g=case.g[:, order])


# ---- choice and explanation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "Xi", [np.diag([-1.0, 2.0]), with_kappa(3.0), DEFECTIVE], ids=["diagonal", "general", "defective"]
)
def test_explain_names_the_method_that_solves_and_its_reason(Xi: np.ndarray):
    ode = solver(Xi)
    solution, text = ode.solve(TIMES), ode.explain(TIMES)
    assert f"method: {solution.method}, because {solution.stats.reason}" in text
    assert len(solution.stats.reason) > 5


def test_explain_says_why_eigenvectors_were_passed_over_and_how_bad_they_are():
    text = solver(with_kappa(1e5)).explain()
    found = re.search(r"passed over: eig: kappa\(V\) = ([0-9.e+]+) > 1e\+03", text)
    assert found, text
    assert 1e5 / 5 < float(found[1]) < 1e5 * 5  # 1-norm against 2-norm, n = 5


@pytest.mark.parametrize("n", [3, 15])
def test_explain_shows_the_eigenvalues_of_every_system_of_a_batch(n: int):
    Xi = generator("shown").standard_normal((2, n, n))
    found = solver(Xi[0], method=Eig(max_condition=1e9)).decomposition.details["eigenvalues"]
    ode = LinearODE(Xi, np.ones(n), method=Eig(max_condition=1e9))
    assert ode.decomposition.details["eigenvalues"][0] == found[0]
    assert "eigenvalues (1/time):" in ode.explain()


def test_explain_passes_nothing_over_where_the_first_choice_applies():
    ode = solver(np.diag([-1.0, 2.0]))
    assert "passed over" not in ode.explain()
    assert ode.solve(TIMES).stats.rejected == ()
    assert "Xi is diagonal" in ode.explain()


@pytest.mark.parametrize("name", NAMES)
def test_explain_of_a_chosen_method_names_it(name: str):
    assert f"method: {'eig' if name == 'auto' else name}" in solver(np.diag([-1.0, 2.0]), method=name).explain()


@pytest.mark.parametrize("work", [Workload(1, 1, 10, 5, 3.0, 1.0), Workload(1, 1, 10**5, 5, 1e4, 1.0)])
def test_auto_takes_the_cheapest_of_the_methods_that_accept(work: Workload):
    for Xi in (with_kappa(3.0), with_kappa(1e3), DEFECTIVE):
        methods = [registry()[name]() for name in Auto().names]
        accepted = [m for m in methods if m.plan(torch.tensor(Xi)[None], None, work).is_accepted]
        plan = Auto().plan(torch.tensor(Xi)[None], None, work)
        assert plan.method == min(accepted, key=lambda m: m.cost(work)).name


@pytest.mark.parametrize("name", NAMES)
def test_cost_grows_with_every_part_of_the_work(name: str):
    method = registry()[name]()
    small, steps = (1, 1, 100, 100, 10.0, 1.0), (4, 4, 10**4, 1000, 1e8, 1.0)  # small n has checks of its own
    for i in range(4):
        more = [*small]
        more[i] = steps[i]
        assert method.cost(Workload(*more)) > method.cost(Workload(*small)) > 0


def test_a_mixed_batch_is_split_and_every_system_gets_its_own_method():
    systems = np.stack([DEFECTIVE, np.diag([-1.0, 2, 3, 4]), rotated(generator("x"), jordan(4, 0.2)), -np.eye(4)])
    method = Auto(candidates=("eig", "propagator"))
    Xi = torch.tensor(systems, requires_grad=True)
    ode = LinearODE(Xi, torch.ones(4, dtype=torch.float64), method=method)
    z = ode(torch.tensor(TIMES))
    plan = ode.decomposition
    assert sorted(plan.method.split("+")) == ["eig", "propagator"]
    assert sorted(plan.details) == ["eig[2]", "propagator[2]"]
    (S,) = torch.autograd.grad(z.square().sum(), Xi)
    for i, A in enumerate(systems):
        true = oracles.trajectory(A, np.ones(4), TIMES)
        assert relative_error(z[i].detach().numpy(), true, 1.0) < 1e-13
        assert relative_error(S[i].numpy(), oracles.gradients(A, np.ones(4), TIMES, 2 * true).S, 1.0) < 1e-12
    assert "2 systems by eig" in ode.explain()


# ---- options -----------------------------------------------------------------------------------------------


def test_max_condition_decides_which_eigenvectors_are_accepted():
    Xi = with_kappa(3000.0)
    with pytest.raises(MethodError, match=r"kappa\(V\) = .* > 1e\+03"):
        solver(Xi, method="eig")(TIMES)
    z = solver(Xi, method=Eig(max_condition=1e8))(TIMES)
    assert relative_error(z, oracles.trajectory(Xi, np.ones(5), TIMES), 1.0) < 1e-11
    with pytest.raises(MethodError, match="> 2"):
        solver(with_kappa(20.0), method=Eig(max_condition=2.0))(TIMES)


def test_doubled_precision_saves_the_digits_that_double_loses():
    case = in_another_order(BY_NAME["kl_p655"])
    double, doubled, auto = (error_of(case, method=Propagator(p)) for p in ("double", "double-double", "auto"))
    assert doubled < 1e-14
    assert auto < 1e-12
    assert double > 100 * auto


def test_rtol_lets_auto_accept_eigenvectors_that_are_good_enough():
    Xi = with_kappa(3e3)
    strict, loose = solver(Xi), solver(Xi, rtol=1e-6)
    assert strict.solve(TIMES).method != "eig"
    assert loose.solve(TIMES).method == "eig"
    assert relative_error(loose(TIMES), oracles.trajectory(Xi, np.ones(5), TIMES), 1.0) < 1e-6


def test_rtol_spares_the_propagator_doubled_precision():
    case = in_another_order(BY_NAME["kl_p655"])
    double = error_of(case, method=Propagator("double"))
    assert error_of(case, method="propagator") < 0.01 * double
    assert error_of(case, method="propagator", rtol=1e-3) == pytest.approx(double, rel=0.5)


def test_candidates_of_auto_are_the_only_ones_it_takes():
    for name in ("eig", "schur", "propagator"):
        assert solver(with_kappa(3.0), method=Auto(candidates=(name,))).solve(TIMES).method == name


def test_methods_with_equal_options_are_equal():
    assert Eig() == Eig(max_condition=1000.0) != Eig(max_condition=1001.0)
    assert Propagator() != Propagator("double")
    assert Schur() != Propagator()
    assert len({Eig(), Eig(1000.0), Schur(), Schur()}) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_method_object_without_options_is_its_name(name: str):
    ode, same = (solver(np.diag([-1.0, 2.0, 0.5]), method=m) for m in (name, registry()[name]()))
    assert np.array_equal(ode(TIMES), same(TIMES))
    assert registry()[name].name == name
    assert registry()[name].summary


# ---- errors ------------------------------------------------------------------------------------------------


def test_an_unknown_name_raises_and_lists_the_known_ones():
    with pytest.raises(MethodError) as raised:
        solver(DEFECTIVE, method="eigen")
    assert all(repr(name) in str(raised.value) for name in [*NAMES, "eigen"])


def test_what_is_neither_a_name_nor_a_method_raises_and_lists_the_names():
    with pytest.raises(MethodError, match="got int") as raised:
        solver(DEFECTIVE, method=3)
    assert all(repr(name) in str(raised.value) for name in NAMES)


def test_a_refusal_names_the_system_of_the_batch_and_an_alternative_that_works():
    systems = np.stack([np.diag([1.0, 2, 3, 4]), np.eye(4), DEFECTIVE])
    with pytest.raises(MethodError, match=r"system 2 of the batch.*use method='propagator'"):
        LinearODE(systems, np.ones(4), method="eig")(TIMES)
    assert np.isfinite(LinearODE(systems, np.ones(4), method="propagator")(TIMES)).all()
