"""What torch.compile may not trace: functions in which a decision depends on values."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

from ..kernels.private import break_graph

Function = TypeVar("Function", bound=Callable[..., Any])


def untraced(function: Function) -> Function:
    """Decorator: torch.compile runs the function as it is, outside of its graph: decisions in it depend on values."""
    advice = (
        f"{function.__qualname__} of linode reads values, so it cannot be part of a compiled graph: call it outside of "
        "the compiled function, or compile with fullgraph=False"
    )

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not torch.compiler.is_compiling():
            return function(*args, **options)
        break_graph(advice)
        return torch.compiler.disable(function)(*args, **options)

    return call  # type: ignore[return-value]
