"""Run the benchmarks and write their results: python -m benchmarks --help.

To see what a change does, in under a minute: python -m benchmarks --workload tiny small --peers "lean eig" --no-write
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import scipy
import torch

try:
    from benchmarks import forced, job, plots, repeat, report, sparse, sparse_table
    from benchmarks.contenders import PEERS
    from benchmarks.harness import Settings, measure
    from benchmarks.sparse_systems import SYSTEMS
    from benchmarks.workloads import BESIDE, MODES, SWEEPS, WORKLOADS, Workload
except ImportError as error:
    raise SystemExit(f"the benchmarks need {error.name}: pip install '.[compare,plot]' in the clone") from None

RESULTS = Path(__file__).parent / "results"
SWEEPS_NAME = "sweeps"
NAMES = (*WORKLOADS, *forced.WORKLOADS, repeat.NAME, job.NAME, SWEEPS_NAME, *SYSTEMS)
ALL_PEERS = tuple(dict.fromkeys((*PEERS, *sparse.PEERS)))
TOO_SLOW = 1.0  # seconds: a contender stops at the size at which a step takes longer


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="linode and its peers, interleaved.")
    told = f"names, or patterns of names such as sparse-*: {', '.join(NAMES)}"
    parser.add_argument("--workload", nargs="+", default=NAMES, metavar="NAME", help=told)
    parser.add_argument("--methods", action="store_true", help="time linode's methods by name too, beside auto")
    parser.add_argument("--between", action="store_true", help="again with a small network between the timed calls")
    parser.add_argument(
        "--peers", nargs="+", choices=ALL_PEERS, metavar="NAME", help=f"beside linode: {', '.join(ALL_PEERS)}"
    )
    parser.add_argument("--rounds", type=int, default=100, help="timed calls of each contender for each seed, at most")
    parser.add_argument("--order-seed", type=int, default=0, help="of the random order of contenders within rounds")
    parser.add_argument("--no-write", action="store_true", help="print times and ratios and write nothing; no memory")
    parser.add_argument("--quick", action="store_true", help="few short rounds, small sweeps; into results/quick")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--limit", type=float, help="seconds that a call of a large sparse system may take (60)")
    parser.add_argument("--threads", type=int, default=2, help="torch.set_num_threads")
    parser.add_argument("--output", type=Path, help=f"folder of the results (default: {RESULTS.name}/ beside the code)")
    options = parser.parse_args(arguments)
    if options.peers and not options.no_write:
        parser.error("--peers needs --no-write: a written table has all contenders")
    options.workload = expanded(options.workload, parser)
    return options


def expanded(patterns: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Names of workloads, in order, each once."""
    for pattern in patterns:
        if not fnmatch.filter(NAMES, pattern):
            parser.error(f"no workload is named {pattern}; there are {', '.join(NAMES)}")
    return list(dict.fromkeys(name for pattern in patterns for name in fnmatch.filter(NAMES, pattern)))


def settings_of(options: argparse.Namespace) -> Settings:
    settings = Settings(
        options.rounds,
        order_seed=options.order_seed,
        device=options.device,
        with_methods=options.methods,
        with_memory=not options.no_write,
        peers=tuple(options.peers) if options.peers else None,
    )
    if options.quick:
        return replace(settings, n_rounds=min(options.rounds, 3), seconds=0.5, most_seeds=1)
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


def modes_of(name: str, options: argparse.Namespace, settings: Settings) -> tuple[str, dict[str, Any]]:
    """What was measured, in words, and the entries of each mode."""
    if name in WORKLOADS:
        workload = WORKLOADS[name]
        modes = [*MODES, *(mode + BESIDE for mode in MODES)] if options.between else MODES
        rows = {mode: measure(workload, mode, settings) for mode in modes}
        description = str(workload)
    elif name in forced.WORKLOADS:
        workload, n_samples = forced.WORKLOADS[name], 300 if options.quick else forced.K
        rows = {mode: forced.measure(name, mode, settings, n_samples) for mode in MODES}
        description = forced.describe(name, n_samples)
    else:
        workload, n_calls = repeat.WORKLOAD, 20 if options.quick else repeat.N_CALLS
        rows = {"forward": repeat.measure(settings, n_calls)}
        description = repeat.describe(n_calls)
    return description, {mode: report.entry(workload, rows[mode], mode) for mode in rows}


def run_sparse(name: str, options: argparse.Namespace, settings: Settings, path: Path) -> None:
    """One large sparse system, into a file of its own beside the others."""
    n = min(sparse.QUICK_N, SYSTEMS[name].n) if options.quick else None
    limit = options.limit or (sparse.QUICK_LIMIT if options.quick else sparse.LIMIT)
    rows = {mode: sparse.measure(name, mode, settings, n, limit) for mode in MODES}
    conditions = report.conditions(settings) | {"scipy": scipy.__version__}
    found = sparse_table.section(SYSTEMS[name], n, rows, conditions, limit)
    print(sparse_table.told(found), flush=True)
    if not options.no_write:
        results = report.load(path)
        results["workloads"][name] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"workloads": results["workloads"]}, indent=1) + "\n")
        path.with_suffix(".md").write_text(sparse_table.markdown(results))


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
        if name in SYSTEMS:
            if stem == "cpu":
                run_sparse(name, options, settings, folder / "sparse.json")
            else:
                print("  large sparse systems are solved on the host: not for this device")
            continue
        if name == job.NAME:
            n_steps = 2 if options.quick else job.N_STEPS
            rows = job.rows(job.measure(settings, n_steps), n_steps)
            results["job"] = {"description": job.describe(n_steps), "conditions": conditions, "rows": rows}
        elif name == SWEEPS_NAME:
            few = 3 if options.quick else None
            fewer = replace(settings, n_rounds=min(settings.n_rounds, 30), with_memory=False, with_methods=False)
            for axis, (label, workloads) in SWEEPS.items():
                points = run_sweep(workloads[:few], axis, fewer)
                results["sweeps"][axis] = {"label": label, "conditions": conditions, "points": points}
            if not options.no_write:
                folder.mkdir(parents=True, exist_ok=True)
                plots.draw(results["sweeps"], folder, stem)
        else:
            description, modes = modes_of(name, options, settings)
            results["workloads"][name] = {"description": description, "conditions": conditions, "modes": modes}
        if options.no_write:
            print(report.told(results, name))
        else:
            report.save(results, folder, stem)  # after each, so that a run that is cut short leaves what it has
    if not options.no_write:
        print(f"results are in {folder}")


if __name__ == "__main__":
    main()
