"""Layers whose Xi has entries on a pattern."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import linode
import linode.nn

N = 6
RING = np.stack([np.arange(N), np.roll(np.arange(N), 1)])
T = torch.linspace(0, 2, 5)


def ring(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.roll(np.arange(n), 1)])


def as_dense(net: Any) -> torch.Tensor:
    return net.Xi.to_dense().detach()


@pytest.mark.parametrize("kind", ["free", "generator", "laplacian"])
@pytest.mark.parametrize("n", [N, 300])
def test_adam_trains_entries_and_xi_stays_in_its_set(kind: str, n: int):
    torch.manual_seed(0)
    net = linode.nn.LinearDynamics(n, kind, pattern=ring(n), dtype=torch.float64)
    goal = linode.nn.LinearDynamics(n, kind, pattern=ring(n), dtype=torch.float64)
    z0 = torch.rand(3, n, dtype=torch.float64)
    target = goal(z0, T).detach()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (net(z0, T) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    Xi = as_dense(net)
    pattern = np.zeros((n, n), bool)
    pattern[tuple(ring(n))] = True
    if kind == "laplacian":
        pattern |= pattern.T
        assert torch.equal(Xi, Xi.mT)
    if kind != "free":
        assert float(Xi.sum(0).abs().max()) < 1e-14
        assert bool((Xi[torch.from_numpy(pattern)] > 0).all())
        pattern |= np.eye(n, dtype=bool)
    assert bool((Xi[torch.from_numpy(~pattern)] == 0).all())
    assert (net(z0, T).sum(-1) - z0.sum(-1, keepdim=True)).abs().max() < 1e-9 or kind == "free"


def test_gradients_are_those_of_the_dense_layer():
    net = linode.nn.LinearDynamics(N, pattern=RING, dtype=torch.float64)
    z0 = torch.rand(N, dtype=torch.float64)
    net(z0, T).square().sum().backward()
    (raw,) = net.parameters()
    dense = as_dense(net).requires_grad_()
    linode.LinearODE(dense, z0)(T).square().sum().backward()
    rows, columns = net.parametrization.rows, net.parametrization.columns
    assert float((raw.grad - dense.grad[rows, columns]).abs().max()) < 1e-12


@pytest.mark.parametrize("kind", ["free", "generator", "laplacian"])
def test_matrices_are_assigned_within_the_set_and_the_pattern(kind: str):
    net = linode.nn.LinearDynamics(N, kind, pattern=RING, dtype=torch.float64)
    (before,) = net.parameters()
    W = np.zeros((N, N))
    W[tuple(RING)] = np.arange(1.0, N + 1)
    if kind == "laplacian":
        W = W + W.T
    Xi = W if kind == "free" else W - np.diag(W.sum(0))
    for value in (Xi, Xi.tolist(), torch.from_numpy(Xi), scipy.sparse.csr_array(Xi), torch.from_numpy(Xi).to_sparse()):
        net.reset_parameters()
        net.Xi = value
        assert np.allclose(as_dense(net), Xi, atol=1e-12)
        assert next(net.parameters()) is before
    with pytest.raises(linode.OptionError, match="outside of the pattern"):
        net.Xi = np.ones((N, N))
    with pytest.raises(linode.ShapeError, match="Xi must be"):
        net.Xi = np.ones((2, 2))
    if kind != "free":
        with pytest.raises(linode.OptionError, match=r"is not .*on the pattern"):
            net.Xi = -Xi
        net.Xi = net.nearest(2 * Xi + np.diag(np.ones(N)))
        assert np.allclose(as_dense(net), 2 * Xi, atol=1e-12)


def test_edges_of_a_laplacian_may_come_in_one_direction_or_in_both():
    one = linode.nn.LinearDynamics(N, "laplacian", pattern=RING)
    both = linode.nn.LinearDynamics(N, "laplacian", pattern=np.concatenate([RING, RING[::-1]], 1))
    assert one.pattern.nnz == both.pattern.nnz == 3 * N
    assert sum(x.numel() for x in one.parameters()) == sum(x.numel() for x in both.parameters()) == N


def test_patterns_are_given_as_matrices_or_indices():
    own = scipy.sparse.csr_array((np.ones(N), tuple(RING)), shape=(N, N))
    for pattern in (RING, RING.tolist(), torch.from_numpy(RING), own, own.tocoo()):
        assert linode.nn.LinearDynamics(N, pattern=pattern).pattern.nnz == N


def test_layers_with_inputs_are_copied_saved_and_moved():
    net = linode.nn.LinearDynamics(N, "generator", pattern=RING, m=1, bias=True)
    u, z0 = linode.ZeroOrderHold(torch.arange(2.0), torch.ones(2, 1)), torch.rand(N)
    z = net(z0, T, u)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(z0, T, u), z)
    other = linode.nn.LinearDynamics(N, "generator", pattern=RING, m=1, bias=True)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(z0, T, u), z)
    assert net.double()(z0, T, u).dtype == torch.float64
    assert "entries" in repr(net)


def test_what_cannot_be_used_is_refused_by_name():
    make = linode.nn.LinearDynamics
    for call, error, words in (
        (lambda: make(N, "skew", pattern=RING), linode.OptionError, "with a pattern"),
        (lambda: make(N, "generators", pattern=RING), linode.OptionError, "did you mean 'generator'"),
        (lambda: make(3, pattern=RING), linode.ShapeError, "index 3"),
        (lambda: make(N, pattern=np.ones((3, 2))), linode.ShapeError, "pattern must be"),
        (lambda: make(N, pattern=scipy.sparse.eye_array(3)), linode.ShapeError, "pattern is 3 x 3"),
        (lambda: make(N, pattern=linode.Operator(lambda v: v, N)), linode.DtypeError, "operator"),
        (lambda: make(N, pattern=RING).init_from_data([0.0, 1.0], np.ones((2, N))), linode.MethodError, "dense"),
    ):
        with pytest.raises(error, match=words):
            call()
