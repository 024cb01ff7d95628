"""Every kind of call with a default device that is not the CPU, with tensors of the CPU and arrays of NumPy.

`python -m tests.default_device meta` (a device without values) or `second` (that of second_device.py) makes each call
before and after `torch.set_default_device`, and prints as JSON what is not the same. In a process of its own: what is
made once and kept must not have been made before.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
import torch
from torch import Tensor

import linode
from tests import second_device

F64: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
XI = torch.tensor([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]], **F64)
Z0 = torch.tensor([1.0, -0.5, 0.25], **F64)
TIMES = torch.tensor([0.0, 0.5, 0.75, 2.0], **F64)
B = torch.ones(3, 1, **F64)
LARGE = torch.tensor(np.random.default_rng(0).standard_normal((90, 90)) / 9 - np.eye(90), **F64)
GRID = np.linspace(0.0, 5.0, 40)
DATA = np.exp(-0.1 * GRID)[:, None] * np.stack([np.cos(2 * GRID), -np.sin(2 * GRID)], -1) + 0.01 * np.sin(
    np.arange(80.0)
).reshape(40, 2)
INPUTS = {
    "zero-order hold": lambda: linode.ZeroOrderHold([0.0, 1.0], [[1.0], [2.0]]),
    "first-order hold": lambda: linode.FirstOrderHold(np.array([0.0, 1.0]), np.ones((2, 1))),
    "impulses": lambda: linode.Impulses([0.5], [[1.0]]),
    "harmonics": lambda: linode.Harmonics([1.0], [[1.0 - 0.5j]]),
    "function": lambda: torch.sin,
}


def step(method: str, Xi: Tensor, z0: Tensor, t: Tensor) -> list[Tensor]:
    x = [a.clone().requires_grad_() for a in (Xi, z0, t)]
    z = linode.LinearODE(*x[:2], method=method)(x[2])
    return [z.detach(), *torch.autograd.grad(z.square().sum(), x)]


def solved(method: str, Xi: Any, z0: Any, t: Any) -> list[Any]:
    solution = linode.LinearODE(Xi, z0, method=method).solve(t)
    return [solution.z, solution.condition]


def driven(u: Any, *, is_numpy: bool) -> list[Any]:
    x = [a.numpy() if is_numpy else a for a in (XI, Z0, B, TIMES)]
    ode = linode.LinearODE(*x[:2], b=x[1], B=x[2], u=u)
    return [ode(x[3]), ode.solve(x[3]).z]


def piecewise(u: Any = None) -> list[Any]:
    ode = linode.PiecewiseLinearODE([(0.0, XI), (1.0, -0.5 * XI)], Z0, B=B if u else None, u=u)
    return [ode.solve(TIMES).z, ode.propagator(TIMES)]


def state_space() -> list[Any]:
    given = scipy.signal.StateSpace(XI.numpy(), B.numpy(), np.eye(3), np.zeros((3, 1)))
    ode = linode.LinearODE.from_statespace(given, u=linode.ZeroOrderHold([0.0], [[1.0]]))
    own = linode.LinearODE(XI, Z0).to_statespace()
    return [ode.output(TIMES), ode.to_statespace().B, own.C, own.D]


def layer(name: str) -> list[Tensor]:
    torch.manual_seed(0)
    net = linode.nn.LinearDynamics(3, name, m=1, bias=True, device="cpu", dtype=torch.float64)
    net.reset_parameters()
    z = net(Z0, TIMES, linode.ZeroOrderHold([0.0], [[1.0]]))
    z.sum().backward()
    net.Xi = net.nearest(XI.numpy())
    return [z.detach(), net.Xi.detach()]


def fitted(**options: Any) -> list[Any]:
    result = linode.fit(GRID, DATA, **options)
    return [result.Xi, result.predict(GRID), result.stderr]


def rotation(q: Tensor) -> Tensor:
    return torch.stack([torch.stack([-q[0], q[1]]), torch.stack([-q[1], -q[0]])])


def system_for(method: str) -> Tensor:
    return XI.abs() if method == "metzler" else XI


CALLS: dict[str, Callable[[], Any]] = {
    "lists": lambda: linode.LinearODE([[0.0, 1.0], [-1.0, 0.0]], [1.0, 0.0])([0.0, 1.0]),
    "a number": lambda: linode.LinearODE(XI, Z0)(1.0),
    "one time each": lambda: linode.LinearODE(XI, torch.ones(300, 3, **F64))(torch.linspace(0, 9, 300, **F64)[:, None]),
    "expm": lambda: linode.expm(XI.numpy()),
    "expm_multiply": lambda: linode.expm_multiply(XI, B, TIMES),
    "propagator": lambda: linode.LinearODE(XI, Z0).propagator(TIMES),
    "odeint": lambda: linode.odeint(XI, Z0, TIMES),
    "discretize": lambda: list(linode.discretize(XI.numpy(), B.numpy(), 0.1, hold="first")),
    "explain": lambda: np.array(len(linode.LinearODE(XI, Z0).explain(TIMES)) > 0),
    "condition": lambda: linode.LinearODE(XI, Z0).condition([]),
    "vmap": lambda: torch.func.vmap(lambda A: linode.LinearODE(A, Z0)(TIMES))(torch.stack([XI, XI.mT])),
    "hessian": lambda: torch.func.hessian(lambda A: linode.LinearODE(A, Z0)(TIMES).square().sum())(XI),
    "compile": lambda: torch.compile(lambda A: linode.LinearODE(A, Z0)(TIMES), backend="aot_eager")(XI),
    "overflow": lambda: linode.LinearODE(1000 * XI, Z0)(TIMES),
    "piecewise": piecewise,
    "piecewise with an input": lambda: piecewise(linode.ZeroOrderHold([0.0], [[1.0]])),
    "state space": state_space,
    "fit": fitted,
    "stable fit": lambda: fitted(stable=True),
    "structured fit": lambda: fitted(structure=(rotation, [0.2, 1.5])),
    "a layer from a fit": lambda: linode.fit(GRID, DATA).to_module().Xi.detach(),
    **{f"layer {name}": lambda name=name: layer(name) for name in linode.nn.registry()},
    **{f"{name}": lambda u=u: driven(u(), is_numpy=False) for name, u in INPUTS.items()},
    **{f"{name}, NumPy": lambda u=u: driven(u(), is_numpy=True) for name, u in INPUTS.items() if name != "function"},
    **{
        f"{method}": lambda m=method: step(m, XI.abs() if m == "metzler" else XI, Z0, TIMES)
        for method in linode.methods.registry()
    },
    **{
        f"{method}, solve": lambda m=method: solved(m, XI.abs() if m == "metzler" else XI, Z0, TIMES)
        for method in linode.methods.registry()
    },
    **{f"{method}, n = 90": lambda m=method: step(m, LARGE, LARGE[0], TIMES) for method in ("auto", "taylor", "chain")},
}


def leaves(x: Any) -> list[Any]:
    return [y for part in x for y in leaves(part)] if isinstance(x, list) else [x]


def difference(got: Any, true: Any) -> str:
    """What is not the same: kind, device, or values; empty if all is."""
    for a, b in zip(leaves(got), leaves(true), strict=True):
        if type(a) is not type(b) or a.dtype != b.dtype:
            return f"{type(a).__name__} of {a.dtype} for {type(b).__name__} of {b.dtype}"
        if isinstance(a, Tensor) and a.device != b.device:
            return f"on {a.device}"
        if not np.allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-12, equal_nan=True):
            return "other values"
    return ""


def main(device: str) -> None:
    warnings.simplefilter("ignore")
    if device == second_device.DEVICE:
        second_device.install()
    found = {}
    torch.set_default_device(device)
    for name, call in CALLS.items():
        try:
            found[name] = call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    torch.set_default_device(None)
    results = {name: x if isinstance(x, str) else difference(x, CALLS[name]()) for name, x in found.items()}
    print(json.dumps(results))
    sys.stdout.flush()
    os._exit(0)  # torch's thread for the device does not end: an ordinary exit aborts


if __name__ == "__main__":
    main(sys.argv[1])
