"""The forcing b + B u(t), checked, and the solution of z'(t) = Xi z(t) + b + B u(t) as a sum over inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..engine.problem import (
    as_tensor,
    check_finite_anywhere,
    check_same_device,
    common_shape,
    concrete,
    extremes,
    is_known,
)
from ..engine.tracing import untraced
from ..errors import ShapeError
from ..kernels.tensors import is_finite
from . import Input, compiled, make_input
from .block import Planners
from .drive import Drive
from .pieces import no_pieces


@dataclass(frozen=True)
class Forcing:
    """Checked b (*batch, n), B (*batch, n, m) and inputs, whose sum is u."""

    b: Tensor | None = None
    B: Tensor | None = None
    inputs: tuple[Input, ...] = ()

    @classmethod
    def make(cls, b: Any, B: Any, u: Any, Xi: Tensor) -> tuple[Forcing, bool]:
        """The checked forcing of Xi (*batch, n, n), and whether it holds no tensor of the user."""
        n, tensors, is_numpy = Xi.shape[-1], {"Xi": Xi}, not any(isinstance(x, Tensor) for x in (b, B))
        if b is not None:
            b = tensors["b"] = as_tensor(b, "b", integers_become=Xi.dtype)
            if b.ndim < 1 or b.shape[-1] != n:
                raise ShapeError(f"b has shape {tuple(b.shape)}, but Xi is {n} x {n}; b must be (*batch, {n})")
            check_finite_anywhere(b, "b")
        if B is not None:
            B = tensors["B"] = as_tensor(B, "B", integers_become=Xi.dtype)
            if B.ndim < 2 or B.shape[-2] != n:
                raise ShapeError(f"B has shape {tuple(B.shape)}, but Xi is {n} x {n}; B must be (*batch, {n}, m)")
            check_finite_anywhere(B, "B")
        if u is None:
            if not all(x.is_cpu for x in tensors.values()):
                check_same_device(tensors)
            return cls(b, B), is_numpy
        u = make_input(u, n if B is None else B.shape[-1])
        needed = f"Xi is {n} x {n} and there is no B" if B is None else f"B is {B.shape[-2]} x {B.shape[-1]}"
        if u.m != (n if B is None else B.shape[-1]):
            raise ShapeError(f"u has {u.m} channels, but {needed}")
        if not all(x.is_cpu for x in (*tensors.values(), *u.tensors)):
            check_same_device({**tensors, **{f"u ({i})": x for i, x in enumerate(u.tensors)}})
        return cls(b, B, u.parts), is_numpy and u.is_numpy

    @property
    def is_nothing(self) -> bool:
        return self.b is None and self.inputs == ()

    @property
    def batches(self) -> dict[str, torch.Size]:
        """Batch dimensions of b, B and u, by name."""
        named = {} if self.b is None else {"b": self.b.shape[:-1]}
        if self.inputs:
            named |= {} if self.B is None else {"B": self.B.shape[:-2]}
            named |= {f"u[{i}]" if i else "u": part.batch for i, part in enumerate(self.inputs)}
        return named

    def dtype(self, other: torch.dtype) -> torch.dtype:
        """The dtype of results: of the forcing together with `other`."""
        own = {x.dtype for x in (self.b, self.B if self.inputs else None) if x is not None}
        own |= {part.dtype for part in self.inputs} - {other}
        return reduce(torch.promote_types, own, other)

    def words(self) -> list[str]:
        """The parts of the forcing in words, for `explain`."""
        return ["constant b"] * (self.b is not None) + [str(part) for part in self.inputs]

    @property
    def is_approximate(self) -> bool:
        """Whether an input is a function that is sampled."""
        return any(part.is_approximate for part in self.inputs)

    def doubt(self, z: Tensor) -> float:
        """What sampling of functions may have changed in the last solution z, relative to its largest entry: an upper
        bound, unless errors grow faster than z; far too large where they decay.
        """
        area = torch.zeros((), dtype=torch.float64, device="cpu")
        for part in self.inputs:
            if part.misfit is not None:
                own = part.misfit.area
                gain = None if self.B is None else concrete(self.B).abs().cpu().to(own)
                area = area + (own if gain is None else (gain @ own[:, None])[..., 0]).max()
        size = float(concrete(z).abs().max()) if z.numel() else 0.0
        return float(area) / size if size else float(area > 0)

    def refined(self) -> Forcing | None:
        """The same forcing with denser samples of functions of t; None if all inputs are exact."""
        finer = tuple(part.refined() for part in self.inputs)
        if all(part is None for part in finer):
            return None
        return replace(self, inputs=tuple(new or old for new, old in zip(finer, self.inputs)))

    def snapshot(self) -> Forcing:
        """The same forcing with copies of all tensors, which may be changed in place."""
        b, B = (None if x is None else x.detach().clone() for x in (self.b, self.B))
        return Forcing(b, B, tuple(part.snapshot() for part in self.inputs))

    def fixed(self) -> Forcing:
        """The same forcing, whose functions of t go on with the samples that they have."""
        return replace(self, inputs=tuple(part.fixed() for part in self.inputs)) if self.is_approximate else self

    @untraced
    def states(self, Xi: Tensor, z0: Tensor, t: Tensor, planners: Planners, switches: Tensor | None = None) -> Tensor:
        """z (*batch, T, n), for Xi (*batch, J, n, n) that switches J - 1 times, from each of `switches` on, in the
        dtype of all together.

        Each input is solved for alone: the first with z0 and b, the others from the state 0.
        """
        b, B, dtype = self.b, self.B, self.dtype(torch.promote_types(Xi.dtype, z0.dtype))
        wide = torch.complex128 if dtype.is_complex else torch.float64
        Xi, z0 = Xi if Xi.dtype == wide else Xi.to(wide), z0 if z0.dtype == wide else z0.to(wide)
        b = b if b is None or b.dtype == wide else b.to(wide)
        B = B if B is None or B.dtype == wide else B.to(wide)
        times, is_checked, solutions = extremes(t), False, []
        if not times[1] - times[0] < math.inf:
            check_finite_anywhere(t, "t")
        for i, part in enumerate(self.inputs or (None,)):
            pieces = no_pieces(Xi.shape[-1], t.device) if part is None else part.pieces(*times, t)
            systems = Xi
            if switches is not None:
                pieces, index = pieces.merged(switches)
                systems = Xi[..., index, :, :]
            x0, own_b = (z0, b) if i == 0 else (torch.zeros_like(z0), None)
            own_B = None if part is None else B
            pieces = pieces if part is None else pieces.to(Xi)
            z = compiled.states(systems, x0, own_b, own_B, pieces, t, times, planners)
            if z is None:  # it gives finite states of finite arguments only
                is_checked = is_checked or _check({"b": b, "B": B, "Xi": Xi, "z0": z0})
                own = planners.child(f"input {i}")
                z = Drive.of(systems, own_b, own_B, pieces.to(Xi), times, own).states(x0, t)
            solutions.append(z)
        total = solutions[0] if len(solutions) == 1 else reduce(torch.add, solutions)
        if total.ndim > 2 or Xi.ndim + z0.ndim + t.ndim > 5 or any(map(len, self.batches.values())):
            found = total.shape[:-2]  # a function of t may have a batch that is not known before
            batch = common_shape(Xi.shape[:-3], z0.shape[:-1], t.shape[:-1], found, *self.batches.values())
            if total.shape[:-2] != batch:  # at t = 0 alone nothing depends on Xi and the inputs
                total = total.expand(*batch, *total.shape[-2:]).contiguous()
        if len(solutions) > 1 and is_known(total) and not is_finite(total.detach()):
            is_past = reduce(torch.logical_or, (x.isinf() for x in solutions))
            total = torch.where(total.isnan() & is_past, torch.inf, total)  # inf - inf gave NaN; report inf
        return total if dtype == wide else total.to(dtype)


def _check(given: dict[str, Tensor | None]) -> bool:
    """True; raises where an argument is not finite."""
    if not all(x is None or (is_known(x) and is_finite(x)) for x in given.values()):
        for name, x in given.items():
            if x is not None:
                check_finite_anywhere(x, name)
    return True
