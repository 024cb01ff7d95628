"""Fit every problem for many seeds, beside the best that is possible and beside other packages."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import linode
from benchmarks import report
from benchmarks.fitting import peers, series
from benchmarks.fitting.problems import PROBLEMS, Problem, problem
from benchmarks.fitting.reference import reference
from benchmarks.fitting.table import written
from benchmarks.harness import Settings

RESULTS = Path(__file__).parents[1] / "results"
NEAR = 1.05  # times the error of the minimum that is reached from the truth
PAUSE = 0.2  # seconds: threads of what ran before still spin for as long as that
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


def linode_row(name: str, n_seeds: int) -> dict[str, Any]:
    fitted(problem(name, 0))  # warm
    ratios, errors, times, inside, notes = [], [], [], [], []
    for seed in range(n_seeds):
        case = problem(name, seed)
        best = reference(case)
        try:
            result, seconds = within_limit(lambda case=case: fitted(case))
        except (Exception, Hangs) as error:
            notes.append(f"seed {seed}: {type(error).__name__}: {error}")
            continue
        error = peers.error_of(case, estimate_of(case, result))
        ratios.append(error / best.error)
        errors.append(error / best.bound)
        times.append(seconds)
        inside += covered(case, result)
        if not result:
            notes.append(f"seed {seed}: {result.status.name}")
    for seed in range(n_seeds, COVERAGE_SEEDS):
        case = problem(name, seed)
        inside += covered(case, fitted(case))
    return row("linode", n_seeds, ratios, errors, times, notes) | {"coverage": float(np.mean(inside))}


def peer_row(name: str, peer: str, n_seeds: int) -> dict[str, Any]:
    n_seeds, solve = min(n_seeds, peers.FEW_SEEDS.get(peer, n_seeds)), peers.PEERS[peer]
    ratios, errors, times, notes = [], [], [], []
    for seed in range(-1 if peer not in peers.FEW_SEEDS else 0, n_seeds):  # the first one warms it up
        case = problem(name, max(seed, 0))
        try:
            result, seconds = within_limit(lambda case=case: peers.quietly(solve, case))
            error = peers.error_of(case, result)
        except peers.NotDone as reason:
            return {"contender": peer, "note": f"not for {reason}"}
        except ImportError as reason:
            return {"contender": peer, "note": f"not installed: {reason}"}
        except (Exception, Hangs) as reason:
            notes.append(f"seed {seed}: {type(reason).__name__}: {str(reason)[:80]}".rstrip(": "))
            continue
        if seed >= 0:
            best = reference(case)
            ratios.append(error / best.error)
            errors.append(error / best.bound)
            times.append(seconds)
    return row(peer, n_seeds, ratios, errors, times, [x for x in notes if not x.startswith("seed -1")])


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
        rows = [linode_row(name, options.seeds)]
        if not options.no_peers:
            rows += [peer_row(name, peer, options.seeds) for peer in peers.PEERS]
        results["problems"][name] = rows
        print(name, *(f"  {x}" for x in rows), sep="\n", flush=True)
    if not options.no_series:
        results["series"] = series.measure()
        print(*results["series"], sep="\n")
    results["conditions"] = report.conditions(Settings())
    del results["conditions"]["rounds"]  # seeds are what is repeated here
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(written(results))
    print(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
