"""Fit every problem for many seeds, beside the best that is possible and beside other packages."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import linode

try:
    from benchmarks import report
    from benchmarks.fitting import peers, series
    from benchmarks.fitting.problems import PROBLEMS, Problem, problem
    from benchmarks.fitting.reference import reference
    from benchmarks.fitting.table import written
    from benchmarks.harness import Settings
except ImportError as error:
    raise SystemExit(f"the benchmarks need {error.name}: pip install '.[compare,plot]' in the clone") from None

RESULTS = Path(__file__).parents[1] / "results"
NEAR = 1.05  # times the error of the minimum that is reached from the truth
PAUSE = 0.2  # seconds: threads of what ran before still spin for as long as that
OWN = "linode"
LIMIT = 20  # seconds, after which a contender hangs
COVERAGE_SEEDS = 100  # of the share of intervals that hold the truth
Z = 1.959964  # of a 95 % interval


class Hangs(Exception):
    """It took longer than LIMIT."""


def within_limit(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and the processor's time that it took, of all threads."""

    def stop(*_: Any) -> None:
        raise Hangs

    signal.signal(signal.SIGALRM, stop)
    time.sleep(PAUSE)
    signal.alarm(LIMIT)
    start = time.process_time()
    try:
        return call(), time.process_time() - start
    finally:
        signal.alarm(0)


def fitted(case: Problem) -> linode.FitResult:
    return linode.fit(case.t, case.z, case.u, **case.options)


def estimate_of(case: Problem, result: linode.FitResult) -> np.ndarray:
    return result.Xi if case.Xi is not None else result.predict(case.t)


def covered(case: Problem, result: linode.FitResult) -> list[bool]:
    """Which of the 95 % intervals hold the truth: of the entries of Xi, or of eigenvalues."""
    if case.Xi is not None:
        return (np.abs(result.Xi - case.Xi) <= Z * result.stderr).ravel().tolist()
    off = result.eigenvalues[:, None] - case.eigenvalues
    off = off[np.arange(len(off)), np.abs(off).argmin(1)]
    inside = np.abs(off.real) <= Z * result.eigenvalue_stderr.real
    moving = np.abs(result.eigenvalues.imag) > 0
    return [*inside, *(np.abs(off.imag) <= Z * result.eigenvalue_stderr.imag)[moving]]


@dataclass
class Found:
    """What a contender reached on the seeds that it was given: errors over those of the best, and over the bound."""

    name: str
    n_seeds: int
    ratios: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reason: str | None = None  # why it takes no part
    inside: list[bool] = field(default_factory=list)

    def attempt(self, case: Problem, seed: int, solve: Callable[[Problem], Any]) -> Any:
        """One seed; what came, or None."""
        try:
            result, seconds = within_limit(lambda: solve(case))
            error = peers.error_of(case, estimate_of(case, result) if self.name == OWN else result)
        except peers.NotDone as reason:
            self.reason = f"not for {reason}"
        except ImportError as reason:
            self.reason = f"not installed: {reason}"
        except (Exception, Hangs) as reason:
            self.notes.append(f"seed {seed}: {type(reason).__name__}: {str(reason)[:80]}".rstrip(": "))
        else:
            best = reference(case)
            self.ratios.append(error / best.error)
            self.errors.append(error / best.bound)
            self.times.append(seconds)
            return result
        return None

    def row(self) -> dict[str, Any]:
        if self.reason is not None:
            return {"contender": self.name, "note": self.reason}
        found = row(self.name, self.n_seeds, self.ratios, self.errors, self.times, self.notes)
        return found | ({"coverage": float(np.mean(self.inside))} if self.inside else {})


def measured(name: str, n_seeds: int, contenders: dict[str, Callable[[Problem], Any]]) -> list[dict[str, Any]]:
    """Rows of linode and others. Of each seed one after another, so that a slow moment of the machine meets all."""
    every = {OWN: fitted, **contenders}
    rows = {x: Found(x, min(n_seeds, peers.FEW_SEEDS.get(x, n_seeds))) for x in every}
    for x, solve in every.items():  # warm, and whether it takes part
        if x not in peers.FEW_SEEDS:
            warm = Found(x, 1)
            warm.attempt(problem(name, 0), 0, solve)
            rows[x].reason = warm.reason
    for seed in range(n_seeds):
        case = problem(name, seed)
        for x, solve in every.items():
            if rows[x].reason is None and seed < rows[x].n_seeds:
                result = rows[x].attempt(case, seed, solve)
                if x == OWN and result is not None:
                    rows[x].inside += covered(case, result)
                    rows[x].notes += [] if result else [f"seed {seed}: {result.status.name}"]
    for seed in range(n_seeds, COVERAGE_SEEDS):
        case = problem(name, seed)
        rows[OWN].inside += covered(case, fitted(case))
    return [x.row() for x in rows.values()]


def row(
    name: str, n_seeds: int, ratios: list[float], errors: list[float], times: list[float], notes: list[str]
) -> dict[str, Any]:
    finite = [x for x in errors if np.isfinite(x)]
    return {
        "contender": name,
        "n_seeds": n_seeds,
        "n_near": int(np.sum(np.array(ratios) <= NEAR)),
        "n_failed": n_seeds - len(ratios),
        "worst_ratio": float(np.max(ratios)) if ratios else None,
        "error_over_bound": float(np.median(finite)) if finite else None,
        "cpu_ms": 1e3 * float(np.median(times)) if times else None,
        "cpu_ms_slowest": 1e3 * float(np.max(times)) if times else None,
        "notes": notes,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fitting", description=__doc__)
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--no-peers", action="store_true", help="linode alone")
    parser.add_argument("--no-series", action="store_true", help="without the real series")
    parser.add_argument("--threads", type=int, default=2, help="torch.set_num_threads")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    path = options.output / "fit.json"
    results = json.loads(path.read_text()) if path.exists() else {"problems": {}, "series": []}
    for name in options.problem:
        others = {} if options.no_peers else {x: partial(peers.quietly, solve) for x, solve in peers.PEERS.items()}
        rows = measured(name, options.seeds, others)
        results["problems"][name] = rows
        print(name, *(f"  {x}" for x in rows), sep="\n", flush=True)
    if not options.no_series:
        results["series"] = series.measure()
        print(*results["series"], sep="\n")
    results["conditions"] = report.conditions(Settings())
    for key in ("rounds", "order_seed"):  # seeds are what is repeated here
        del results["conditions"][key]
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(written(results))
    print(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
