"""Sums of exponentials and sinusoids as inputs: one piece, whose states follow v' = diag(rates) v."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.problem import as_tensor, check_finite_anywhere, check_same_device
from ..errors import ShapeError
from ..kernels.embedding import real_matrix
from ..kernels.tensors import widened
from .base import Input
from .pieces import Generator, Pieces


class Harmonics(Input):
    """u(t) = Re sum_j amplitudes[j] exp(rates[j] t): exponentials, sinusoids, damped ones.

    Args:
        rates: (J,), real (growth or decay) or complex (imaginary part: angular frequency), 1/time.
        amplitudes: (*batch, J, m), real or complex. A cos(w t + p) is the rate 1j w with amplitude A exp(1j p).

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError: an argument that cannot be used, by name.

    Example:
        >>> import linode
        >>> u = linode.Harmonics([1j], [[2.0]])  # 2 cos(t)
        >>> z = linode.LinearODE([[0.0]], [0.0], B=[[1.0]], u=u)([1.0])  # 2 sin(1)
        >>> round(float(z[0, 0]), 12)
        1.682941969616
    """

    def __init__(self, rates: Any, amplitudes: Any) -> None:
        self.is_numpy = not isinstance(rates, Tensor) and not isinstance(amplitudes, Tensor)
        self.rates, self.amplitudes = (
            as_tensor(rates, "rates", beside=(amplitudes,)),
            as_tensor(amplitudes, "amplitudes", beside=(rates,)),
        )
        check_same_device({"rates": self.rates, "amplitudes": self.amplitudes})
        if self.rates.ndim != 1:
            raise ShapeError(f"rates has shape {tuple(self.rates.shape)}; rates must be (J,)")
        J = self.rates.shape[0]
        if self.amplitudes.ndim < 2 or self.amplitudes.shape[-2] != J:
            raise ShapeError(
                f"amplitudes has shape {tuple(self.amplitudes.shape)}; amplitudes must be (*batch, J, m) with J = {J}"
            )
        self.m, self.batch = self.amplitudes.shape[-1], self.amplitudes.shape[:-2]
        self.tensors = (self.rates, self.amplitudes)
        self.dtype = torch.promote_types(self.rates.real.dtype, self.amplitudes.real.dtype)
        self._checked()

    def _checked(self) -> tuple[Tensor, Tensor]:
        for x, name in ((self.rates, "rates"), (self.amplitudes, "amplitudes")):
            check_finite_anywhere(x, name)
        return widened(self.rates), widened(self.amplitudes)

    def pieces(self, start: float, stop: float, asked: Tensor | None = None) -> Pieces:
        rates, amplitudes = self._checked()
        if rates.is_complex() or amplitudes.is_complex():
            rates, amplitudes = (
                x if x.is_complex() else torch.complex(x, torch.zeros_like(x)) for x in (rates, amplitudes)
            )
            Omega, H = real_matrix(torch.diag(rates)), torch.cat([amplitudes.real, -amplitudes.imag], -2).mT
        else:
            Omega, H = torch.diag(rates), amplitudes.mT
        first = torch.zeros(Omega.shape[-1], dtype=Omega.dtype, device=Omega.device)
        first[: rates.shape[0]] = 1  # exp(rates t) at t = 0, as real and imaginary parts
        none = torch.zeros(0, dtype=torch.float64, device=Omega.device)
        return Pieces(none, none, torch.zeros_like(first[:1]), first[None], self.m, generator=Generator(Omega, H))
