"""Keeps the last result together with the tensors that it was computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor

from .tensors import is_equal

Value = TypeVar("Value")


class Memory(Generic[Value]):
    """Keeps one value and finds it again for tensors of equal values. Threads may share it: what is kept is replaced as
    a whole and read once. A copy, or what a pickle restores, is empty.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Tensor, ...], Value] | None = None

    def known(self, *made_from: Tensor) -> Value | None:
        """The value kept for these tensors, or None."""
        last = self._last  # one read: another thread may replace it
        if last is None or len(last[0]) != len(made_from):
            return None
        return last[1] if all(is_equal(x, y) for x, y in zip(last[0], made_from)) else None

    def keep(self, value: Value, *made_from: Tensor, are_own: bool = False) -> Value:
        """Keep the value instead of the last one; the tensors are copied, as they may be changed in place, unless they
        are the value's own.
        """
        self._last = made_from if are_own else tuple(_copy(x) for x in made_from), value
        return value

    def of(self, make: Callable[[], Value], *made_from: Tensor) -> Value:
        """The value kept for these tensors, or else a new one."""
        known = self.known(*made_from)
        return self.keep(make(), *made_from) if known is None else known

    def of_copy(self, make: Callable[[Tensor], Value], x: Tensor) -> Value:
        """The same of one tensor; the new value is made from the copy that is kept, which never changes."""
        known = self.known(x)
        if known is None:
            own = _copy(x.detach())
            known = self.keep(make(own), own, are_own=True)
        return known

    @property
    def last(self) -> Value | None:
        """The value kept, whatever it was made from."""
        last = self._last
        return None if last is None else last[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, ()


def _copy(x: Tensor) -> Tensor:
    """A copy; what expand() repeats is copied once."""
    if x.numel() == 0 or 0 not in x.stride():
        return x.clone()
    once = x[tuple(slice(1) if stride == 0 else slice(None) for stride in x.stride())]
    return once.clone().expand(x.shape)
