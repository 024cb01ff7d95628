"""Compartments between which something flows and out of which it is lost, but in which none is made."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Parametrization, register

SMALLEST = 1e-10  # a flow, as part of the largest entry of Xi: what becomes of 0, which has no logarithm


@register
class Compartmental(Parametrization):
    """Xi_ij >= 0 off the diagonal, column sums <= 0: z >= 0 stays so, and the sum of z never grows.

    Xi_ij is the flow from j to i and -sum_i Xi_ij the outflow of j, both in 1/time. The parameter (n, n) holds their
    logarithms, the outflows on its diagonal, so that a step of an optimiser is relative and units of time do not
    matter. An assigned flow of zero becomes 1e-10 of the largest entry; it can grow again, slowly.

    nearest: flows below zero are clipped; the diagonal is what it was, or lower where the column sums ask for it.
    Source: Jacquez & Simon (1993), Qualitative theory of compartmental systems, SIAM Review 35(1).

    Example:
        >>> import torch, linode.nn
        >>> Xi = linode.nn.Compartmental().nearest(torch.tensor([[-1.0, 0.5], [1.0, -0.2]], dtype=torch.float64))
        >>> Xi.round(decimals=6).tolist()  # more than 0.2 flows out of the second
        [[-1.0, 0.5], [1.0, -0.5]]
    """

    name = "compartmental"
    summary = "compartmental (entries >= 0 off the diagonal, column sums <= 0)"

    def forward(self, logarithms: Tensor) -> Tensor:
        rates = logarithms.exp()
        return rates - (rates.diagonal() + rates.sum(0)).diag()

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        least = SMALLEST * (float(Xi.abs().max()) or 1.0)
        flows = (Xi - Xi.diagonal().diag()).clamp(min=least).fill_diagonal_(0.0)
        outflows = (-(flows.sum(0) + Xi.diagonal())).clamp(min=least)
        return ((flows + outflows.diag()).log(),)

    def initial(self, n: int) -> Tensor:
        """Flows and outflows uniform in (0, 1/n): each compartment empties at a rate of about 1/2."""
        rates = torch.rand(n, n, dtype=torch.float64, device="cpu") / n
        return self.nearest(rates - (rates.diagonal() + rates.sum(0)).diag())
