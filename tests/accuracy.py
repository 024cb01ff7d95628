"""Score methods on the hard cases: values and gradients against ball arithmetic, judged by condition.

    python -m tests.accuracy --method auto --method schur [--only jordan] [--worst 20]

A method is any name that linode knows, or `matrix_exp`: torch.linalg.matrix_exp under autograd, a peer.
A case passes if ||z - z*|| <= max(1e-13, 100 cond eps) ||z*|| and each gradient (S, a, dt) has
||x - x*|| <= max(1e-12, 1000 cond eps) ||x*||: Frobenius norms over all times, cond the condition number of
that quantity, once normwise and once componentwise. An exception, or anything not finite, is a fail.
Where the truth is exactly zero, errors are relative to its size before cancellation: `natural_scale`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

import linode
from tests import oracles
from tests.cases import CASES, Case

EPS = 2.0**-52
SPECIAL = {"metzler"}  # methods for matrices of one kind, which refuse those of the tests of all others: see their own
GENERAL = sorted(linode.methods.registry().keys() - SPECIAL)
QUANTITIES = ("z", "S", "a", "dt")
Answer = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # z (T, n), S (n, n), a (n,), dt (T,)


@dataclass(frozen=True)
class Truth:
    """What the oracles say of a case."""

    z: np.ndarray
    gradients: oracles.Gradients
    condition: oracles.Condition
    gradient_condition: oracles.GradientCondition


@dataclass(frozen=True)
class Record:
    """Errors of one method on one case, and the errors allowed; all four keyed by z, S, a, dt."""

    name: str
    kind: str
    errors: dict[str, float]
    normwise: dict[str, float]
    componentwise: dict[str, float]
    failure: str = ""

    @property
    def passes_normwise(self) -> bool:
        return not self.failure and all(self.errors[q] <= self.normwise[q] for q in QUANTITIES)

    @property
    def passes_componentwise(self) -> bool:
        return not self.failure and all(self.errors[q] <= self.componentwise[q] for q in QUANTITIES)


# ---- truth and errors --------------------------------------------------------------------------------------


def truth_of(case: Case) -> Truth:
    """The oracles' answers, from tests/.cache where they were computed before."""
    arguments = (case.Xi, case.z0, case.t)
    return Truth(
        oracles.trajectory(*arguments),
        oracles.gradients(*arguments, case.g),
        oracles.condition(*arguments),
        oracles.condition_of_gradients(*arguments, case.g),
    )


def norm(x: np.ndarray) -> float:
    """Frobenius norm that neither overflows nor underflows."""
    size = float(np.max(np.abs(x), initial=0.0))
    return size * float(np.linalg.norm(x / size)) if 0.0 < size < np.inf else size


def natural_scale(case: Case, truth: Truth, quantity: str) -> float:
    """The size a quantity has before cancellation, or 1 where that is zero too.

    z: ||z0||; S: sum_i |t_i| ||g_i|| ||z_i||; a: sum_i ||g_i||; dt: ||Xi|| max_i ||g_i|| ||z_i||.
    """
    g, z = ([norm(row) for row in rows] for rows in (case.g, truth.z))
    scales = {
        "z": norm(case.z0),
        "S": sum(abs(s) * p * q for s, p, q in zip(case.t, g, z)),
        "a": sum(g),
        "dt": norm(case.Xi) * max((p * q for p, q in zip(g, z)), default=0.0),
    }
    return scales[quantity] or 1.0


def relative_error(got: np.ndarray, true: np.ndarray, scale_at_zero: float) -> float:
    if got.shape != true.shape or not np.isfinite(got).all():
        return np.inf
    return norm(got - true) / (norm(true) or scale_at_zero)


def allowed(z_condition: float, gradient_condition: oracles.Gradients) -> dict[str, float]:
    gradients = {q: max(1e-12, 1000 * getattr(gradient_condition, q) * EPS) for q in QUANTITIES[1:]}
    return {"z": max(1e-13, 100 * z_condition * EPS), **gradients}


def score(case: Case, z: np.ndarray, S: np.ndarray, a: np.ndarray, dt: np.ndarray, failure: str = "") -> Record:
    """Judge an answer; `failure` is the text of an exception, if one ended the attempt."""
    truth = truth_of(case)
    pairs = zip(QUANTITIES, (z, S, a, dt), (truth.z, *truth.gradients))
    errors = {q: relative_error(got, true, natural_scale(case, truth, q)) for q, got, true in pairs}
    return Record(
        case.name,
        case.kind,
        errors,
        allowed(truth.condition.normwise, truth.gradient_condition.normwise),
        allowed(truth.condition.componentwise, truth.gradient_condition.componentwise),
        failure,
    )


# ---- methods -----------------------------------------------------------------------------------------------


def differentiate(case: Case, solve: Callable[..., torch.Tensor]) -> Answer:
    """z and the gradients of Re <g, z> from solve(Xi, z0, t) -> z, by autograd."""
    Xi, z0, t = (torch.tensor(x, requires_grad=True) for x in (case.Xi, case.z0, case.t))
    z = solve(Xi, z0, t)
    loss = (torch.tensor(case.g).conj() * z).real.sum()
    S, a, dt = torch.autograd.grad(loss, (Xi, z0, t))
    z_, S_, a_, dt_ = (x.detach().resolve_conj().numpy() for x in (z, S, a, dt))
    return z_, S_, a_, dt_


def matrix_exp_method(case: Case) -> Answer:
    return differentiate(case, lambda Xi, z0, t: torch.linalg.matrix_exp(Xi * t[:, None, None]) @ z0)


def linode_method(method: str) -> Callable[[Case], Answer]:
    return lambda case: differentiate(case, lambda Xi, z0, t: linode.LinearODE(Xi, z0, method=method)(t))


def evaluator(method: str) -> Callable[[Case], Answer]:
    return matrix_exp_method if method == "matrix_exp" else linode_method(method)


def score_method(evaluate: Callable[[Case], Answer], cases: Sequence[Case] = CASES) -> list[Record]:
    """One record a case; an exception is a failed record, whatever its type."""
    records = []
    for case in cases:
        try:
            answer, failure = evaluate(case), ""
        except Exception as error:
            missing = np.full(1, np.nan)
            answer, failure = (missing,) * 4, f"{type(error).__name__}: {error}".splitlines()[0]
        records.append(score(case, *answer, failure=failure))
    return records


# ---- report ------------------------------------------------------------------------------------------------


def lines_of(record: Record) -> list[str]:
    """What went wrong, one line for each quantity that fails either way; `!` marks a normwise fail."""
    if record.failure:
        return [f"! {record.name:34s} {record.failure[:90]}"]
    lines = []
    for q in QUANTITIES:
        error, normwise, componentwise = record.errors[q], record.normwise[q], record.componentwise[q]
        if error > min(normwise, componentwise):
            mark = "!" if error > normwise else " "
            limits = f"allowed normwise {normwise:8.1e}  componentwise {componentwise:8.1e}"
            lines.append(f"{mark} {record.name:34s} {q:2s}  error {error:8.1e}  {limits}")
    return lines


def worst_ratio(record: Record) -> float:
    """The largest error in units of what is allowed componentwise: the order in which --worst lists."""
    return np.inf if record.failure else max(record.errors[q] / record.componentwise[q] for q in QUANTITIES)


def summary(records: Sequence[Record]) -> str:
    normwise, componentwise = (sum(getattr(r, f"passes_{x}") for r in records) for x in ("normwise", "componentwise"))
    return f"normwise {normwise}/{len(records)}, componentwise {componentwise}/{len(records)}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", action="append", help="a linode method or matrix_exp; repeatable (default: auto)")
    parser.add_argument("--only", default="", help="score only cases whose name or kind contains this")
    parser.add_argument("--worst", type=int, default=0, help="list only the N worst failing cases (default: all)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    cases = [case for case in CASES if options.only in case.name or options.only in case.kind]
    summaries = []
    for method in options.method or ["auto"]:
        start = time.perf_counter()
        records = score_method(evaluator(method), cases)
        failing = [record for record in records if not (record.passes_normwise and record.passes_componentwise)]
        if options.worst:
            failing = sorted(failing, key=worst_ratio, reverse=True)[: options.worst]
        print(f"--- {method}")
        for record in failing:
            print(*lines_of(record), sep="\n")
        summaries.append(f"{method:16s} {summary(records)}   ({time.perf_counter() - start:.1f} s)")
    print("---", *summaries, sep="\n")


if __name__ == "__main__":
    main()
