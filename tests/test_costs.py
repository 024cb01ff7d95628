"""The choice of `auto` against what was measured: the committed table, and the estimates that it rests on."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchdiffeq")  # for the contenders

import linode
from benchmarks import calibrate
from benchmarks.workloads import BEST_METHOD, WORKLOADS
from linode.kernels import small
from linode.methods import Auto, Workload, costs

RESULTS = json.loads((Path(__file__).parent.parent / "benchmarks" / "results" / "cpu.json").read_text())["workloads"]
SHAPED = sorted(RESULTS.keys() & WORKLOADS.keys())
# What the shape calls for: eigenpairs for stiff ones, no factorisation for large ones. The compiled kernel makes
# polynomials cheaper than exponentials. Measured, ms of a step by `chain` and `eig`: tiny 0.22 and 0.26, long 177 and
# 190, batch 5 and 14; by torch tiny 2.1 and 1.5, batch 28 and 21, and from the committed table long 112 and 86.
CALLED_FOR = {
    "tiny": "chain" if small.is_in_use() else "eig",
    "small": "chain",
    "mid": "taylor",
    "mid-uniform": "taylor",
    "large": "taylor",
    "large-uniform": "taylor",
    "huge": "taylor",
    "stiff": "eig",
    "batch": "chain" if small.is_in_use() else "eig",
    "batch-own-times": "chain" if small.is_in_use() else "eig",
    "long": "chain" if small.is_in_use() else "eig",
    "float32": "taylor",
}


def work_of(name: str) -> Workload:
    problem = WORKLOADS[name].problem(0)
    n = problem.Xi.shape[-1]
    matrices = problem.Xi.reshape(-1, n, n)
    norm = float(np.abs(matrices).sum(-2).max())
    return Workload(len(matrices), 1, problem.t.shape[-1], n, norm, float(problem.t.max()))


@pytest.mark.parametrize("name", CALLED_FOR)
def test_the_cheapest_estimate_is_that_of_the_method_the_shape_calls_for(name: str):
    assert Auto().ranked(work_of(name))[0].name == CALLED_FOR[name]


def test_off_the_cpu_launches_and_waits_rule_small_systems():
    """eig needs the fewest, but its factors are made on the host, where a large matrix takes long."""
    for n_systems, n in ((1, 6), (1, 16), (4, 8)):
        names = [method.name for method in Auto().ranked(Workload(n_systems, 1, 100, n, 5.0, 5.0, is_on_host=False))]
        assert names == ["eig", "chain", "metzler", "propagator", "taylor"]
    assert Auto().ranked(Workload(1, 1, 100, 500, 5.0, 5.0, is_on_host=False))[-1].name == "eig"


def test_many_trajectories_of_one_system_share_its_exponentials():
    assert Auto().ranked(Workload(1, 64, 100, 8, 5.0, 5.0))[0].name == "eig"


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.parametrize("mode", ["forward", "step"])
def test_when_it_was_measured_the_choice_took_at_most_a_third_longer_than_the_best_method(name: str, mode: str):
    rows = {row["contender"]: row["median_ms"] for row in RESULTS[name]["modes"][mode] if "median_ms" in row}
    by_name = {key: ms for key, ms in rows.items() if key.startswith("linode ") and "float64" not in key}
    assert by_name, "the table was made without --methods"
    assert rows["linode"] * BEST_METHOD <= min(by_name.values())


@pytest.mark.parametrize("name", SHAPED)
def test_methods_by_name_are_not_estimated_against_the_order_that_was_measured(name: str):
    """Where one method took ten times as long as another, it is estimated at more."""
    rows = {row["contender"]: row["median_ms"] for row in RESULTS[name]["modes"]["step"] if "median_ms" in row}
    estimates = {key: linode.methods.registry()[key]().cost(work_of(name)) for key in Auto().names}
    measured = {key: rows[f"linode {key}"] for key in estimates if f"linode {key}" in rows}
    for slow in measured:
        for fast in measured:
            if measured[slow] > 10 * measured[fast]:
                assert estimates[slow] > estimates[fast], (slow, fast)


def test_every_constant_of_the_costs_is_one_that_the_script_writes():
    tree = ast.parse(Path(costs.__file__).read_text())
    names = {node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)}
    assert "benchmarks.calibrate" in ast.get_docstring(tree)
    assert names == {x for x in dir(costs) if x.isupper()}
    assert all(f'"{name}"' in Path(calibrate.__file__).read_text() for name in names)


def test_a_plan_that_is_at_hand_is_used_whatever_another_would_cost():
    Xi, z0 = torch.eye(3, dtype=torch.float64) * -0.5 + 0.1, torch.ones(3, dtype=torch.float64)
    ode = linode.LinearODE(Xi, z0)
    ode(torch.linspace(0, 1, 5, dtype=torch.float64))
    plan = ode.decomposition
    ode(torch.linspace(0, 1, 50_000, dtype=torch.float64))
    assert ode.decomposition is plan
