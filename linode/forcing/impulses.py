"""Impulses: inputs that make the state jump."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .holds import Samples
from .pieces import Pieces


class Impulses(Samples):
    """u(t) = sum_k values[k] delta(t - times[k]): the state jumps by B values[k] at times[k].

    The state is continuous from the right: z(times[k]) has the jump in it. z0 is the state before an impulse at 0,
    which acts at once.

    Args:
        times: (K,) or (*batch, K), increasing. values: (*batch, K, m).

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError: an argument that cannot be used, by name.
        OrderError (a ValueError): times do not increase.

    Example:
        >>> import linode
        >>> doses = linode.Impulses([0.0, 1.0], [[1.0], [2.0]])
        >>> linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=doses)([0.0, 0.9, 1.0])[:, 0].tolist()
        [1.0, 1.0, 3.0]
    """

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        grid, values = self._checked()
        nothing = torch.cat([values[..., :1, :0], values[..., :0]], -2)
        return replace(self._polynomials(grid, nothing), jumps=values)
