"""All that linode uses of torch and is not public there, in one file.

Tested with torch 2.13. `setup.cfg` sets the upper bound; to move it, run the tests with the new release.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.masked import MaskedTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_functorch = torch._C._functorch

is_transforming = torch._C._are_functorch_transforms_active  # whether a torch.func transform is active
# an autograd function without the checks for transforms that `Function.apply` makes: for calls outside of transforms
OutsideTransforms = torch.autograd.function._SingleLevelFunction
within_transforms = enable_single_level_autograd_function  # context: such functions may be applied below a transform
is_batched = _functorch.is_legacy_batchedtensor  # whether autograd has batched this cotangent (is_grads_batched)
is_wrapped = _functorch.is_functorch_wrapped_tensor  # whether a transform has wrapped this tensor
unwrapped = _functorch.get_unwrapped  # the tensor inside
untransformed = torch._C._DisableFuncTorch  # context: transforms do not see what happens in it
# what factorisations raise that do not converge
LinAlgError: type[RuntimeError] = torch._C._LinAlgError  # type: ignore[attr-defined]
n_dispatch_modes = torch._C._len_torch_dispatch_stack  # how many modes see every operator: tracers, counters, fakes


@contextmanager
def below_autograd() -> Iterator[None]:
    """Operators run without their autograd kernels; but transforms of torch.func further out see them."""
    with torch._C._AutoDispatchBelowAutograd():
        if not is_transforming():
            yield
            return
        # forward() of a function is run without gradients, and so would be the levels of the transforms further out
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            yield


def break_graph(reason: str) -> None:
    """torch.compile leaves the graph here; where it may not (fullgraph=True), its error gives the reason."""
    torch._dynamo.graph_break(msg=reason)


def reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x, which nothing else uses, in another shape, contiguous; no view to autograd: it may be changed in place."""
    if x.is_cpu and x.is_contiguous() and not x._is_view():
        return x.resize_(shape)
    return torch.ops.aten._unsafe_view(x.contiguous(), shape)


def is_traced() -> bool:
    """Whether a tracer that follows tensors and knows no values is active: torch.jit.trace, FakeTensorMode, make_fx."""
    if torch._C._get_tracing_state() is not None:
        return True
    return n_dispatch_modes() > 0 and any(
        isinstance(mode, (FakeTensorMode, ProxyTorchDispatchMode)) for mode in _get_current_dispatch_mode_stack()
    )


def is_readable(x: Tensor) -> bool:
    """Whether a tensor of some subclass has values, and all of them."""
    return not isinstance(x, (FakeTensor, MaskedTensor))


def will_accumulate(node: Any) -> bool:
    """Whether the backward pass that is running adds to the .grad of the leaf with this node: not torch.autograd.grad,
    which hands the gradient over instead.
    """
    if getattr(node, "variable", None) is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # it knows no answer within torch.autograd.grad
        return False


def forward_mode_depth() -> int:
    """How many levels of torch.func's forward mode are active."""
    stack = _functorch.get_interpreter_stack() or ()
    return sum(level.key() == _functorch.TransformType.Jvp for level in stack)


def is_in_forward_mode() -> bool:
    """Whether a level of forward_ad is open."""
    return forward_ad._current_level >= 0


def has_tangent(x: Tensor) -> bool:
    """Whether anything is differentiated with respect to x in forward mode."""
    return is_in_forward_mode() and forward_ad.unpack_dual(x).tangent is not None


def has_derivative(x: Tensor) -> bool:
    """Whether anything is differentiated with respect to x, in either mode."""
    return x.requires_grad or has_tangent(x)
