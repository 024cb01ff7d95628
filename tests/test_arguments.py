"""What cannot be an argument, and is refused by name with the way out; and what is taken in half precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import linode

XI = torch.tensor([[-1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)
Z0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
ODE = linode.LinearODE(XI, Z0)
CALLS: dict[str, Callable[[Any], Any]] = {
    "Xi": lambda x: linode.LinearODE(x, Z0),
    "z0": lambda x: linode.LinearODE(XI, x),
    "t": ODE,
    "A": linode.expm,
    "b": lambda x: linode.LinearODE(XI, Z0, b=x),
    "values": lambda x: linode.ZeroOrderHold([0.0, 1.0], x),
}
every_argument = pytest.mark.parametrize("name", CALLS)


def refused(name: str, x: Any, words: str) -> None:
    with pytest.raises(linode.DtypeError, match=f"^{name} .*{words}"):
        CALLS[name](x)


@every_argument
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_refused_with_advice_to_pad(name: str, layout: torch.layout):
    x = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    refused(name, x, "nested tensor.* pad it .*mask the loss")


@every_argument
@pytest.mark.parametrize("x", [lambda t, z: -z, torch.nn.Linear(2, 2), np.sin], ids=["lambda", "module", "ufunc"])
def test_a_function_in_the_place_of_an_array_is_refused_with_advice(name: str, x: Any):
    refused(name, x, "is a function: give the matrix Xi of .* torch.func.jacrev")


def test_the_advice_for_functions_works():
    f = lambda t, z: XI @ z  # noqa: E731
    assert torch.equal(torch.func.jacrev(lambda z: f(0.0, z))(Z0), XI)


@every_argument
def test_fake_and_traced_tensors_are_refused(name: str):
    with FakeTensorMode():
        fake = torch.ones(2, 2)
        with pytest.raises(linode.DtypeError, match="cannot read its values"):
            CALLS[name](torch.ones(2, 2))
    refused(name, fake, "FakeTensor, .* cannot read its values")
    call = lambda x: CALLS[name](x)  # noqa: E731
    for trace in (make_fx(call), lambda x: torch.jit.trace(call, x)):
        with (
            warnings.catch_warnings(),
            pytest.raises(linode.DtypeError, match=r"torch\.compile and torch\.export work"),
        ):
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            trace(torch.ones(2, 2))
    with pytest.raises(linode.DtypeError, match=f"^{name} is a torch.fx.Proxy, .*torch.compile"):
        torch.fx.symbolic_trace(lambda x: CALLS[name](x))


def test_torch_export_traces_a_layer():
    net = linode.nn.LinearDynamics(2, "stable", dtype=torch.float64)
    t = torch.linspace(0.0, 1.0, 3, dtype=torch.float64)
    exported = torch.export.export(net, (Z0, t)).module()
    assert torch.equal(exported(Z0, t), net(Z0, t))


@every_argument
def test_masks_that_hide_entries_are_refused(name: str):
    hidden = np.ma.masked_array(np.ones((2, 2)), [[False, True], [False, False]])
    refused(name, hidden, "mask hides entries")
    refused(name, [hidden[0], hidden[1]], "mask hides entries")
    refused(name, [[1.0, np.ma.masked], [1.0, 1.0]], "mask hides entries")


def test_a_mask_that_hides_nothing_changes_nothing():
    whole = np.ma.masked_array(XI.numpy(), mask=False)
    assert np.array_equal(linode.expm(whole), linode.expm(XI.numpy()))


@pytest.mark.parametrize("t", [[0.0, 1.0, np.nan], [[0.0, 1.0], [2.0, np.nan]]])
def test_times_padded_by_nan_are_refused_with_advice(t: Any):
    ode = linode.LinearODE(XI, torch.ones(2, 2, dtype=torch.float64))
    with pytest.raises(linode.NonFiniteError, match=r"^t must be finite, but t\[.*is nan; .* repeat their last time"):
        ode(t)
    with pytest.raises(linode.NonFiniteError, match=r"is inf$"):
        ode([np.inf])


def test_arrays_that_cannot_be_written_to_give_no_warning():
    x = [np.broadcast_to(np.eye(2), (3, 2, 2)), np.broadcast_to([1.0, 2.0], (3, 2)), np.arange(20000) * 1e-4]
    for array in x:
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = linode.LinearODE(*x[:2])(x[2])
        linode.LinearODE(x[0][:, ::-1], x[1], b=x[1]).solve(x[2][:5])
    assert np.allclose(z, np.exp(x[2])[:, None] * [1.0, 2.0], rtol=1e-14)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_gives_what_single_precision_gives_for_the_same_numbers(half: torch.dtype):
    def states(dtype: torch.dtype) -> list[Tensor]:
        x = [a.to(half).to(dtype).requires_grad_() for a in (XI, Z0, torch.tensor([0.5, 1.0]))]
        z = linode.LinearODE(*x[:2])(x[2])
        return [z.detach(), *torch.autograd.grad(z.square().sum(), x)]

    (z, *gradients), (true, *of_single) = states(half), states(torch.float32)
    assert z.dtype == torch.float32
    assert torch.equal(z, true)
    assert all(a.dtype == half and torch.equal(a, b.to(half)) for a, b in zip(gradients, of_single))


def test_half_precision_of_numpy_and_beside_double():
    assert linode.LinearODE(XI.numpy().astype(np.float16), np.ones(2, np.float16))([1.0]).dtype == np.float32
    assert linode.LinearODE(XI, Z0.half())([1.0]).dtype == torch.float64


@pytest.mark.parametrize("method", sorted(linode.methods.registry()))
@pytest.mark.parametrize("shapes", [((0, 2, 2), (2,)), ((2, 2), (0, 2)), ((3, 0, 2, 2), (0, 2))], ids=str)
@pytest.mark.parametrize("kind", [np.zeros, lambda shape: torch.zeros(shape, dtype=torch.float64)])
def test_a_batch_of_no_systems_is_solved_and_explained(method: str, shapes: Any, kind: Any):
    ode = linode.LinearODE(*(kind(shape) for shape in shapes), method=method)
    solution = ode.solve([0.0, 1.0])
    batch = np.broadcast_shapes(shapes[0][:-2], shapes[1][:-1])
    assert solution.z.shape == (*batch, 2, 2)
    assert solution.condition.shape == batch
    assert bool(solution.status)
    assert "condition: 0" in ode.explain([0.0, 1.0])
