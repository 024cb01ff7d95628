"""Training loops: parameters that move beneath a solver, plans that are kept meanwhile, graphs, and fits."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import linode
from tests import oracles
from tests.accuracy import GENERAL

METHODS = GENERAL
every_method = pytest.mark.parametrize("method", METHODS)
# near eigenvalues -1, 0.2 +- 1.5i, which every method accepts
XI = torch.tensor([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.5, -0.25, 2.0], dtype=torch.float64)


def fresh(Xi: Tensor, z0: Tensor, method: str = "auto") -> Tensor:
    """What a solver made of these values gives."""
    return linode.LinearODE(Xi.detach().clone(), z0.detach().clone(), method=method)(TIMES)


def close(got: Tensor, true: Tensor, tolerance: float = 1e-13) -> bool:
    return torch.allclose(got.detach(), true.detach(), rtol=tolerance, atol=tolerance)


# ---- values that move --------------------------------------------------------------------------------------------


def by_optimiser(x: Tensor) -> None:
    x.grad = torch.ones_like(x)
    torch.optim.SGD([x], lr=0.1).step()


def by_copy(x: Tensor) -> None:
    with torch.no_grad():
        x.copy_(x * 0.9 + 0.01)


def by_data(x: Tensor) -> None:
    x.data.mul_(0.9)


def by_new_data(x: Tensor) -> None:
    x.data = x.data * 0.9


def by_numpy(x: Tensor) -> None:
    x.detach().numpy()[...] *= 0.9  # no version counter moves


def by_load_state_dict(x: Tensor) -> None:
    holder = nn.Module()
    holder.x = x
    holder.load_state_dict({"x": 0.9 * x.detach()})


MOVES = [by_optimiser, by_copy, by_data, by_new_data, by_numpy, by_load_state_dict]
PRECISIONS = [(a, b) for a in (torch.float32, torch.float64) for b in (torch.float32, torch.float64)]


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("which", ["Xi", "z0"])
@pytest.mark.parametrize("dtypes", PRECISIONS, ids=str)
def test_the_next_call_uses_values_that_were_changed_in_place(move, which: str, dtypes: tuple[torch.dtype, ...]):
    Xi, z0 = nn.Parameter(XI.to(dtypes[0], copy=True)), nn.Parameter(Z0.to(dtypes[1], copy=True))
    ode = linode.LinearODE(Xi, z0)
    before = ode(TIMES)
    move(Xi if which == "Xi" else z0)
    tolerance = 1e-6 if torch.float32 in dtypes else 1e-13
    assert not close(before, fresh(Xi, z0), 1e-3)
    assert close(ode(TIMES), fresh(Xi, z0), tolerance)
    assert close(ode.solve(TIMES).z, fresh(Xi, z0), tolerance)
    assert close(ode.propagator(1.0), linode.expm(Xi).to(ode.dtype), tolerance)


@every_method
def test_gradients_after_a_change_are_those_of_the_new_values(method: str):
    Xi, z0 = nn.Parameter(XI.clone()), nn.Parameter(Z0.clone())
    ode = linode.LinearODE(Xi, z0, method=method)
    ode(TIMES).sum().backward()
    Xi.grad = z0.grad = None
    by_copy(Xi)
    by_copy(z0)
    ode(TIMES).sum().backward()
    true = oracles.gradients(Xi.detach().numpy(), z0.detach().numpy(), TIMES.numpy(), torch.ones(4, 3).numpy())
    assert close(Xi.grad, torch.tensor(true.S))
    assert close(z0.grad, torch.tensor(true.a))


# changes that torch cannot see make a backward pass wrong here as for every operation of torch's own, unless what was
# saved is a wider copy
SEEN = [
    (move, dtype)
    for move in MOVES
    for dtype in (torch.float32, torch.float64)
    if dtype == torch.float32 or move not in (by_data, by_new_data, by_numpy)
]


@pytest.mark.parametrize(("move", "dtype"), SEEN)
@pytest.mark.parametrize("which", ["Xi", "z0"])
def test_a_backward_pass_after_a_change_raises_or_is_right(move, which: str, dtype: torch.dtype):
    x = {name: nn.Parameter(value.to(dtype, copy=True)) for name, value in (("Xi", XI), ("z0", Z0), ("t", TIMES))}
    values = [value.detach().clone() for value in x.values()]
    z = linode.LinearODE(x["Xi"], x["z0"])(x["t"])
    move(x[which])
    x[which].grad = None
    try:
        got = torch.autograd.grad(z.sum(), list(x.values()))
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    leaves = [value.requires_grad_() for value in values]
    true = torch.autograd.grad(linode.LinearODE(*leaves[:2])(leaves[2]).sum(), leaves)
    assert all(close(a, b, 1e-6) for a, b in zip(got, true))


def test_a_change_back_gives_the_first_answer_again():
    Xi = XI.clone()
    ode = linode.LinearODE(Xi, Z0)
    first = ode(TIMES)
    for scale in (2.0, 0.5):
        Xi *= scale
        assert close(ode(TIMES), fresh(Xi, Z0))
    assert close(ode(TIMES), first)


# ---- tensors that a module replaces ------------------------------------------------------------------------------


class MadeOnce(nn.Module):
    """The wrong way: the solver keeps the tensors that it was made of."""

    def __init__(self) -> None:
        super().__init__()
        self.Xi, self.z0 = nn.Parameter(XI.clone()), nn.Parameter(Z0.clone())
        self.register_buffer("b", torch.zeros(3, dtype=torch.float64))
        self.ode = self.solver()

    def solver(self) -> linode.LinearODE:
        return linode.LinearODE(self.Xi, self.z0, b=self.b)

    def forward(self, t: Tensor) -> Tensor:
        return self.ode(t)


class MadeInForward(MadeOnce):
    """The right way."""

    def forward(self, t: Tensor) -> Tensor:
        return self.solver()(t)


def doubled(model: nn.Module) -> dict[str, Tensor]:
    return {name: 2 * x for name, x in model.state_dict().items()}


def by_assigning(model: nn.Module) -> None:
    model.load_state_dict(doubled(model), assign=True)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def by_parametrizing(model: nn.Module) -> None:
    nn.utils.parametrize.register_parametrization(model, "Xi", Doubled())


def by_a_new_parameter(model: nn.Module) -> None:
    model.z0 = nn.Parameter(2 * model.z0.detach())


def by_a_new_buffer(model: nn.Module) -> None:
    model.b = torch.ones(3, dtype=torch.float64)


REPLACEMENTS = [by_assigning, by_parametrizing, by_a_new_parameter, by_a_new_buffer]


@pytest.mark.parametrize("replace", REPLACEMENTS)
@pytest.mark.parametrize("use", ["__call__", "solve", "condition", "propagator", "explain"])
def test_a_solver_made_in_init_raises_when_its_module_has_replaced_a_tensor(replace, use: str):
    model = MadeOnce()
    model(TIMES)
    replace(model)
    with pytest.raises(linode.StaleError, match=r"MadeOnce\.(Xi|z0|b) .* make the solver where it is used, in forward"):
        getattr(model.ode, use)(TIMES)


@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_a_solver_made_in_forward_uses_what_its_module_holds(replace):
    model = MadeInForward()
    before = model(TIMES)
    replace(model)
    assert torch.equal(model(TIMES), linode.LinearODE(model.Xi, model.z0, b=model.b)(TIMES))
    assert not close(model(TIMES), before, 1e-3)


def test_functional_calls_raise_or_use_what_they_are_given():
    Xi = 0.5 * XI
    call = lambda model: torch.func.functional_call(model, {"Xi": Xi}, (TIMES,))  # noqa: E731
    assert torch.equal(call(MadeInForward()), linode.LinearODE(Xi, Z0, b=torch.zeros(3).double())(TIMES))
    model = MadeOnce()
    with pytest.raises(linode.StaleError):
        call(model)
    assert torch.equal(model(TIMES), MadeOnce()(TIMES))  # the parameters are back


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_what_keeps_the_tensors_raises_nothing(copied):
    model = MadeOnce()
    model.load_state_dict(doubled(model))
    other = copied(model)
    with torch.no_grad():
        other.Xi.mul_(0.5)
    true = linode.LinearODE(XI, 2 * Z0, b=other.b)(TIMES)
    assert torch.equal(other(TIMES), true)
    assert not torch.equal(model(TIMES), true)


def test_a_deep_copy_raises_by_its_own_module():
    model = MadeOnce()
    other = copy.deepcopy(model)
    by_assigning(other)
    model(TIMES)
    with pytest.raises(linode.StaleError):
        other(TIMES)


def test_a_change_of_what_was_copied_raises():
    Xi = nn.Parameter(XI.to(torch.bfloat16))
    pieces = nn.Parameter(XI.clone())
    solvers = [linode.LinearODE(Xi, Z0), linode.PiecewiseLinearODE([(0.0, pieces), (1.0, XI)], Z0)]
    for x, solver in zip((Xi, pieces), solvers):
        solver(TIMES)
        by_copy(x)
        with pytest.raises(linode.StaleError, match="was copied when this solver was made"):
            solver(TIMES)


# ---- plans -------------------------------------------------------------------------------------------------------


@pytest.fixture
def n_plans(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How many plans each method has made since; `auto` makes none of its own."""
    count: Counter = Counter()
    for name, method in linode.methods.registry().items():
        if name == "auto":
            continue

        def counted(self, *args, plan=method.plan, name=name, **options):
            count[name] += 1
            return plan(self, *args, **options)

        monkeypatch.setattr(method, "plan", counted)
    return count


@pytest.mark.parametrize("method", [name for name in METHODS if name != "auto"])
def test_one_decomposition_serves_every_call_until_Xi_changes(n_plans: Counter, method: str):
    Xi, z0 = nn.Parameter(XI.clone()), nn.Parameter(Z0.clone())
    ode = linode.LinearODE(Xi, z0, method=method)

    def use() -> None:
        for t in (TIMES, TIMES[:2], torch.tensor(1.0)):
            ode(t).sum().backward()
        assert ode.decomposition.method == method

    use()
    first = n_plans[method]
    use()
    by_copy(z0)
    use()
    assert n_plans[method] == first
    by_copy(Xi)
    use()
    assert n_plans[method] == 2 * first


def test_one_choice_of_method_serves_every_call_until_Xi_changes(n_plans: Counter):
    ode = linode.LinearODE(XI.clone().requires_grad_(), Z0)
    ode(TIMES).sum().backward()
    first = n_plans.total()
    for _ in range(3):
        ode(TIMES).sum().backward()
        ode.solve(TIMES[:1])
    assert n_plans["eig"] + n_plans["schur"] <= first
    assert first <= 2  # `chain` plans -Xi for the times before 0


def test_a_loop_that_steps_plans_once_a_step(n_plans: Counter):
    Xi = nn.Parameter(XI.clone())
    ode, optimiser = linode.LinearODE(Xi, Z0, method="eig"), torch.optim.SGD([Xi], lr=1e-3)
    for _ in range(5):
        optimiser.zero_grad()
        ode(TIMES).square().sum().backward()
        optimiser.step()
    assert n_plans["eig"] == 5


# ---- graphs ------------------------------------------------------------------------------------------------------


def gradient(Xi: Tensor) -> Tensor:
    Xi = Xi.detach().clone().requires_grad_()
    return torch.autograd.grad(linode.LinearODE(Xi, Z0)(TIMES).square().sum(), Xi)[0]


def test_gradients_accumulate():
    Xi = nn.Parameter(XI.clone())
    for _ in range(3):
        linode.LinearODE(Xi, Z0)(TIMES).square().sum().backward()
    assert close(Xi.grad, 3 * gradient(XI))


def test_a_graph_may_be_run_twice_where_it_is_retained():
    Xi = nn.Parameter(XI.clone())
    loss = linode.LinearODE(Xi, Z0)(TIMES).square().sum()
    first, second = (torch.autograd.grad(loss, Xi, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_two_losses_of_one_trajectory_have_their_own_gradients():
    Xi = nn.Parameter(XI.clone())
    z = linode.LinearODE(Xi, Z0)(TIMES)
    a, b = (torch.autograd.grad(part.square().sum(), Xi, retain_graph=True)[0] for part in (z[:2], z[2:]))
    assert close(a + b, gradient(XI))


def test_freezing_and_thawing_a_parameter_is_seen():
    Xi, z0 = nn.Parameter(XI.clone()), nn.Parameter(Z0.clone())
    ode = linode.LinearODE(Xi, z0)
    Xi.requires_grad_(False)
    ode(TIMES).square().sum().backward()
    assert Xi.grad is None
    assert z0.grad is not None
    Xi.requires_grad_(True)
    ode(TIMES).square().sum().backward()
    assert close(Xi.grad, gradient(XI))


# ---- fits --------------------------------------------------------------------------------------------------------

TARGET_XI = torch.tensor([[-0.3, 1.0], [-1.5, -0.2]], dtype=torch.float64)
GRID = torch.linspace(0.0, 3.0, 30, dtype=torch.float64)
DATA = linode.LinearODE(TARGET_XI, Z0[:2])(GRID)
DEFECTIVE = torch.tensor([[-0.5, 1.0], [0.0, -0.5]], dtype=torch.float64)


@pytest.mark.parametrize("start", [DEFECTIVE, torch.zeros(2, 2), -torch.eye(2)], ids=["defective", "zero", "identity"])
def test_lbfgs_finds_the_system_from_a_degenerate_start(start: Tensor):
    Xi = nn.Parameter(start.double().clone())
    ode = linode.LinearODE(Xi, Z0[:2])
    optimiser = torch.optim.LBFGS([Xi], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (ode(GRID) - DATA).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert (Xi - TARGET_XI).abs().max() < 1e-5


def test_adam_on_shuffled_batches_finds_the_system_from_a_defective_start():
    Xi = nn.Parameter(DEFECTIVE.float())
    ode, optimiser = linode.LinearODE(Xi, Z0[:2].float()), torch.optim.Adam([Xi], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.97)
    pairs = TensorDataset(GRID.float(), DATA.float())
    loader = DataLoader(pairs, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        for t, z in loader:
            optimiser.zero_grad()
            (ode(t) - z).square().mean().backward()
            optimiser.step()
        schedule.step()
    assert (Xi - TARGET_XI).abs().max() < 1e-2
