"""The number of states of a fit: the smallest whose forecast of held-out samples is as good as the best one.

Every fifth time is held out, so that modes that die away early count too. Ranks are tried one after another until
several in a row are no better. Beside each stand the singular values of the matrix of delayed samples.
Source: Hastie, Tibshirani & Friedman (2009), The Elements of Statistical Learning, section 7.10 (held-out error, and
the simplest model within an error of the best one).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import LinodeError
from .data import Data
from .identify import Question, check_enough, identify
from .products import Array, sum_of_squares
from .progress import Report
from .states import observations_of
from .unknowns import free_matrices

EVERY, FIRST = 5, 3  # of the times is held out, from which on
MOST_RANK, PATIENCE = 12, 4  # ranks that are tried, and how many in a row may be no better: two pairs of modes
MOST_DELAYS = 40  # rows of delayed samples, each of all channels
EXACT = 1e-12  # error, of the root mean square of the data, below which there is only rounding
NOISE = 2.0  # standard deviations of the held-out error within which ranks are equally good


@dataclass(frozen=True)
class RankScore:
    """A rank that was tried: the singular value of that number, of the first one, NaN where there is none, and the root
    mean square error of held-out values, over their noise where sigma is known.

    Example:
        >>> import numpy as np, linode
        >>> t = np.linspace(0.0, 5.0, 60)
        >>> z = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(60)
        >>> result = linode.fit(t, z, rank="auto")
        >>> result.ranks[0].rank, len(result.Xi)
        (1, 1)
    """

    rank: int
    singular_value: float
    held_out_error: float


def choose_rank(question: Question, report: Report) -> tuple[int, tuple[RankScore, ...]]:
    """The rank, and the figures of all that were tried.

    Raises:
        ShapeError: there are too few values for one state.
    """
    data = question.data
    out = np.asarray((np.arange(data.t.shape[1]) % EVERY == FIRST) & (data.counts[:, None] > EVERY))
    kept = replace(data, w=data.w * ~out[..., None], y=data.y * ~out[..., None])
    n_held_out = int(np.count_nonzero(data.w * out[..., None]))
    values, scores = singular_values(data), list[RankScore]()
    exact = EXACT * float(np.sqrt(sum_of_squares(data.w * data.y) / data.n_values))
    best, since = np.inf, 0
    for rank in range(1, MOST_RANK + 1):
        part = replace(question, data=kept, n=rank)
        try:
            check_enough(kept, part.unknowns(free_matrices(rank)))
        except LinodeError:
            if rank == 1:
                raise
            break
        error = held_out_error(part, data, out, report)
        scores.append(RankScore(rank, float(values[rank - 1]) if rank <= len(values) else float("nan"), error))
        better = error < best / (1 + NOISE / np.sqrt(2 * max(1, n_held_out)))
        best, since = min(best, error), 0 if better else since + 1
        if since >= PATIENCE or error <= exact:
            break
    limit = max(best * (1 + NOISE / np.sqrt(2 * max(1, n_held_out))), exact)
    chosen = next(score.rank for score in scores if score.held_out_error <= limit) if np.isfinite(limit) else 1
    return chosen, tuple(scores)


def held_out_error(question: Question, data: Data, out: Array, report: Report) -> float:
    """Root mean square of the weighted errors where values are held out; infinite where there is no fit."""
    try:
        found = identify(question, report)
    except LinodeError:
        return float("inf")
    with np.errstate(all="ignore"):
        off = (data.w * (data.y - observations_of(found, data)))[out]
        error = float(np.sqrt(np.square(off).sum() / max(1, np.count_nonzero(data.w[out]))))
    return error if np.isfinite(error) else float("inf")


def singular_values(data: Data) -> Array:
    """Singular values, over the largest, of delayed samples of all channels; of samples where times are irregular.

    Rows with missing values are left out.
    """
    length = min(MOST_DELAYS, int(data.counts.min()) // 2) if data.step is not None else 1
    rows = []
    for k in range(data.K):
        count = int(data.counts[k])
        y, seen = data.y[k, :count], np.asarray((data.w[k, :count] > 0).all(-1))
        for i in range(count - length + 1):
            if seen[i : i + length].all():
                rows.append(y[i : i + length].ravel())
    if not rows:
        return np.zeros(0)
    s: Array = np.linalg.svd(np.stack(rows), compute_uv=False)
    return s / s[0] if s[0] > 0 else s
