"""The memory of one result, which plans and planners keep, and what the engine makes of two plans."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import linode
from linode.engine.evaluation import BothWays, Planner
from linode.kernels.memory import Memory
from linode.methods import make_method


def test_a_result_is_found_by_equal_values_only():
    memory: Memory[str] = Memory()
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    assert memory.known(x, y) is None
    memory.keep("first", x, y)
    assert memory.known(x.clone(), y.clone()) == "first"
    for other in ((x, y.double()), (x, y + 1), (x,), (x, y, y)):
        assert memory.known(*other) is None
    x[0] = 5.0  # what was kept is a copy
    assert memory.known(x, y) is None
    assert memory.known(torch.tensor([1.0, 2.0]), y) == "first"


def test_a_result_is_made_once_and_the_last_one_is_kept():
    memory: Memory[list[int]] = Memory()
    x, y = torch.tensor([1.0]), torch.tensor([2.0])
    first = memory.of(lambda: [1], x)
    assert memory.of(lambda: [2], x) is first
    assert memory.of(lambda: [3], y) == [3]
    assert memory.last == [3]
    assert memory.known(x) is None


def test_a_repeated_tensor_is_kept_once_and_found():
    memory: Memory[str] = Memory()
    x = torch.arange(3.0).expand(5, 3)
    memory.keep("repeated", x)
    assert memory.known(x.clone()) == "repeated"
    assert memory.known(x.clone() + 1) is None


def test_copies_and_pickles_are_empty():
    memory: Memory[str] = Memory()
    memory.keep("kept", torch.ones(1))
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert other.last is None


@pytest.mark.parametrize(("method", "is_one_plan"), [("eig", True), ("propagator", False), ("chain", False)])
def test_times_before_0_need_a_second_plan_unless_the_first_takes_them(method: str, is_one_plan: bool):
    Xi = torch.tensor([[[-1.0, 2.0], [-2.0, -0.5]]], dtype=torch.float64)
    planner = Planner(make_method(method))
    plan = planner.plan_for(Xi, 1, 5, -1.0, 2.0)
    assert isinstance(plan, BothWays) != is_one_plan
    again = planner.plan_for(Xi, 1, 5, -1.0, 2.0)
    assert planner.known(Xi) is (plan if is_one_plan else plan.forth)
    assert is_one_plan or again.back is plan.back  # both are kept


def test_the_plan_of_an_adjoint_comes_from_that_of_the_matrix():
    Xi = torch.tensor([[[-1.0, 2.0], [-2.0, -0.5]]], dtype=torch.float64)
    for name in ("eig", "chain", "propagator", "taylor", "auto"):
        planner = Planner(make_method(name))
        planner.plan_for(Xi, 1, 5, 0.0, 2.0)
        plan = Planner(make_method(name), adjoint_of=planner).plan_for(Xi.mT, 1, 5, 0.0, 2.0)
        z0, t = torch.ones(1, 1, 2, dtype=torch.float64), torch.tensor([[[0.0, 0.7, 2.0]]], dtype=torch.float64)
        true = linode.LinearODE(Xi[0].mT, z0[0, 0])(t[0, 0])
        assert torch.allclose(plan.evaluate(z0, t)[0, 0], true, rtol=1e-13)
