"""Parametrisations that are linear in their parameters: any matrix, skew-symmetric ones, symmetric ones."""

from __future__ import annotations

from torch import Tensor

from .base import Parametrization, register


@register
class Free(Parametrization):
    """Every matrix: the parameter is Xi.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.Free().nearest(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).tolist()
        [[0.0, 1.0], [2.0, 0.0]]
    """

    name = "free"
    summary = "a finite matrix"

    def forward(self, Xi: Tensor) -> Tensor:
        return Xi

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return (Xi.clone(),)  # torch lets a parameter share the memory of what it is assigned


@register
class Skew(Parametrization):
    """Xi = -Xi^T: conserves z^T z; eigenvalues are imaginary. nearest: the skew part, closest in Frobenius' norm.

    The parameter is (n, n); what is on and above its diagonal has no effect.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.Skew().nearest(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """

    name = "skew"
    summary = "skew-symmetric (Xi = -Xi^T)"

    def forward(self, lower: Tensor) -> Tensor:
        return lower.tril(-1) - lower.tril(-1).mT

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return (((Xi - Xi.mT) / 2).tril(-1),)


@register
class Symmetric(Parametrization):
    """Xi = Xi^T: real eigenvalues, orthogonal modes. nearest: the symmetric part, closest in Frobenius' norm.

    The parameter is (n, n); what is above its diagonal has no effect.

    Example:
        >>> import torch, linode.nn
        >>> linode.nn.Symmetric().nearest(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    name = "symmetric"
    summary = "symmetric (Xi = Xi^T)"

    def forward(self, lower: Tensor) -> Tensor:
        return lower.tril() + lower.tril(-1).mT

    def parts(self, Xi: Tensor) -> tuple[Tensor]:
        return (((Xi + Xi.mT) / 2).tril(),)
