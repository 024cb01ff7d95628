"""States and gradients past the largest float: what overflowed is computed again in arithmetic that cannot.

What is a float then comes out as one, also where it is a sum or a product of others that are not; the rest is infinite,
with its sign. No result is NaN. Shapes as in methods.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.arithmetic.ranged import Ranged
from ..kernels.stepping import Stepper, choose_step, power_norm, scattered, scattered_vjp
from ..kernels.taylor import DOUBLE

INFINITE = 2.0**40  # exponent of a number that no product brings back among the floats


def states(Xi: Tensor, z0: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """z, with the times anew at which something overflowed."""
    bad = ~torch.isfinite(z).all(-1)
    return torch.where(bad[..., None], _trajectory(Xi, z0, torch.where(bad, t, 0)).round(), z)


def gradients(Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """S and a of sum Re<g, z>, for systems whose S or a overflowed."""
    t = torch.where((g != 0).any(-1), t, 0)  # other times do not matter
    S, a = Ranged(torch.zeros_like(Xi)), Ranged(torch.zeros_like(z0))
    for sign in (1.0, -1.0):
        own = (sign * t).clamp(min=0)
        is_own = ((t >= 0) == (sign > 0))[..., None]
        if bool(is_own.any()):
            S_own, a_own = scattered_vjp(_step(sign * Xi), Ranged(z0), own, _beyond(torch.where(is_own, g, 0)))
            S, a = S + (S_own if sign > 0 else -S_own), a + a_own
    return S.round(), a.round()


def rates(Xi: Tensor, z0: Tensor, t: Tensor, g: Tensor) -> Tensor:
    """Re<g, Xi z>, (S, R, T)."""
    S, R, T, n = g.shape
    z = _trajectory(Xi, z0, t).reshape(S, R * T, n)
    products = _beyond(g.reshape(S, R * T, n).conj_physical()) * (z @ Ranged(Xi.mT))
    return (products @ Ranged(torch.ones(S, n, 1, dtype=g.dtype, device=g.device))).round().real.reshape(S, R, T)


def _trajectory(Xi: Tensor, z0: Tensor, t: Tensor) -> Ranged:
    """z(t), for times of any sign."""
    forth, back = (scattered(_step(sign * Xi), Ranged(z0), (sign * t).clamp(min=0)) for sign in (1.0, -1.0))
    is_forth = (t > 0)[..., None]
    return forth.like(*(torch.where(is_forth, x, y) for x, y in zip(forth.parts, back.parts)))


def _beyond(g: Tensor) -> Ranged:
    """g; what is infinite becomes a number beyond all floats, so that its product with 0 is 0."""
    parts = torch.view_as_real(g.resolve_conj()) if g.is_complex() else g[..., None]
    is_infinite = torch.isinf(parts)
    has_infinite = is_infinite.any(-1)
    parts = torch.where(has_infinite[..., None], torch.where(is_infinite, parts.sign(), 0), parts)
    numbers = torch.view_as_complex(parts) if g.is_complex() else parts[..., 0]
    return Ranged(numbers, torch.where(has_infinite, INFINITE, 0.0).to(parts.dtype))


def _step(A: Tensor) -> Stepper:
    return Stepper(Ranged(A), choose_step(*power_norm(A)), DOUBLE)
