"""The benchmarks run and write what they measured; no row comes without its errors, and none is judged by its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchdiffeq")
pytest.importorskip("matplotlib")

from benchmarks import __main__ as command
from benchmarks import harness, truth
from benchmarks.contenders import Nothing, with_linode
from benchmarks.harness import Row, Runner, Settings, interleave
from benchmarks.workloads import BESIDE, MODES, WORKLOADS, Workload
from tests import oracles
from tests.documents import ROOT

TINY = Workload("tiny", 3, 7, seeds=(0,), targets={"lean eig": 1.5})
STARTS = Workload("starts", 3, 5, n_starts=4, seeds=(0,))
WITHOUT_ERRORS = {"limit", "floor"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """The results of a quick run of two workloads and one sweep, all tiny."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORKLOADS, "tiny", TINY)
        patch.setitem(WORKLOADS, "starts", STARTS)
        patch.setattr(command, "SWEEPS", {"n": ("number of states n", [TINY])})
        patch.setattr(command.torch, "set_num_threads", lambda n_threads: None)  # the other tests keep theirs
        workloads = ["tiny", "starts", "sweeps", "forced-zero", "forced-first"]
        command.main(["--quick", "--methods", "--between", "--workload", *workloads, "--output", str(folder)])
    return folder


@pytest.mark.parametrize("workload", ["tiny", "starts"])
def test_rows_have_a_time_and_small_errors_or_say_why_not(folder, workload: str):
    section = json.loads((folder / "cpu.json").read_text())["workloads"][workload]
    modes = section["modes"]
    assert section["conditions"]["order_seed"] == 0
    assert set(modes) == {*MODES, *(mode + BESIDE for mode in MODES)}
    for mode, rows in modes.items():
        names = [row["contender"] for row in rows]
        assert {"linode", "linode eig", "lean eig", "usual eig", "matrix_exp", "dopri5", *WITHOUT_ERRORS} <= set(names)
        for row in rows:
            if row["note"]:
                assert "MethodError" in row["note"] or row["contender"] == "expm_multiply"
                continue
            assert row["median_ms"] > 0.0
            if row["contender"] not in WITHOUT_ERRORS:
                assert set(row["errors"]) == ({"z", "dXi", "dz0"} if mode.startswith("step") else {"z"})
                assert max(row["errors"].values()) < (1e-4 if row["contender"].startswith("dopri") else 1e-12)


@pytest.mark.parametrize("name", ["forced-zero", "forced-first"])
def test_rows_of_long_inputs_have_small_errors(folder, name: str):
    section = json.loads((folder / "cpu.json").read_text())["workloads"][name]
    assert "300 samples" in section["description"]
    for mode, rows in section["modes"].items():
        assert {"linode", "irregular", "lsim", "torch loop"} <= {row["contender"] for row in rows}
        for row in rows:
            if not row["note"]:
                assert set(row["errors"]) == ({"z", "dXi"} if mode == "step" else {"z"})
                assert max(row["errors"].values()) < 1e-12
    assert f"| {name} | step | irregular / uniform |" in (folder / "cpu.md").read_text()


def test_the_table_names_every_contender_and_target_and_the_plot_is_drawn(folder):
    table = (folder / "cpu.md").read_text()
    assert "| tiny | step | time of lean eig / linode |" in table
    assert "| tiny | step beside a network | time of lean eig / linode |" in table
    assert "rounds in random order, seed 0." in table
    assert "| matrix_exp |" in table
    assert (folder / "cpu-time-against-n.png").read_bytes().startswith(b"\x89PNG")


def test_taylor_series_in_one_piece_are_the_block_exponentials():
    problem = Workload("", 5, 9).problem(1)
    arrays = problem.Xi, problem.z0, problem.t, problem.g
    z, dXi, dz0 = truth.taylor(*arrays, truth.VERSION)
    gradients = oracles.gradients(*arrays)
    for x, y in ((z, oracles.trajectory(*arrays[:3])), (dXi, gradients.S), (dz0, gradients.a)):
        np.testing.assert_allclose(x, y, rtol=1e-15)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_have_finite_problems_and_targets_of_known_contenders(name: str):
    workload = WORKLOADS[name]
    assert set(workload.targets) <= {"lean eig", "usual eig", "matrix_exp", "dopri5", "limit", "linode in float64"}
    if workload.n_times <= 10_000:
        problem = workload.problem(0)
        assert all(np.isfinite(x).all() for x in (problem.Xi, problem.z0, problem.t, problem.g))
        assert problem.g_of_witnesses.any()
        assert problem.t.min() == 0.0


# ---- the order -----------------------------------------------------------------------------------------------------


def taking_turns(n_rounds: dict[str, int], seed: int) -> list[str]:
    """Who ran, in order."""
    log: list[str] = []

    def logging(name: str) -> Callable[[], object]:
        return lambda: log.append(name)

    runners = [Runner(Row(x), logging(x), n, 1.0, n_rounds=n) for x, n in n_rounds.items()]
    interleave(runners, np.random.default_rng(seed))
    assert {runner.row.contender: len(runner.row.samples) for runner in runners} == n_rounds
    return log


def test_every_round_has_each_contender_once_in_an_order_of_its_own():
    log = taking_turns(dict.fromkeys("abcd", 200), seed=0)
    rounds = ["".join(log[i : i + 4]) for i in range(0, len(log), 4)]
    assert {"".join(sorted(x)) for x in rounds} == {"abcd"}
    assert len(set(rounds)) == 24  # all permutations


def test_the_seed_decides_the_order():
    same = [taking_turns(dict.fromkeys("abcd", 20), seed) for seed in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def test_a_contender_with_fewer_rounds_rests_between_its_turns():
    log = taking_turns({"fast": 40, "slow": 4}, seed=0)
    where = np.flatnonzero(np.array(log) == "slow")
    assert np.diff(where).min() >= 10  # every tenth round: 9 turns of the other alone, at least


def test_the_network_trains_before_every_timed_call(monkeypatch: pytest.MonkeyPatch):
    log: list[str] = []
    monkeypatch.setattr(harness, "small_network", lambda settings: lambda: log.append("network"))

    def solve(*tensors: torch.Tensor) -> torch.Tensor:
        log.append("solve")
        return with_linode("auto")(*tensors)

    contender = harness.Contender("linode", solve)
    monkeypatch.setattr(harness, "contenders_of", lambda workload, with_methods: [contender])
    settings = Settings(5, with_memory=False, peers=())
    (row,) = harness.measure(TINY, "step" + BESIDE, settings)
    assert log == ["solve", "solve"] + ["network", "solve"] * 5  # warm-up, then turns
    assert len(row.samples) == 5


def test_the_floor_has_the_shapes_of_a_solver():
    for workload in (TINY, STARTS, Workload("", 3, 7, "own", n_systems=5)):
        problem = workload.problem(0)
        Xi, z0, t, g = (torch.from_numpy(x) for x in (problem.Xi, problem.z0, problem.t, problem.g))
        leaves = Xi.requires_grad_(), z0.requires_grad_()
        z = Nothing.apply(Xi, z0, t)
        assert z.shape == with_linode("auto")(Xi, z0, t).shape
        assert z.numel() * z.element_size() == workload.output_bytes
        for leaf, gradient in zip(leaves, torch.autograd.grad(z, leaves, g), strict=True):
            assert gradient.shape == leaf.shape


# ---- the command ---------------------------------------------------------------------------------------------------


def test_without_writing_it_prints_ratios_of_the_peers_asked_for(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    monkeypatch.setattr(command.torch, "set_num_threads", lambda n_threads: None)
    asked = ["--workload", "tiny", "--peers", "lean eig", "floor", "--rounds", "4", "--no-write"]
    command.main([*asked, "--output", str(tmp_path / "none")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [
        "tiny",
        "forward",
        "linode",
        "lean",
        "floor",
        "step",
        "linode",
        "lean",
        "floor",
    ]
    assert all("ratio" in line for line in lines if len(line) > 1)
    assert not (tmp_path / "none").exists()


def test_a_table_of_some_peers_is_not_written():
    with pytest.raises(SystemExit):
        command.main(["--workload", "tiny", "--peers", "lean eig"])


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.fitting"])
def test_benchmarks_run_without_the_tools_of_tests_and_say_what_they_lack(module: str, tmp_path: Path):
    """Packages are hidden from a process of its own."""
    script = """
import runpy, sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None
module, sys.argv = sys.argv[1], ["benchmarks", "--help"]
runpy.run_module(module, run_name="__main__")
"""
    tools = ("pytest", "hypothesis", "mpmath", "xdist", "yaml", "pandas")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def result(*hidden: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, module, ",".join(hidden)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)

    done = result(*tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout
    done = result(*tools, "flint")
    assert done.returncode == 1
    assert done.stderr == "the benchmarks need flint: pip install '.[compare,plot]' in the clone\n"
