"""Whether a solver still holds the tensors that its user goes on with.

A solver keeps tensors, not copies, so that it sees what an optimiser changes in place. Two things break this without a
sign: a torch.nn.Module that puts another tensor in the place of a parameter (load_state_dict(assign=True),
functional_call, register_parametrization), and an argument of which the solver had to make a copy. Here both are
noticed when the solver is used again.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..errors import StaleError

MOST_FRAMES = 4  # how far up the stack a module is looked for: its method calls the solver, or a function that does


def is_being_made() -> bool:
    """Whether the solver is made by an __init__, a few calls up the stack, other than its own; torch.compile: False."""
    if is_compiling():
        return False
    frame = sys._getframe(1).f_back  # of the caller of the solver's own __init__
    for _ in range(MOST_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_name == "__init__":
            return True
        frame = frame.f_back
    return False


class Held:
    """What was given to a solver, by the name of the argument, and where it comes from."""

    def __init__(self, given: dict[str, Any], kept: dict[str, Any]) -> None:
        """kept: what the solver made of the arguments; where that is another tensor, it is a copy."""
        self.owner: Any = None
        self.homes: list[tuple[str, str, Tensor]] = []  # argument, name in the owner
        self.copied: list[tuple[str, Tensor, int]] = []  # argument, tensor, version
        if is_compiling():
            return
        tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
        if not tensors:
            return
        self.copied = [
            (name, x, x._version) for name, x in tensors.items() if x is not kept.get(name) and not x.is_inference()
        ]
        frame = sys._getframe(2)
        for _ in range(MOST_FRAMES):
            code = frame.f_code
            if code.co_argcount and code.co_varnames[0] == "self":
                module = frame.f_locals.get("self")
                if isinstance(module, torch.nn.Module):
                    own = {id(x): name for x, name in _tensors_of(module)}
                    self.homes = [(name, own[id(x)], x) for name, x in tensors.items() if id(x) in own]
                    if self.homes:
                        self.owner = weakref.ref(module)
                        return
            if frame.f_back is None:
                return
            frame = frame.f_back

    def check(self) -> None:
        """Raise where a tensor is no longer what the user goes on with."""
        if is_compiling():
            return
        for name, x, version in self.copied:
            if x._version != version:
                raise StaleError(
                    f"{name} ({x.dtype}) was copied when this solver was made and has changed in place since: make the "
                    "solver anew after each change (Xi and z0 of float32 or float64 are kept, not copied, by LinearODE)"
                )
        module = self.owner() if self.owner is not None else None
        if module is None:
            return
        for name, place, x in self.homes:
            if module._parameters.get(place) is not x and module._buffers.get(place) is not x:
                raise StaleError(
                    f"{name} was {type(module).__name__}.{place} when this solver was made and is not any more "
                    "(load_state_dict(assign=True), functional_call, a parametrization or a new dtype of a buffer puts "
                    "another tensor there): make the solver where it is used, in forward"
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        """Of a solver that is copied with its module; copied alone, its tensors are its own."""
        other: Held = object.__new__(Held)
        other.owner, other.homes, other.copied = None, [], []
        module = memo.get(id(self.owner())) if self.owner is not None else None
        if module is not None:
            other.owner = weakref.ref(module)
            other.homes = [(name, place, memo[id(x)]) for name, place, x in self.homes if id(x) in memo]
        return other

    def __reduce__(self) -> Any:
        return Held, ({}, {})


def _tensors_of(module: torch.nn.Module) -> list[tuple[Tensor, str]]:
    """A module's own parameters and buffers."""
    own = [*module._parameters.items(), *module._buffers.items()]
    return [(x, name) for name, x in own if x is not None]
