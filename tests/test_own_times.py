"""A batch with times of each system: no system's answer depends on the times of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import linode
from linode.methods import registry
from tests.case_builders import direct_sum, generator, jordan, normal, rotated, similar, with_corner

METHODS = sorted(registry())
KINDS = ["random", "close eigenvalues", "nearly defective", "stiff", "generators", "growing"]
FACTORS = [1e-3, 1.0, 100.0]


def systems(kind: str) -> np.ndarray:
    """Three, of which the last is that whose times change."""
    rng = generator(f"own times {kind}")
    if kind == "random":
        return normal(rng, 3, 4, 4)
    if kind == "close eigenvalues":
        return np.stack([similar(rng, np.diag([-1.0, -1 - gap, 0.3, -2]), 150.0) for gap in (0.07, 0.1, 0.3)])
    if kind == "nearly defective":
        return np.stack([rotated(rng, with_corner(jordan(4, -0.3), corner)) for corner in (1e-12, 1e-8, 1e-3)])
    if kind == "stiff":
        return np.stack([similar(rng, np.diag(-(10.0 ** rng.uniform(-2, 3, 4))), 30.0) for _ in range(3)])
    if kind == "generators":  # their columns sum to what rounding leaves of 0
        G = 10.0 ** rng.uniform(-4, 3, (3, 4, 4)) * (1 - np.eye(4))
        return G - G.sum(-2)[:, None] * np.eye(4)
    return np.stack([direct_sum(normal(rng, 2, 2), normal(rng, 2, 2) + 2 * np.eye(2)) for _ in range(3)])


def solved(Xi: np.ndarray, t: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray] | None:
    """z and dL/dXi; None where the method refuses a system."""
    inputs = torch.tensor(Xi, requires_grad=True)
    try:
        z = linode.LinearODE(inputs, torch.ones(4, dtype=torch.float64), method=method)(torch.tensor(t))
    except linode.MethodError:
        return None
    z.sum((1, 2)).sum().backward()
    return z.detach().numpy(), inputs.grad.numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_the_times_of_another_system(kind: str, method: str):
    """Bit for bit where the plans of the systems are separate; elsewhere to a rounding."""
    Xi, t = systems(kind), np.array([[0.0, 0.4, 1.0], [0.1, 0.2, 0.8], [0.0, 0.3, 0.9]])
    answers = []
    for factor in FACTORS:
        answer = solved(Xi, t * np.array([1, 1, factor])[:, None], method)
        if answer is not None:
            answers.append(answer)
    for z, S in answers[1:]:
        for x, first in ((z, answers[0][0]), (S, answers[0][1])):
            if method in ("eig", "metzler"):
                assert np.array_equal(x[:2], first[:2])
            assert np.abs(x[:2] - first[:2]).max() <= 2e-12 * np.abs(first[:2]).max()


@pytest.mark.parametrize("kind", ["close eigenvalues", "stiff"])
@pytest.mark.parametrize("n_states", [4, 70])
def test_a_system_has_the_modes_that_it_has_alone(kind: str, n_states: int):
    """Which pairs of modes are close is judged by the own times: 70 states are more than the compiled kernel takes."""
    Xi = systems(kind)
    if n_states > 4:
        Xi = np.stack([direct_sum(A, -np.diag(np.arange(1.0, n_states - 3))) for A in Xi])
    t = np.array([[0.5, 1.0], [5.0, 10.0], [5e2, 1e3]])
    starts = torch.ones(n_states, dtype=torch.float64)

    def gradient(Xi: np.ndarray, t: np.ndarray) -> torch.Tensor:
        own = torch.tensor(Xi, requires_grad=True)
        method = linode.methods.Eig(max_condition=1e4)
        return torch.autograd.grad(linode.LinearODE(own, starts, method=method)(torch.tensor(t)).sum(), own)[0]

    alone = [gradient(Xi[i : i + 1], t[i : i + 1])[0] for i in range(3)]
    for own, one in zip(gradient(Xi, t), alone):
        assert torch.dist(own, one) <= 1e-15 * n_states * torch.linalg.norm(one)


def test_a_plan_serves_as_long_as_every_system_has_times_that_it_was_judged_for():
    """In the last call the largest time is the same, but another system's."""
    Xi = torch.tensor(systems("close eigenvalues"))
    ode = linode.LinearODE(Xi, torch.ones(4, dtype=torch.float64), method="eig")
    t = torch.tensor([[1.0], [1.0], [1e-3]], dtype=torch.float64)
    ode(t)
    first = ode.decomposition
    assert first.t_needed > 0
    ode(t * 1.5)
    assert ode.decomposition is first
    ode(torch.tensor([[1e-3], [1e-3], [1.0]], dtype=torch.float64))
    assert ode.decomposition is not first
