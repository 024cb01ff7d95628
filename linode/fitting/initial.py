"""A start for training: a fit of a system whose states are all observed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError
from .data import make_data
from .estimate import FitStatus
from .identify import Question, identify
from .judgement import judge
from .structures import NAMED


def initial(t: Any, z: Any, u: Any, n: int, m: int, kind: str | None, has_bias: bool) -> tuple[Any, bool, str]:
    """The estimate, whether there are several trajectories, and why the estimate is doubtful, or an empty text.

    Raises:
        ShapeError: z has not n channels, or u not m. Others as `linode.fit`.
    """
    data, is_list = make_data(t, z, u, None)
    if data.p != n:
        raise ShapeError(f"z has {data.p} channels; to start {n} states from data it must have as many")
    if data.m != m:
        raise ShapeError(f"u has {data.m} channels, but m = {m}")
    known = {"b": np.full(n, np.nan)} if has_bias else {}
    question = Question(data, n, kind if kind in NAMED else None, kind == "stable", known=known)
    found = identify(question, lambda name: None)
    status, message = judge(found, data, False)
    return found, is_list, message if status in (FitStatus.NOT_CONVERGED, FitStatus.NOT_IDENTIFIABLE) else ""
