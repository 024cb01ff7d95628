"""LinearDynamics: z' = Xi z + b + B u as a layer of a network, with Xi kept in a set of matrices."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from ..engine.problem import as_tensor, check_finite
from ..errors import DtypeError, OptionError, ShapeError
from ..methods import Method, make_method
from ..ode import LinearODE
from .base import make_parametrization, modest


class LinearDynamics(nn.Module):
    """States of z'(t) = Xi z(t) + b + B u(t) with learned Xi, b and B; the initial state and the times are its input.

    Args:
        n: number of states.
        parametrization: the set in which Xi stays, whatever an optimiser does:

            - "free": every matrix
            - "stable": eigenvalues with negative real parts, all such matrices
            - "skew": Xi = -Xi^T, conserves z^T z
            - "symmetric": Xi = Xi^T
            - "low_rank": a diagonal matrix plus one of rank `rank`
            - "compartmental": flows between compartments, none made: Xi_ij >= 0 off the diagonal, column sums <= 0

            or a `torch.nn.Module` as `torch.nn.utils.parametrize` takes it, or its class (see `linode.nn.base`).
            With a pattern: "free", "generator" (rates of a Markov chain from column to row: entries off the diagonal
            are positive, columns sum to 0) or "laplacian" (minus the Laplacian of a graph with positive weights).
        pattern: where Xi may have entries, for large n: a sparse matrix whose values do not matter, or indices
            (2, nnz), rows and columns; for "generator" and "laplacian" the edges of the graph. The parameters are then
            one number an entry or an edge, and `Xi` is a `linode.SparseMatrix`.
        m: channels of the input u; 0 for none.
        bias: whether there is a constant forcing b.
        rank: of "low_rank".
        method: as for `linode.LinearODE`.
        device, dtype: of the parameters, float32 or float64; torch's defaults if None. The draw is the same for all.

    `Xi`, (n, n) and 1/time, may be assigned: `net.Xi = matrix` takes a tensor, an array or a list, and the parameters
    change in place, so that optimisers keep them. A matrix outside the set raises; `net.Xi = net.nearest(matrix)`
    takes one near to it. Each time Xi is read, torch computes it from the parameters.

    Xi starts at random, with eigenvalues around -1/2 and below 1 in size (see `linode.nn.base.modest`): choose a unit
    of time in which a trajectory lasts a few units. b starts at 0, and B is normal with variance 1/m.

    Raises:
        OptionError: n, m or rank is out of range; parametrization is not known. DtypeError: the dtype is another.
        MethodError: method is not known.

    Example:
        >>> import torch, linode.nn
        >>> net = linode.nn.LinearDynamics(2, "skew", dtype=torch.float64)
        >>> net.Xi = [[0.0, 1.0], [-1.0, 0.0]]
        >>> z = net(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.0, torch.pi / 2]))  # two trajectories
        >>> z.shape, z[:, 1].detach().round(decimals=6).abs().tolist()
        (torch.Size([2, 2, 2]), [[0.0, 1.0], [2.0, 0.0]])
    """

    Xi: Tensor
    B: Tensor | None
    b: Tensor | None
    _on_pattern: ClassVar[Callable[[], type[LinearDynamics]]]  # `PatternDynamics`, imported then; the package sets it
    _fit: ClassVar[Callable[..., tuple[Any, bool, str]]]  # `linode.fitting.initial.initial`; the package sets it

    def __new__(cls, *args: Any, pattern: Any = None, **options: Any) -> LinearDynamics:
        if pattern is not None and cls is LinearDynamics:
            cls = LinearDynamics._on_pattern()
        made: LinearDynamics = object.__new__(cls)
        return made

    def __init__(
        self,
        n: int,
        parametrization: str | nn.Module | type[nn.Module] = "free",
        *,
        m: int = 0,
        bias: bool = False,
        rank: int = 1,
        pattern: Any = None,
        method: str | Method = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for value, name, least in ((n, "n", 1), (m, "m", 0)):
            if not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be an int of at least {least}, got {value!r}")
        dtype = dtype or torch.get_default_dtype()
        if dtype not in (torch.float32, torch.float64):
            raise DtypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        if pattern is None:
            make_method(method)  # raises here if it is not known
        self.n, self.m, self.method, self._pattern = n, m, method, pattern
        # drawn and factored on the CPU in float64, so that the start depends on neither device nor dtype
        self._make_Xi(parametrization, rank)
        forcing = torch.empty(n, m + 1, dtype=torch.float64, device="cpu")
        self.register_parameter("B", nn.Parameter(forcing[:, :m].clone()) if m else None)
        self.register_parameter("b", nn.Parameter(forcing[:, m].clone()) if bias else None)
        self._reset_forcing()
        self.to(device=device or torch.get_default_device(), dtype=dtype)

    def _make_Xi(self, parametrization: Any, rank: int) -> None:
        made = make_parametrization(parametrization, rank)
        self.Xi = nn.Parameter(initial(made, self.n))
        register_parametrization(self, "Xi", made)
        self.parametrizations.Xi.__class__ = InFullPrecision  # type: ignore[union-attr]

    def forward(self, z0: Any, t: Any, u: Any = None) -> Tensor:
        """The states at times t, in any order.

        Their dtype is that of the parameters and z0 together, where half precision counts as float32. torch.autocast
        changes nothing here.

        Args:
            z0: state at t = 0, (*batch, n).
            t: (T,) or (*batch, T), units of 1/Xi; or a scalar.
            u: input of m channels, such as `linode.ZeroOrderHold(times, values)`; None is u = 0. Then B has no
                gradient, and `DistributedDataParallel` needs find_unused_parameters=True.

        Returns:
            z, (*batch, T, n), or (*batch, n) for a scalar t.

        Raises:
            OptionError: u came, but m = 0. Others as `linode.LinearODE`.

        Example:
            >>> import torch, linode.nn
            >>> net = linode.nn.LinearDynamics(2, m=1)
            >>> u = linode.ZeroOrderHold(torch.arange(3.0), torch.ones(3, 1))
            >>> net(torch.zeros(16, 2), torch.linspace(0.0, 3.0, 10), u).shape
            torch.Size([16, 10, 2])
        """
        return self.ode(z0, u)(t)

    def ode(self, z0: Any, u: Any = None) -> LinearODE:
        """The solver for the current Xi, b and B, with `explain`, `solve` and `propagator`; it decomposes Xi once.

        Args and Raises as for calling.

        Example:
            >>> import torch, linode.nn
            >>> net = linode.nn.LinearDynamics(3, "skew", dtype=torch.float64)
            >>> P = net.ode(torch.zeros(3)).propagator(2.0).detach()
            >>> bool(torch.dist(P.mT @ P, torch.eye(3)) < 1e-12)
            True
        """
        if u is not None and not self.m:
            raise OptionError("u came, but there is no B for it (m = 0); LinearDynamics(n, m=...) has inputs")
        return LinearODE(self.Xi, z0, b=self.b, B=None if u is None else self.B, u=u, method=self.method)

    @property
    def parametrization(self) -> Any:
        """The map from parameters to Xi: a `linode.nn.Parametrization`, or the module that was given.

        Example:
            >>> import linode.nn
            >>> linode.nn.LinearDynamics(2, "skew").parametrization
            Skew()
        """
        return self.parametrizations.Xi[0]  # type: ignore[union-attr, index]

    def nearest(self, matrix: Any) -> Tensor:
        """A matrix in the set near to this one (n, n), which may be assigned to Xi; the class says in which sense.

        Example:
            >>> import torch, linode.nn
            >>> net = linode.nn.LinearDynamics(2, "stable", dtype=torch.float64)
            >>> net.Xi = net.nearest([[0.1, 2.0], [-2.0, 0.1]])  # as estimated from noisy data: it grows
            >>> net.Xi.detach().round(decimals=9).tolist()
            [[-0.1, 2.0], [-2.0, -0.1]]
        """
        with torch.no_grad():
            return self.parametrization.nearest(self._checked(matrix))

    def init_from_data(self, t: Any, z: Any, u: Any = None) -> Tensor:
        """Start from a fit of data: set Xi, and B and b if they are parameters, to their least-squares estimates.

        Args:
            t, z, u: as for `linode.fit`, with as many channels as states; trajectories may come as z (K, T, n).

        Returns:
            The fitted states at the first time of each trajectory, (n,), or (K, n) for several. A warning is given if
            the fit did not converge, or if the data do not determine it.

        Raises:
            ShapeError: z does not have n channels, or has fewer values than unknowns. Others as `linode.fit`.

        Example:
            >>> import torch, linode
            >>> t = torch.linspace(0.0, 5.0, 50, dtype=torch.float64)
            >>> z = linode.LinearODE([[-0.1, 2.0], [-2.0, -0.1]], [1.0, 0.0])(t)
            >>> net = linode.nn.LinearDynamics(2, "stable", dtype=torch.float64)
            >>> z0 = net.init_from_data(t, z)
            >>> net.Xi.detach().round(decimals=6).tolist()
            [[-0.1, 2.0], [-2.0, -0.1]]
        """
        kind = getattr(self.parametrization, "name", None)
        found, is_list, doubt = self._fit(t, z, u, self.n, self.m, kind, self.b is not None)
        if doubt:
            warnings.warn(f"the fit of data is doubtful as a start: {doubt}", stacklevel=2)
        like = next(self.parameters())
        with torch.no_grad():
            Xi = torch.from_numpy(found.Xi).to(like)
            self.Xi = self.nearest(Xi) if hasattr(self.parametrization, "nearest") else Xi
            for own, value in ((self.B, found.B), (self.b, found.b)):
                if own is not None:
                    own.copy_(torch.from_numpy(value))
            return torch.from_numpy(found.z0 if is_list else found.z0[0]).to(like)

    def reset_parameters(self) -> None:
        """Set all parameters to new random values, drawn by torch's global generator.

        Example:
            >>> import torch, linode.nn
            >>> net, _ = linode.nn.LinearDynamics(2, "skew"), torch.manual_seed(0)
            >>> net.reset_parameters()
            >>> bool(torch.equal(net.Xi, -net.Xi.mT))
            True
        """
        self.Xi = initial(self.parametrization, self.n)
        self._reset_forcing()

    def extra_repr(self) -> str:
        return f"n={self.n}, m={self.m}, bias={self.b is not None}, method={self.method!r}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Layers pickle as wholes, although torch refuses to: their class, made by torch, is made again from the base.

        A `state_dict` is better to keep: it needs neither the code of a parametrisation nor trust in the file.
        """
        if "parametrizations" not in self._modules:
            return super().__reduce_ex__(protocol)
        return _unpickled, (type(self).__bases__[0], list(self.parametrizations)), self.__dict__  # type: ignore[arg-type]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "Xi" and "parametrizations" in self._modules:
            value = self._checked(value)
        super().__setattr__(name, value)

    def _checked(self, matrix: Any) -> Tensor:
        """A matrix assigned to Xi, checked, with the dtype and device of the parameters."""
        Xi = as_tensor(matrix, "Xi").detach()
        if Xi.shape != (self.n, self.n):
            raise ShapeError(f"Xi has shape {tuple(Xi.shape)}; Xi must be ({self.n}, {self.n})")
        if Xi.is_complex():
            raise DtypeError(f"Xi must be real, got {Xi.dtype}")
        check_finite(Xi, "Xi")
        return Xi.to(next(self.parametrizations.Xi.parameters()))  # type: ignore[union-attr]

    def _reset_forcing(self) -> None:
        if self.B is not None:
            nn.init.normal_(self.B, std=self.m**-0.5)
        if self.b is not None:
            nn.init.zeros_(self.b)


class InFullPrecision(ParametrizationList):
    """Xi from its parameters outside of autocast: products of half precision would not keep it in its set."""

    def forward(self) -> Tensor:
        device = next(self.parameters()).device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return super().forward()
        with torch.autocast(device, enabled=False):
            return super().forward()


def _unpickled(base: type[nn.Module], names: list[str]) -> nn.Module:
    """A module of the class that torch makes for one with these parametrised tensors; its state comes after."""
    module = base.__new__(base)
    nn.Module.__init__(module)
    for name in names:
        nn.Module.register_parameter(module, name, nn.Parameter(torch.zeros(1, device="cpu")))
        register_parametrization(module, name, nn.Identity())
    return module


def initial(parametrization: nn.Module, n: int) -> Tensor:
    """The matrix (n, n) that training starts from; a module that is no `Parametrization` may define `initial` too."""
    with torch.no_grad():
        return getattr(parametrization, "initial", modest)(n)
