"""vmap of a trajectory and of its gradients: the mapped dimension becomes a batch dimension.

What autograd calls and what torch.compile calls map in the same way: `Trajectory` (`linode.engine.autograd`) and the
operators (`linode.engine.compiled`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

STATES_OWN, GRADIENTS_OWN = (2, 1, 1), (2, 1, 1, 2)  # dimensions of (Xi, z0, t) and (Xi, z0, t, g) that are no batch


def mapped_states(states: Callable[..., Tensor], in_dims: Any, *tensors: Tensor) -> tuple[Tensor, int]:
    """states(Xi, z0, t) over mapped dimensions, and where the mapped dimension of the result is."""
    return states(*fold(tensors, in_dims, STATES_OWN)), 0


def mapped_gradients(
    gradients: Callable[..., Any], size: int, in_dims: Any, *tensors: Tensor
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """gradients(Xi, z0, t, g), of Xi, z0 and t, over mapped dimensions of this size."""
    folded = fold(tensors, in_dims, GRADIENTS_OWN)
    # each mapped element has its own gradients, so each argument must have the mapped dimension
    rank = max(x.ndim - own for x, own in zip(folded, GRADIENTS_OWN))
    whole = []
    for x, own, dim in zip(folded, GRADIENTS_OWN, in_dims):
        if dim is None:
            x = x.reshape(*(1,) * (rank - x.ndim + own), *x.shape).expand(size, *(-1,) * (rank - 1 + own))
        whole.append(x)
    shapes = (x.shape if d is None else x.movedim(d, 0).shape[1:] for x, d in zip(tensors[:3], in_dims))
    return tuple(x.reshape(size, *shape) for x, shape in zip(gradients(*whole), shapes)), (0, 0, 0)


def fold(tensors: Any, in_dims: Any, n_own: Any) -> list[Tensor]:
    """Tensors with the mapped dimension first and equally many batch dimensions; n_own: how many others each has."""
    ranks = [x.ndim - own - (dim is not None) for x, own, dim in zip(tensors, n_own, in_dims)]
    rank = max(ranks)
    folded = []
    for x, dim, r in zip(tensors, in_dims, ranks):
        if dim is not None:
            x = x.movedim(dim, 0)
            x = x.reshape(x.shape[0], *(1,) * (rank - r), *x.shape[1:])
        folded.append(x)
    return folded
