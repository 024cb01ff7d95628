"""The contract of a parametrisation: a smooth map from unconstrained tensors onto a set of matrices Xi.

To add one: decorate a `Parametrization` subclass with `@register`. It defines `forward(*parts)`, the matrix, and
`parts(Xi)`, the arguments of `forward` that give a matrix near to Xi. A matrix is in the set if `forward` of its parts
gives it back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..errors import DtypeError, OptionError
from ..matrices import TOLERANCE


class Parametrization(nn.Module, ABC):
    """A set of matrices Xi (n, n), for `torch.nn.utils.parametrize`; `forward` maps parameters onto it.

    The parts of a matrix that is assigned to Xi are computed in float64 on the CPU.

    Example:
        >>> import torch, linode.nn
        >>> layer = torch.nn.Linear(2, 2)
        >>> layer.weight.data = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> layer = torch.nn.utils.parametrize.register_parametrization(layer, "weight", linode.nn.Skew())
        >>> layer.weight.tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """

    name: ClassVar[str]
    summary: str  # the matrices of the set, in words that follow "Xi is not"

    @classmethod
    def make(cls, rank: int) -> Parametrization:
        """A module of this class; only `LowRank` uses the rank.

        Example:
            >>> import linode.nn
            >>> linode.nn.Skew.make(rank=1)
            Skew()
        """
        return cls()

    @abstractmethod
    def parts(self, Xi: Tensor) -> tuple[Tensor, ...]:
        """The arguments of `forward` that give a matrix in the set near to Xi (n, n), float64; they share no memory.

        Example:
            >>> import torch, linode.nn
            >>> linode.nn.Skew().parts(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
            (tensor([[ 0.,  0.],
                    [-1.,  0.]]),)
        """

    def nearest(self, Xi: Tensor) -> Tensor:
        """A matrix in the set near to Xi (n, n), in the sense that the class states; Xi itself if it is in the set.

        Example:
            >>> import torch, linode.nn
            >>> linode.nn.Skew().nearest(torch.tensor([[0.1, 2.0], [0.0, 0.1]])).tolist()
            [[0.0, 1.0], [-1.0, 0.0]]
        """
        return self(*self.parts(wide(Xi))).to(Xi)

    def right_inverse(self, Xi: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The parameters of Xi (n, n); torch calls this when Xi is assigned.

        Raises:
            OptionError: Xi is not in the set, by more than 1e-6 of its largest entry.

        Example:
            >>> import torch, linode.nn
            >>> linode.nn.Skew().right_inverse(torch.eye(2))
            Traceback (most recent call last):
            linode.errors.OptionError: Xi is not skew-symmetric ...
        """
        given = wide(Xi)
        parts = self.parts(given)
        error, size = (float(x.abs().max()) for x in (self(*parts) - given, given))
        if not error <= TOLERANCE * size:
            raise OptionError(
                f"Xi is not {self.summary}: it is {error:.2g} away from the matrix of that kind which was found near "
                f"to it, and its largest entry is {size:.2g}; nearest(Xi) gives the one that was found"
            )
        parts = tuple(part.to(Xi) for part in parts)
        return parts if len(parts) > 1 else parts[0]

    def initial(self, n: int) -> Tensor:
        """A random matrix (n, n) to start training from: `nearest` of a `modest` one.

        Example:
            >>> import torch, linode.nn
            >>> Xi = linode.nn.Skew().initial(3)
            >>> bool(torch.equal(Xi, -Xi.mT))
            True
        """
        return self.nearest(modest(n))


def modest(n: int) -> Tensor:
    """A random Xi whose modes last a few units of time: eigenvalues fill a disk of radius 0.35 about -0.5.

    -I/2 + G / sqrt(8 n) with G normal (the circular law). No mode grows much over many units of time, none decays at
    once, and the modes differ. Its symmetric and skew parts have eigenvalues in [-1, 0] and in i [-1/2, 1/2].
    """
    return torch.randn(n, n, dtype=torch.float64, device="cpu") / (8 * n) ** 0.5 - 0.5 * torch.eye(n, device="cpu")


def wide(Xi: Tensor) -> Tensor:
    """Xi in float64, on the CPU, without its graph."""
    return Xi.detach().to("cpu", torch.float64)


ALIASES = {"diagonal_plus_low_rank": "low_rank"}
_REGISTRY: dict[str, type[Parametrization]] = {}
ParametrizationType = TypeVar("ParametrizationType", bound=type[Parametrization])


def register(parametrization: ParametrizationType) -> ParametrizationType:
    """Class decorator: `LinearDynamics` then accepts the name of the parametrisation.

    Example:
        >>> import linode.nn
        >>> @linode.nn.register
        ... class Diagonal(linode.nn.Parametrization):
        ...     name, summary = "diagonal", "diagonal"
        ...     def forward(self, rates):
        ...         return rates.diag()
        ...     def parts(self, Xi):
        ...         return (Xi.diagonal().clone(),)
        >>> linode.nn.LinearDynamics(3, "diagonal").Xi.shape
        torch.Size([3, 3])
        >>> del linode.nn.base._REGISTRY["diagonal"]
    """
    _REGISTRY[parametrization.name] = parametrization
    return parametrization


def registry() -> dict[str, type[Parametrization]]:
    """Every parametrisation by name.

    Example:
        >>> import linode.nn
        >>> sorted(linode.nn.registry())
        ['compartmental', 'free', 'low_rank', 'skew', 'stable', 'symmetric']
    """
    return dict(_REGISTRY)


def make_parametrization(parametrization: str | nn.Module | type[nn.Module], rank: int) -> nn.Module:
    """The module of this name or class, or the module itself."""
    if isinstance(parametrization, nn.Module):
        return parametrization
    if isinstance(parametrization, str):
        parametrization = ALIASES.get(parametrization, parametrization)
        if parametrization not in _REGISTRY:
            raise OptionError(
                f"unknown parametrization {parametrization!r}; use one of {', '.join(map(repr, sorted(_REGISTRY)))}"
            )
        parametrization = _REGISTRY[parametrization]
    if not (isinstance(parametrization, type) and issubclass(parametrization, nn.Module)):
        raise DtypeError(f"parametrization must be a name or a torch.nn.Module, got {parametrization!r}")
    return parametrization.make(rank) if issubclass(parametrization, Parametrization) else parametrization()
