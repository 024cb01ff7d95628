"""LinearDynamics as a module like others: saved, copied, moved, stacked, under autocast, started from data."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import linode
from linode.nn import LinearDynamics, registry
from tests.test_nn import F64, TIMES, distance, every_name, make, normal, randomise, real_parts


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@every_name
def test_a_state_dict_on_disk_carries_everything(name: str, tmp_path):
    first, second = randomise(make(name, m=2, bias=True)), make(name, m=2, bias=True)
    torch.save(first.state_dict(), tmp_path / "net.pt")
    second.load_state_dict(torch.load(tmp_path / "net.pt"))
    assert torch.equal(first.Xi, second.Xi)
    assert torch.equal(first.B, second.B)
    assert torch.equal(first.b, second.b)


@every_name
def test_a_deep_copy_is_equal_and_separate(name: str):
    net = make(name)
    other = copy.deepcopy(net)
    assert torch.equal(net.Xi, other.Xi)
    kept = net.Xi.detach().clone()
    randomise(other)
    other.Xi = kept
    assert torch.equal(net.Xi, kept)
    assert isinstance(other, LinearDynamics)


@every_name
def test_dtypes_follow_to_and_the_start_does_not_depend_on_them(name: str):
    torch.manual_seed(1)
    single = LinearDynamics(3, name)
    torch.manual_seed(1)
    double = LinearDynamics(3, name, dtype=F64)
    z0 = torch.ones(3)
    assert single(z0, TIMES).dtype == torch.float32
    assert distance(single.Xi.double(), double.Xi) < 1e-5
    assert single.double()(z0, TIMES).dtype == F64
    assert double.float()(z0, TIMES).dtype == torch.float32
    assert single.to("meta").Xi.is_meta


def test_what_is_made_on_the_meta_device_can_be_given_memory_and_reset():
    net = LinearDynamics(3, "stable", m=1, bias=True, device="meta")
    assert all(parameter.is_meta for parameter in net.parameters())
    net.to_empty(device="cpu").reset_parameters()
    assert float(real_parts(net.Xi).max()) < 0


def through_a_file(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_name
@pytest.mark.parametrize("copied", [lambda net: pickle.loads(pickle.dumps(net)), through_a_file])
def test_a_whole_layer_pickles(name: str, copied):
    net, z0 = make(name, m=1, bias=True), normal(4)
    state = torch.get_rng_state()
    other = copied(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(other).__mro__[1:] == type(net).__mro__[1:]
    assert torch.equal(other(z0, TIMES), net(z0, TIMES))
    kept = net.Xi.detach().clone()
    other.reset_parameters()
    assert torch.equal(net.Xi, kept)
    assert not torch.equal(other.Xi, kept)
    assert torch.equal(copied(other).Xi, other.Xi)


def test_a_layer_whose_parametrisations_were_added_or_removed_pickles():
    net, z0 = make("skew", m=1), normal(4)
    nn.utils.parametrize.register_parametrization(net, "B", nn.Tanh())
    other = pickle.loads(pickle.dumps(net))
    assert torch.equal(other.B, net.B)
    assert torch.equal(other(z0, TIMES), net(z0, TIMES))
    for tensor in ("B", "Xi"):
        nn.utils.parametrize.remove_parametrizations(net, tensor)
    other = pickle.loads(pickle.dumps(net))
    assert type(other) is LinearDynamics
    assert torch.equal(other.Xi, net.Xi)


def send_states(net: LinearDynamics, z0: Tensor, queue) -> None:
    queue.put(net(z0, TIMES).detach().tolist())


def test_a_layer_may_be_handed_to_a_spawned_process():
    net, z0 = make("stable"), normal(4)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=send_states, args=(net, z0, queue))
    process.start()
    assert queue.get(timeout=100) == net(z0, TIMES).tolist()
    process.join()


@every_name
def test_an_ensemble_of_copies_is_stacked_for_vmap(name: str):
    first = make(name)
    nets = [first, *(copy.deepcopy(first) for _ in range(2))]
    for net in nets[1:]:
        net.reset_parameters()
    z0 = normal(4)
    parameters, _ = torch.func.stack_module_state(nets)
    z = torch.func.vmap(lambda own: torch.func.functional_call(first, own, (z0, TIMES)))(parameters)
    assert all(torch.allclose(z[i], net(z0, TIMES), rtol=1e-12) for i, net in enumerate(nets))


@every_name
def test_autocast_changes_nothing(name: str):
    net, z0 = make(name, dtype=torch.float32, m=1, bias=True), torch.randn(5, 4)
    z, Xi = net(z0, TIMES), net.Xi
    true = torch.autograd.grad(z.square().sum(), list(net.parameters()), materialize_grads=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.Xi, Xi)
        again = net(z0, TIMES)
        assert torch.equal(again, z)
        assert again.dtype == torch.float32
    got = torch.autograd.grad(again.square().sum(), list(net.parameters()), materialize_grads=True)
    assert all(torch.equal(a, b) for a, b in zip(got, true))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_states_of_half_precision_are_taken_and_given_back_in_single(half: torch.dtype):
    net, z0 = make("stable", dtype=torch.float32), torch.randn(5, 4).to(half).requires_grad_()
    z = net(z0, TIMES.to(half))
    assert z.dtype == torch.float32
    assert torch.equal(z, net(z0.float(), TIMES.to(half).float()))
    z.sum().backward()
    assert z0.grad.dtype == half
    assert net.to(half)(z0, TIMES).dtype == torch.float32


DISTRIBUTED = """
import torch, linode
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
for name in linode.nn.registry():
    net = torch.nn.parallel.DistributedDataParallel(linode.nn.LinearDynamics(3, name, m=1, bias=True))
    u = linode.ZeroOrderHold([0.0], [[1.0]])
    for _ in range(2):  # the second pass is where one without would be found out
        net(torch.randn(4, 3), torch.linspace(0.0, 1.0, 5), u).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters()), name
    print(name)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch.distributed is not there")
def test_every_parameter_has_a_gradient_under_DistributedDataParallel():
    """In a process of its own: process groups have threads that outlive them."""
    done = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == list(registry()), done.stderr


def test_it_is_a_part_of_larger_modules():
    model = nn.ModuleDict({"encoder": nn.Linear(5, 3), "dynamics": LinearDynamics(3, "stable")})
    z = model["dynamics"](model["encoder"](torch.randn(2, 5)), TIMES)
    z.square().sum().backward()
    assert len(list(model.parameters())) == 5
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert "n=3" in repr(model)


def test_freezing_the_parameters_leaves_gradients_of_the_state():
    net, z0 = make("stable").requires_grad_(False), normal(4).requires_grad_()
    net(z0, TIMES).sum().backward()
    assert z0.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in net.parameters())


# ---- start from data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["free", "stable", "skew", "symmetric", "low_rank", "compartmental"])
def test_a_start_from_exact_data_is_the_system_that_made_them(name: str):
    torch.manual_seed(0)
    source = linode.nn.LinearDynamics(3, name, dtype=torch.float64)
    t, z0 = torch.linspace(0.0, 4.0, 30, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    z = source(z0, t).detach()
    net = linode.nn.LinearDynamics(3, name, dtype=torch.float64)
    start = net.init_from_data(t, z)
    assert torch.dist(net.Xi, source.Xi) < 1e-6 * torch.linalg.norm(source.Xi)
    assert torch.dist(start, z0) < 1e-6
    assert torch.dist(net(start, t), z) < 1e-5


def test_a_start_from_data_finds_the_forcing_too_and_training_goes_on_from_it():
    torch.manual_seed(1)
    source = linode.nn.LinearDynamics(2, m=1, bias=True, dtype=torch.float64)
    with torch.no_grad():
        source.b.copy_(torch.tensor([0.5, -0.3]))
    t = torch.linspace(0.0, 6.0, 60, dtype=torch.float64)
    u = torch.randn(60, 1, dtype=torch.float64)
    z0 = torch.tensor([1.0, -1.0], dtype=torch.float64)
    z = source(z0, t, linode.ZeroOrderHold(t, u)).detach()
    net = linode.nn.LinearDynamics(2, m=1, bias=True, dtype=torch.float64)
    parameters = [id(x) for x in net.parameters()]
    net.init_from_data(t, z, u)
    assert [id(x) for x in net.parameters()] == parameters  # an optimiser's are still these
    for own, true in ((net.Xi, source.Xi), (net.B, source.B), (net.b, source.b)):
        assert torch.dist(own, true) < 1e-6
    net(z0, t, linode.ZeroOrderHold(t, u)).square().sum().backward()
    assert all(x.grad is not None for x in net.parameters())


def test_data_with_other_channels_cannot_start_it():
    net, t = linode.nn.LinearDynamics(3), torch.linspace(0.0, 1.0, 20)
    with pytest.raises(linode.ShapeError, match="z has 2 channels; to start 3 states"):
        net.init_from_data(t, torch.randn(20, 2))
    with pytest.raises(linode.ShapeError, match="u has 1 channels, but m = 0"):
        net.init_from_data(t, torch.randn(20, 3), torch.randn(20, 1))
