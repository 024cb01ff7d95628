"""What the tests of torch.compile share: one well-conditioned problem, and functions compiled by aot_eager.

aot_eager traces the same graphs as the default compiler, forward and backward, and compiles nothing.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import linode

# torch's own warnings, while it imports and traces
quiet = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch._prims_common.check:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex:UserWarning"),
]

# near eigenvalues -1, 0.2 +- 1.5i, which every method accepts
XI = torch.tensor([[-1.0, 0.2, 0.05], [0.0, 0.2, 1.5], [0.1, -1.5, 0.25]], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
TIMES = torch.tensor([0.0, 0.5, -0.25, 2.0], dtype=torch.float64)
TARGET = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)


def misfit(Xi: Tensor, z0: Tensor, t: Tensor, method: object = "auto") -> Tensor:
    return (linode.LinearODE(Xi, z0, method=method)(t) - TARGET.to(z0)).abs().square().mean()


def compile_(function, **options):
    """Compiled with nothing left from other tests."""
    torch.compiler.reset()
    return torch.compile(function, **{"fullgraph": True, "backend": "aot_eager", **options})


def leaves(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in (XI.to(dtype), Z0.to(dtype), TIMES)]


def with_gradients(function, x: list[Tensor], *args: object) -> list[Tensor]:
    value = function(*x, *args)
    return [value.detach(), *torch.autograd.grad(value, x)]


def same(got: list[Tensor], true: list[Tensor], rtol: float = 1e-13) -> bool:
    return all(a.dtype == b.dtype and torch.allclose(a, b, rtol=rtol, atol=rtol) for a, b in zip(got, true))
