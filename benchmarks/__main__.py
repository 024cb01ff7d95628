"""Run the benchmarks and write their results: python -m benchmarks --help."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import forced, job, plots, repeat, report
from benchmarks.harness import Settings, measure
from benchmarks.workloads import MODES, SWEEPS, WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
SWEEPS_NAME = "sweeps"
NAMES = (*WORKLOADS, *forced.WORKLOADS, repeat.NAME, job.NAME, SWEEPS_NAME)
TOO_SLOW = 1.0  # seconds: a contender stops at the size at which a step takes longer


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="linode and its peers, interleaved.")
    parser.add_argument("--workload", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--methods", action="store_true", help="time linode's methods by name too, beside auto")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each contender for each seed")
    parser.add_argument("--quick", action="store_true", help="few short rounds, small sweeps; into results/quick")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="torch.set_num_threads")
    parser.add_argument("--output", type=Path, help=f"folder of the results (default: {RESULTS.name}/ beside the code)")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    settings = Settings(options.rounds, device=options.device, with_methods=options.methods)
    if options.quick:
        return replace(settings, n_rounds=min(options.rounds, 3), seconds=0.5, sample_seconds=0.0, most_seeds=1)
    return settings


def run_sweep(workloads: list[Workload], axis: str, settings: Settings) -> list[dict[str, Any]]:
    points, too_slow = [], set()
    for workload in workloads:
        rows = measure(workload, "step", settings, frozenset(too_slow))
        size = {"n": workload.n, "T": workload.n_times, "batch": workload.n_systems}[axis]
        points.append({"size": size, "rows": report.entry(workload, rows, "step")})
        too_slow |= {row.contender for row in rows if not row.samples or row.median > TOO_SLOW}
        too_slow.discard("linode")
    return points


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    settings = settings_of(options)
    torch.set_num_threads(options.threads)
    folder = options.output or (RESULTS / "quick" if options.quick else RESULTS)
    stem = torch.device(options.device).type
    results = report.load(folder / f"{stem}.json")
    conditions = report.conditions(settings)

    for name in options.workload:
        print(name, flush=True)
        if name in WORKLOADS:
            workload = WORKLOADS[name]
            modes = {mode: report.entry(workload, measure(workload, mode, settings), mode) for mode in MODES}
            section = {"description": str(workload), "conditions": conditions, "modes": modes}
            results["workloads"][name] = section
        elif name in forced.WORKLOADS:
            workload, n_samples = forced.WORKLOADS[name], 300 if options.quick else forced.K
            modes = {x: report.entry(workload, forced.measure(name, x, settings, n_samples), x) for x in MODES}
            section = {"description": forced.describe(name, n_samples), "conditions": conditions, "modes": modes}
            results["workloads"][name] = section
        elif name == repeat.NAME:
            n_calls = 20 if options.quick else repeat.N_CALLS
            rows = repeat.measure(settings, n_calls)
            modes = {"forward": report.entry(repeat.WORKLOAD, rows, "forward")}
            section = {"description": repeat.describe(n_calls), "conditions": conditions, "modes": modes}
            results["workloads"][name] = section
        elif name == job.NAME:
            n_steps = 2 if options.quick else job.N_STEPS
            rows = job.rows(job.measure(settings, n_steps), n_steps)
            results["job"] = {"description": job.describe(n_steps), "conditions": conditions, "rows": rows}
        else:
            few = 3 if options.quick else None
            fewer = replace(settings, n_rounds=min(settings.n_rounds, 5), with_memory=False, with_methods=False)
            for axis, (label, workloads) in SWEEPS.items():
                points = run_sweep(workloads[:few], axis, fewer)
                results["sweeps"][axis] = {"label": label, "conditions": conditions, "points": points}
            folder.mkdir(parents=True, exist_ok=True)
            plots.draw(results["sweeps"], folder, stem)
        report.save(results, folder, stem)  # after each, so that a run that is cut short leaves what it has
    print(f"{folder / stem}.md")


if __name__ == "__main__":
    main()
