"""Adding a method is registering it: names, explanations, `auto` and the contract tests then know it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from linode import LinearODE, MethodError
from linode.methods import Auto, Method, Plan, Workload, auto, register, registry
from tests.accuracy import lines_of, linode_method, score
from tests.case_builders import generator, jordan, rotated
from tests.cases import CASES

BY_NAME = {case.name: case for case in CASES}
NAMES = sorted(registry())
DEFECTIVE = rotated(generator("defective"), jordan(4, -0.5))
TIMES = np.linspace(0.0, 3.0, 7)


def solver(Xi: np.ndarray, **options: Any) -> LinearODE:
    return LinearODE(Xi, np.ones(len(Xi)), **options)


@dataclass
class ToyPlan(Plan):
    """A long Taylor series, time by time."""

    Xi: Tensor
    method = "toy"

    @property
    def reason(self) -> str:
        return "it is a toy"

    @property
    def accepted(self) -> Tensor:
        return self.Xi.abs().sum((1, 2)) < 1000

    def evaluate(self, z0: Tensor, t: Tensor) -> Tensor:
        term = z = z0[:, :, None].expand(*t.shape, z0.shape[-1])
        for j in range(1, 120):
            term = (term @ self.Xi.mT[:, None]) * (t / j)[..., None]
            z = z + term
        return z

    def vjp(self, z0: Tensor, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            Xi, start = self.Xi.detach().requires_grad_(), z0.detach().requires_grad_()
            z = ToyPlan(Xi).evaluate(start, t)
            return torch.autograd.grad(z, (Xi, start), g)

    def subset(self, index: Tensor) -> Plan:
        return ToyPlan(self.Xi[index])


@pytest.fixture
def toy(temporary_methods: None) -> type[Method]:
    @register
    @dataclass(frozen=True)
    class Toy(Method):
        name: ClassVar[str] = "toy"
        summary: ClassVar[str] = "a Taylor series"

        def plan(self, Xi: Tensor, rtol: float | None = None, work: Workload | None = None) -> Plan:
            return ToyPlan(Xi)

        def cost(self, work: Workload) -> float:
            return float(work.n_rows * work.n**2 * 240)

    return Toy


@pytest.mark.usefixtures("toy")
def test_a_registered_method_solves_differentiates_and_explains_by_its_name():
    case = BY_NAME["rotated_jordan_4"]
    record = score(case, *linode_method("toy")(case))
    assert record.passes_componentwise, lines_of(record)
    ode = solver(DEFECTIVE, method="toy")
    assert "method: toy, because it is a toy" in ode.explain(TIMES)
    assert ode.solve(TIMES).method == "toy"
    assert ode.condition(TIMES) == pytest.approx(float(solver(DEFECTIVE).condition(TIMES)), rel=0.05)
    with pytest.raises(MethodError, match="'toy'"):
        solver(DEFECTIVE, method="unknown")
    with pytest.raises(MethodError, match="'toy' cannot be accurate"):
        solver(1e4 * DEFECTIVE, method="toy")(TIMES)


def test_auto_takes_a_registered_method_where_it_is_a_candidate(toy: type[Method]):
    assert solver(DEFECTIVE, method=Auto(candidates=("eig", "toy"))).solve(TIMES).method == toy.name


def test_auto_takes_a_registered_method_whose_cost_is_lowest(toy: type[Method], monkeypatch: pytest.MonkeyPatch):
    assert solver(DEFECTIVE).solve(TIMES).method != "toy"
    monkeypatch.setattr(toy, "cost", lambda self, work: 0.0)
    auto._ranked.cache_clear()
    assert solver(DEFECTIVE).solve(TIMES).method == "toy"
    monkeypatch.setattr(toy, "by_name_only", True)
    auto._ranked.cache_clear()
    assert solver(DEFECTIVE).solve(TIMES).method != "toy"
    assert solver(DEFECTIVE, method="toy").solve(TIMES).method == "toy"


@pytest.mark.usefixtures("toy")
def test_times_before_0_are_those_of_a_second_plan_of_the_negative():
    t = np.array([-0.5, 0.0, 1.5, -2.0])
    z = solver(DEFECTIVE, method="toy")(t)
    assert np.allclose(z, solver(DEFECTIVE)(t), rtol=1e-12)


@pytest.mark.usefixtures("toy")
def test_the_contract_walks_a_registered_method():
    spec = importlib.util.spec_from_file_location("contract_again", Path(__file__).with_name("test_contract.py"))
    contract = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contract)
    assert [*NAMES, "toy"] == [*filter("toy".__ne__, contract.METHODS), "toy"]
    check = contract.test_value_and_gradients_are_within_bounds_or_an_alternative_is_named
    check("toy", BY_NAME["rotated_jordan_4"])
    with pytest.raises(AssertionError, match="error"):  # a Taylor series cannot
        check("toy", BY_NAME["mvl_taylor_fails"])


def test_a_method_registered_in_one_test_is_gone_in_the_next():
    assert "toy" not in registry()


def test_auto_ranks_the_same_candidates_wherever_the_data_are():
    work = Workload(n_systems=1, n_trajectories=1, n_times=1000, n=6, norm=1.0, t_max=10.0)
    for is_on_host in (True, False):
        names = [method.name for method in Auto().ranked(work._replace(is_on_host=is_on_host))]
        assert set(names) == {"chain", "eig", "metzler", "propagator", "taylor"}
    assert names[0] == "eig"
