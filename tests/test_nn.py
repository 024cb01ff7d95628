"""LinearDynamics: what each parametrisation promises, what may be assigned, and that it is a module like others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import linode
from linode.nn import LinearDynamics, LowRank, Parametrization, Stable, register, registry
from linode.nn import base as nn_base

NAMES = sorted(registry())
every_name = pytest.mark.parametrize("name", NAMES)
F64 = torch.float64
TIMES = torch.tensor([0.0, 0.3, 1.0, 2.5], dtype=F64)
OSCILLATOR = torch.tensor([[0.0, 1.0], [-100.0, -0.2]], dtype=F64)  # 10 rad, damping ratio 0.01
DOUBLE_INTEGRATOR = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=F64)
STIFF = torch.diag(torch.tensor([-1e-5, -1.0, -1e4], dtype=F64))
ROBERTSON = torch.tensor([[-0.04, 0.0, 1e4], [0.04, -3e7, -1e4], [0.0, 3e7, -1e-3]], dtype=F64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def temporary_parametrizations():
    """What the test registers is forgotten after it."""
    before = dict(nn_base._REGISTRY)
    yield
    nn_base._REGISTRY.clear()
    nn_base._REGISTRY.update(before)


def make(name: str, n: int = 4, **options) -> LinearDynamics:
    return LinearDynamics(n, name, **{"rank": max(1, n // 3), "dtype": F64, **options})


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64)


def randomise(net: LinearDynamics, size: float = 1.0) -> LinearDynamics:
    """The same with parameters anywhere."""
    for parameter in net.parameters():
        parameter.data.copy_(size * normal(*parameter.shape))
    return net


def real_parts(Xi: Tensor) -> Tensor:
    return torch.linalg.eigvals(Xi.detach()).real


def distance(x: Tensor, y: Tensor) -> float:
    """Relative to the largest entry of y, where that is not 0."""
    x, y = x.detach(), y.detach()
    return float((x - y).abs().max()) / (float(y.abs().max()) or 1.0)


# ---- what each set promises, wherever its parameters are ---------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 6])
def test_stable_matrices_have_eigenvalues_in_the_left_half_plane(n: int):
    net = make("stable", n)
    assert max(float(real_parts(randomise(net).Xi).max()) for _ in range(200)) < 0


def test_skew_conserves_the_sum_of_squares():
    net, z0 = randomise(make("skew")), normal(4)
    assert torch.allclose(net(z0, 10 * TIMES).square().sum(-1), z0.square().sum(), rtol=1e-12)
    assert torch.equal(net.Xi, -net.Xi.mT)


def test_symmetric_is_its_transpose():
    Xi = randomise(make("symmetric")).Xi
    assert torch.equal(Xi, Xi.mT)
    assert Xi.diagonal().abs().min() > 0


@pytest.mark.parametrize("rank", [1, 2])
def test_low_rank_is_a_diagonal_plus_that_rank(rank: int):
    net = randomise(LinearDynamics(6, "low_rank", rank=rank, dtype=F64))
    d = net.parametrizations.Xi.original0
    assert int(torch.linalg.matrix_rank(net.Xi - d.diag())) == rank
    assert sum(p.numel() for p in net.parameters()) == 6 + 12 * rank


def test_compartments_stay_non_negative_and_their_sum_never_grows():
    net, z0 = make("compartmental"), torch.rand(20, 4, dtype=F64)
    for _ in range(20):
        z = randomise(net)(z0, TIMES).detach()
        mass = z.sum(-1)
        assert float(z.min()) > -1e-13
        assert float(mass.diff(dim=-1).max()) < 1e-13
        assert float(mass[:, -1].max()) < float(mass[:, 0].max())


@every_name
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_training_starts_with_modes_that_last_a_few_units_of_time(name: str, n: int):
    values = torch.linalg.eigvals(make(name, n).Xi.detach())
    assert float(values.abs().max()) < 1.5
    assert float(values.real.max()) < 0.5  # 0.35 beyond -0.5 for large n; small ones scatter


@every_name
def test_the_start_is_drawn_by_the_global_generator_and_again_by_reset_parameters(name: str):
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(make(name, m=1, bias=True))
    first, B = nets[0].Xi.detach().clone(), nets[0].B.detach().clone()
    assert torch.equal(first, nets[1].Xi)
    nets[0].b.data.fill_(1.0)
    nets[0].reset_parameters()
    assert distance(nets[0].Xi, first) > 1e-3
    assert distance(nets[0].B, B) > 1e-3
    assert not nets[0].b.any()


# ---- assigning ---------------------------------------------------------------------------------------------------


@every_name
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_matrix_of_the_set_is_what_it_was_after_it_is_assigned(name: str, n: int):
    net = make(name, n)
    for _ in range(5):
        target = randomise(copy.deepcopy(net), 0.5).Xi.detach()
        net.Xi = target
        assert distance(net.Xi, target) < 1e-9


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("Xi", [OSCILLATOR, STIFF, ROBERTSON, -torch.eye(5, dtype=F64) + torch.ones(5, 5).triu(1)])
def test_stable_matrices_of_any_kind_and_unit_are_reached(Xi: Tensor, unit: float):
    Xi = Xi - 1e-6 * Xi.abs().max() * torch.eye(len(Xi)) if Xi is ROBERTSON else Xi  # which conserves mass
    net = make("stable", len(Xi))
    net.Xi = unit * Xi
    assert distance(net.Xi, unit * Xi) < 1e-9
    slowest = real_parts(Xi).max()
    assert torch.isclose(real_parts(net.Xi).max(), unit * slowest, rtol=1e-3)


def test_a_normal_stable_matrix_has_P_of_one():
    Xi = torch.tensor([[-1e-3, 5.0], [-5.0, -1e-3]], dtype=F64)
    P = Stable().right_inverse(Xi)[2]
    assert torch.allclose(P, torch.zeros(2, 2, dtype=F64), atol=1e-10)  # the logarithm of its factor's diagonal


@every_name
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_nearest_gives_may_be_assigned(name: str, dtype: torch.dtype):
    for n in (1, 2, 4, 6):
        net = make(name, n, rank=max(1, n // 2), dtype=dtype)
        for scale in (1e-6, 1.0, 1e6):
            near = net.nearest(scale * normal(n, n))
            net.Xi = near
            assert near.dtype == dtype
            assert not near.requires_grad
            assert distance(net.Xi, near) < (1e-9 if dtype == F64 else 1e-3)


@every_name
def test_nearest_keeps_what_is_in_the_set(name: str):
    net = make(name)
    target = net.Xi.detach().clone()
    assert distance(net.nearest(target), target) < 1e-9


def test_nearest_stable_flips_growth_and_keeps_the_rest():
    V = normal(4, 4)
    block = torch.tensor([[0.1, 2.0], [-2.0, 0.1]], dtype=F64)
    Xi = V @ torch.block_diag(block, torch.diag(torch.tensor([-1.0, -3.0], dtype=F64))) @ torch.linalg.inv(V)
    values = torch.linalg.eigvals(make("stable").nearest(Xi))
    assert np.allclose(sorted(values.real.tolist()), [-3.0, -1.0, -0.1, -0.1])
    assert np.allclose(sorted(values.imag.tolist()), [-2.0, 0.0, 0.0, 2.0])


ROTATION = torch.linalg.qr(torch.arange(100.0, dtype=F64).reshape(10, 10).cos())[0]
NILPOTENT = ROTATION @ torch.ones(10, 10, dtype=F64).triu(1) @ ROTATION.mT
JORDAN = torch.diag(torch.ones(9, dtype=F64), 1) - 0.1 * torch.eye(10)  # stable, but rounding could make it grow
ALMOST_JORDAN = torch.tensor([[-3e-7, 0.3], [-1.6e-28, -3e-7]], dtype=F64)


@pytest.mark.parametrize(
    "Xi", [DOUBLE_INTEGRATOR, torch.zeros(3, 3), torch.ones(3, 3), NILPOTENT, JORDAN, ALMOST_JORDAN]
)
def test_nearest_stable_of_what_is_on_the_verge_of_growth_decays_and_may_be_assigned(Xi: Tensor):
    net = make("stable", len(Xi))
    net.Xi = near = net.nearest(Xi)
    assert float(real_parts(near).max()) < 0
    assert distance(net.Xi, near) < 1e-6


def test_nearest_skew_and_symmetric_are_the_parts():
    Xi = normal(3, 3)
    assert torch.allclose(make("skew", 3).nearest(Xi) + make("symmetric", 3).nearest(Xi), Xi)


def test_nearest_compartmental_clips_flows_and_keeps_what_is_lost():
    near = make("compartmental", 2).nearest([[-1.0, -0.5], [0.25, -2.0]])
    assert torch.allclose(near, torch.tensor([[-1.0, 0.0], [0.25, -2.0]], dtype=F64), atol=1e-8)
    near = make("compartmental", 2).nearest([[-1.0, 0.5], [3.0, 2.0]])  # more flows in than out
    assert torch.allclose(near, torch.tensor([[-3.0, 0.5], [3.0, -0.5]], dtype=F64), atol=1e-8)


def test_nearest_low_rank_is_closer_than_cutting_the_singular_values():
    Xi = torch.diag(torch.arange(5.0, dtype=F64)) + normal(5, 1) @ normal(1, 5) + 0.01 * normal(5, 5)
    U, singular, W = torch.linalg.svd(Xi)
    cut = (U[:, :1] * singular[:1]) @ W[:1]
    assert torch.dist(make("low_rank", 5).nearest(Xi), Xi) < 0.05 < torch.dist(cut, Xi)


@pytest.mark.parametrize(
    ("name", "Xi", "words"),
    [
        ("stable", [[0.1, 0.0], [0.0, -1.0]], "not stable"),
        ("skew", [[0.0, 1.0], [1.0, 0.0]], "not skew-symmetric"),
        ("symmetric", [[0.0, 1.0], [-1.0, 0.0]], "not symmetric"),
        ("compartmental", [[-1.0, -0.1], [0.5, -1.0]], "not compartmental"),
        ("compartmental", [[-1.0, 2.0], [0.5, -1.0]], "column sums <= 0"),
    ],
)
def test_a_matrix_outside_of_the_set_is_refused_and_changes_nothing(name: str, Xi: list, words: str):
    net = make(name, 2)
    before = net.Xi.detach().clone()
    with pytest.raises(linode.OptionError, match=words):
        net.Xi = Xi
    assert torch.equal(net.Xi, before)


def test_a_matrix_of_full_rank_is_refused_by_low_rank():
    with pytest.raises(linode.OptionError, match="plus one of rank 1"):
        make("low_rank", 5, rank=1).Xi = normal(5, 5)


@every_name
def test_an_assigned_tensor_shares_nothing_and_the_parameters_stay_the_same_objects(name: str):
    net = make(name)
    target, before = net.Xi.detach().clone(), list(net.parameters())
    net.Xi = nn.Parameter(target)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    net(normal(4), TIMES).sum().backward()
    optimiser.step()
    kept = target.clone()
    assert all(a is b for a, b in zip(before, net.parameters()))
    assert torch.equal(target, kept)
    assert distance(net.Xi, target) > 1e-6


def test_lists_arrays_and_other_dtypes_may_be_assigned():
    net = LinearDynamics(2, dtype=torch.float32)
    for Xi in ([[1, 2], [3, 4]], np.array([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()):
        net.Xi = torch.zeros(2, 2)
        net.Xi = Xi
        assert net.Xi.dtype == torch.float32
        assert net.Xi.tolist() == [[1.0, 2.0], [3.0, 4.0]]


# ---- trajectories ------------------------------------------------------------------------------------------------


@every_name
def test_states_are_those_of_LinearODE_for_batches_with_times_of_their_own(name: str):
    net, z0, t = make(name), normal(3, 5, 4), torch.rand(5, 7, dtype=F64)
    true = linode.LinearODE(net.Xi.detach(), z0)(t)
    assert net(z0, t).shape == (3, 5, 7, 4)
    assert torch.equal(net(z0, t).detach(), true)
    assert net(z0, 0.5).shape == (3, 5, 4)


def test_bias_and_input_drive_the_states():
    net = LinearDynamics(1, m=2, bias=True, dtype=F64)
    net.Xi, net.b.data[:], net.B.data[:] = [[-1.0]], 3.0, torch.tensor([[1.0, 2.0]])
    u = linode.ZeroOrderHold([0.0], [[0.5, 0.25]])
    z0 = torch.zeros(1, dtype=F64)
    assert torch.allclose(net(z0, TIMES)[:, 0], 3 * (1 - torch.exp(-TIMES)))
    assert torch.allclose(net(z0, TIMES, u)[:, 0], 4 * (1 - torch.exp(-TIMES)))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(net(z0, TIMES, u).sum(), list(net.parameters())))


@every_name
def test_gradients_of_all_parameters_are_those_of_finite_differences(name: str):
    net = make(name, 3, m=1, bias=True, rank=2)
    u, z0 = linode.ZeroOrderHold([0.0, 1.0], [[1.0], [-0.5]]), normal(2, 3)
    names, values = zip(*net.named_parameters())
    values = [value.detach().clone().requires_grad_() for value in values]

    def states(*values: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, values)), (z0, TIMES, u))

    assert torch.autograd.gradcheck(states, values)


def test_adam_recovers_a_skew_generator():
    A = normal(3, 3)
    true, z0, t = A - A.mT, normal(8, 3), torch.linspace(0.0, 1.0, 10, dtype=F64)
    data, net = linode.LinearODE(true, z0)(t), make("skew", 3)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (net(z0, t) - data).square().mean().backward()
        optimiser.step()
    assert distance(net.Xi, true) < 1e-3


def test_lbfgs_recovers_a_lightly_damped_system_from_a_stable_start():
    true, z0, t = torch.tensor([[0.0, 1.0], [-4.0, -0.1]], dtype=F64), normal(8, 2), torch.rand(8, 10, dtype=F64)
    data, net = linode.LinearODE(true, z0)(t), make("stable", 2)
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (net(z0, t) - data).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert distance(net.Xi, true) < 1e-4


def test_ode_is_the_solver_of_the_present_parameters():
    net, z0 = make("skew", method="schur"), normal(4)
    assert "schur" in repr(net.ode(z0))
    assert torch.equal(net.ode(z0)(TIMES), net(z0, TIMES))


# ---- parametrisations of one's own -------------------------------------------------------------------------------


class UpperTriangular(nn.Module):
    """As torch's documentation writes them: no right inverse."""

    def forward(self, Xi: Tensor) -> Tensor:
        return Xi.triu()


def test_a_new_parametrisation_is_one_class(temporary_parametrizations):
    class Scaled(Parametrization):
        name = "scaled"
        summary = "a multiple of I"

        def forward(self, d: Tensor, unit: Tensor) -> Tensor:
            return d * unit.diag()

        def parts(self, Xi: Tensor) -> tuple[Tensor, ...]:
            return Xi.diagonal().mean(), torch.ones(len(Xi), dtype=F64)

    register(Scaled)
    net = LinearDynamics(3, "scaled", dtype=F64)
    net.Xi = -2.0 * torch.eye(3)
    assert torch.equal(net.Xi, -2.0 * torch.eye(3, dtype=F64))
    with pytest.raises(linode.OptionError, match="a multiple of I"):
        net.Xi = normal(3, 3)


@pytest.mark.parametrize("given", [UpperTriangular, UpperTriangular()])
def test_any_module_may_be_the_parametrisation(given):
    net = LinearDynamics(3, given, dtype=F64)
    assert torch.equal(net.Xi, net.Xi.triu())
    assert net.Xi.diagonal().abs().min() > 0
    assert net(normal(3), TIMES).shape == (4, 3)


def test_an_instance_brings_its_own_options():
    net = LinearDynamics(5, LowRank(rank=2))
    assert net.parametrization.rank == 2
    assert net.parametrizations.Xi.original1.shape == (5, 2)


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((0,), {}, linode.OptionError, "n must be an int of at least 1, got 0"),
        ((2.0,), {}, linode.OptionError, "n must be an int of at least 1, got 2.0"),
        ((2,), {"m": -1}, linode.OptionError, "m must be an int of at least 0, got -1"),
        ((2, "stabel"), {}, linode.OptionError, "unknown parametrization 'stabel'.*'compartmental', 'free'.*'stable'"),
        ((2, 3), {}, linode.DtypeError, "parametrization must be a name or a torch.nn.Module, got 3"),
        ((2, "low_rank"), {"rank": 0}, linode.OptionError, "rank must be a positive int, got 0"),
        ((2, "low_rank"), {"rank": 3}, linode.OptionError, "rank must be an int between 1 and 2.*got 3"),
        ((2,), {"dtype": torch.float16}, linode.DtypeError, "dtype must be torch.float32 or torch.float64"),
        ((2,), {"method": "euler"}, linode.MethodError, "euler"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments, options, error, words: str):
    with pytest.raises(error, match=words):
        LinearDynamics(*arguments, **options)


@pytest.mark.parametrize(
    ("Xi", "error", "words"),
    [
        (torch.zeros(3, 3), linode.ShapeError, r"Xi has shape \(3, 3\); Xi must be \(2, 2\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), linode.DtypeError, "Xi must be real"),
        (torch.full((2, 2), torch.nan), linode.NonFiniteError, r"Xi\[0, 0\] is nan"),
        ("matrix", linode.DtypeError, "Xi must hold real or complex numbers"),
    ],
)
def test_what_cannot_be_assigned_is_named(Xi, error, words: str):
    net = make("stable", 2)
    for use in (lambda: setattr(net, "Xi", Xi), lambda: net.nearest(Xi)):
        with pytest.raises(error, match=words):
            use()


def test_states_and_inputs_that_do_not_fit_are_named():
    u = linode.ZeroOrderHold([0.0], [[1.0]])
    with pytest.raises(linode.ShapeError, match="z0 has last size 3, but Xi is 2 x 2"):
        LinearDynamics(2)(torch.zeros(3), TIMES)
    with pytest.raises(linode.OptionError, match=r"u came, but .* \(m = 0\)"):
        LinearDynamics(2)(torch.zeros(2), TIMES, u)
    with pytest.raises(linode.ShapeError, match="u has 1 channels"):
        LinearDynamics(2, m=2)(torch.zeros(2), TIMES, u)
