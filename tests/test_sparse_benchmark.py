"""The benchmark of large systems: its truths are true, contenders that take too long are stopped, tables say so."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("torchdiffeq")
pytest.importorskip("matplotlib")

from benchmarks import __main__ as command
from benchmarks import sparse, sparse_table
from benchmarks.harness import Settings
from benchmarks.sparse import Answer, Contestant, SparseRow
from benchmarks.sparse_systems import SYSTEMS, System, adjacency, barabasi_albert, heat, watts_strogatz
from tests import oracles

SMALL = 49  # about: what ball arithmetic takes a second for
FEW = Settings(2, seconds=0.1)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "sparse-million"])
def test_truths_are_those_of_ball_arithmetic(name: str):
    system = replace(SYSTEMS[name], n=SMALL, rate=min(SYSTEMS[name].rate, 60.0))
    problem = system.problem()
    Xi, t = problem.Xi.toarray(), problem.t[problem.witnesses]
    true = oracles.gradients(Xi, problem.z0, t, problem.true.g)
    z = oracles.trajectory(Xi, problem.z0, t)
    pattern = problem.Xi.tocoo()
    errors = problem.errors(z, true.a, true.S[pattern.row, pattern.col])
    assert set(errors) == {"z", "dz0", "dXi"}
    assert max(errors.values()) < 1e-13


def test_errors_are_found_out():
    problem = replace(SYSTEMS["sparse-heat-1e2"], n=SMALL).problem()
    Xi, t = problem.Xi.toarray(), problem.t[problem.witnesses]
    true = oracles.gradients(Xi, problem.z0, t, problem.true.g)
    pattern, z = problem.Xi.tocoo(), problem.true.z.copy()
    z[-1] *= 1 + 1e-6  # the smallest of the states
    errors = problem.errors(z, true.a * (1 + 1e-6), true.S[pattern.row, pattern.col] * (1 + 1e-6))
    assert errors["z"] == pytest.approx(1e-6, rel=1e-3)
    assert errors["dz0"] == pytest.approx(1e-6, rel=1e-3)
    assert 1e-8 < errors["dXi"] < 2e-6


def test_graphs_have_the_edges_that_their_models_say():
    hubs = adjacency(500, *barabasi_albert(500))
    assert (hubs != hubs.T).nnz == 0
    degree = hubs.sum(axis=0)
    assert degree.min() >= 1
    assert degree.max() > 8 * np.median(degree)  # a few nodes have most
    ring = adjacency(500, *watts_strogatz(500, p=0.0))
    assert (ring.sum(axis=0) == 10).all()
    moved = adjacency(500, *watts_strogatz(500))
    near = abs(moved.tocoo().row - moved.tocoo().col)
    assert 0.05 < np.mean(np.minimum(near, 500 - near) > 5) < 0.15


# ---- processes -------------------------------------------------------------------------------------------------------


def slow(problem: sparse.Problem, mode: str) -> sparse.Run:
    def run() -> Answer:
        time.sleep(60.0)
        return Answer(problem.true.z)

    return run


def slower_each_time(problem: sparse.Problem, mode: str) -> sparse.Run:
    calls = 0

    def run() -> Answer:
        nonlocal calls
        calls += 1
        time.sleep(0.0 if calls < 3 else 60.0)
        return Answer(problem.true.z)

    return run


def raising(problem: sparse.Problem, mode: str) -> sparse.Run:
    def run() -> Answer:
        raise ValueError("no such luck\nand more")

    return run


def greedy(problem: sparse.Problem, mode: str) -> sparse.Run:
    return lambda: Answer(np.ones(sparse.MOST_MEMORY // 4))


BAD = {"slow": slow, "slower each time": slower_each_time, "raising": raising, "greedy": greedy}


@pytest.fixture
def contestant(monkeypatch: pytest.MonkeyPatch):
    """Contenders of this file, in processes that fork, so that they know them."""
    monkeypatch.setattr(sparse, "CONTENDERS", {**sparse.CONTENDERS, **BAD})
    monkeypatch.setattr(sparse, "START", "fork")
    made: list[Contestant] = []

    def make(name: str, limit: float) -> Contestant:
        made.append(Contestant(SYSTEMS["sparse-heat-1e2"], SMALL, "forward", name, limit, FEW))
        made[-1].start()
        return made[-1]

    yield make
    for x in made:
        x.stop()


def test_a_call_that_takes_too_long_is_stopped_and_the_row_says_so(contestant):
    start = time.perf_counter()
    one = contestant("slow", 0.5)
    assert one.row.note == "stopped after 0.5 s"
    assert not one.row.samples
    assert not one.process.is_alive()
    assert time.perf_counter() - start < 30.0


def test_a_later_call_that_takes_too_long_leaves_the_earlier_ones(contestant):
    one = contestant("slower each time", 1.0)
    for _ in range(3):
        one.take_turn()
    assert len(one.row.samples) == len(one.row.cpu_samples) == 1  # the first one, cold, is not counted
    assert one.row.note == "stopped after 1 s"


def test_what_a_code_raises_is_in_its_row(contestant):
    assert contestant("raising", 5.0).row.note == "raises ValueError: no such luck"


def test_memory_is_limited(contestant):
    assert "MemoryError" in contestant("greedy", 20.0).row.note


def test_a_code_that_cannot_be_used_says_why():
    random = sp.random_array((20_000, 20_000), density=1e-4, rng=np.random.default_rng(0), format="csr")
    problem = SYSTEMS["sparse-heat-1e2"].problem(SMALL)
    assert sparse.without_band(problem) == ""
    assert "banded Jacobian takes" in sparse.without_band(replace(problem, Xi=random))
    assert sparse.without_band(replace(problem, Xi=1j * problem.Xi)) == "real states only"


@pytest.mark.parametrize("name", sparse.PEERS)
def test_peers_solve_the_same_problem(name: str):
    problem = SYSTEMS["sparse-advection-100"].problem(100)
    answer = sparse.PEERS[name](problem, "forward")()
    assert problem.errors(answer.z)["z"] < 1e-5
    assert answer.details["n_products"] > 10


@pytest.mark.parametrize("name", sparse.OPERATORS)
def test_operators_solve_the_same_problem_whatever_is_known(name: str):
    problem = SYSTEMS["sparse-advection-100"].problem(400)
    answer = sparse.OPERATORS[name](problem, "forward")()
    assert problem.errors(answer.z)["z"] < 1e-7
    assert answer.details["method"] == "faber"


def test_bounds_hold_the_numerical_range():
    for name in ("sparse-heat-1e2", "sparse-advection-100", "sparse-upwind-1e3"):
        Xi = SYSTEMS[name].problem(100).Xi
        left, right = sparse.bounds_of(Xi)
        dense = Xi.toarray()
        real = np.linalg.eigvalsh((dense + dense.T) / 2)
        assert left <= real.min() + 1e-12
        assert real.max() <= right + 1e-12


# ---- tables ----------------------------------------------------------------------------------------------------------


def row(name: str, seconds: float | None, error: float = 1e-9, note: str = "") -> SparseRow:
    samples = [] if seconds is None else [seconds]
    return SparseRow(name, samples, {"z": error}, cpu_samples=samples, note=note)


def test_the_best_peer_is_the_fastest_that_is_accurate():
    rows = [row("linode faber", 0.5), row("DOP853", 2.0, 1e-4), row("BDF", 6.0), row("expm_multiply", 5.0)]
    assert sparse_table.best_of(rows, 1.0, 60.0) == {"contender": "expm_multiply", "ratio": 5.0}
    stopped = [row("DOP853", 2.0, 1e-4), row("BDF", None, note="stopped after 60 s")]
    assert sparse_table.best_of(stopped, 2.0, 60.0) == {"contender": None, "ratio": 30.0}


def test_targets_are_printed_with_what_was_reached():
    system = System("x", "heat", partial(heat, dims=2), 10.0, target=3.0, n=SMALL, most_bytes=1e9)
    rows = {
        "forward": [row("linode", 1.0), row("DOP853", 4.0)],
        "step": [row("linode", 5.0)],
    }
    rows["step"][0].process_bytes = int(2e9)
    conditions = {"date": "", "device": "", "threads": 1, "torch": "", "scipy": "", "rounds": 1}
    found = sparse_table.section(system, None, rows, conditions, 60.0)
    text = sparse_table.markdown({"workloads": {"sparse-x": found}})
    assert "| sparse-x | time of DOP853 / linode | 4 | >= 3 | yes |" in text
    assert "| sparse-x | step / forward | 5 | <= 4 | NO |" in text
    assert "| sparse-x | memory of the process, step | 2 GB | <= 1 GB | NO |" in text


def test_patterns_of_names_are_expanded(capsys: pytest.CaptureFixture[str]):
    options = command.parsed(["--workload", "sparse-heat-*", "tiny", "sparse-heat-1e2"])
    assert options.workload == ["sparse-heat-1e1", "sparse-heat-1e2", "sparse-heat-1e4", "sparse-heat-1e6", "tiny"]
    with pytest.raises(SystemExit):
        command.parsed(["--workload", "spars"])
    assert "no workload is named spars" in capsys.readouterr().err


def test_a_quick_run_writes_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command.torch, "set_num_threads", lambda n_threads: None)  # the other tests keep theirs
    monkeypatch.setattr(sparse, "PEERS", {name: sparse.PEERS[name] for name in ("expm_multiply", "DOP853")})
    asked = ["--quick", "--workload", "sparse-heat-1e1", "--limit", "60", "--methods", "--output", str(tmp_path)]
    command.main(asked)
    found = json.loads((tmp_path / "sparse.json").read_text())["workloads"]["sparse-heat-1e1"]
    for mode, rows in found["modes"].items():
        for entry in rows:
            assert not entry["note"]
            assert entry["median_ms"] > 0.0
            assert any(entry["details"].get(key) for key in sparse_table.COUNTS)
            assert set(entry["errors"]) == ({"z"} if mode == "forward" else {"z", "dz0", "dXi"})
            assert max(entry["errors"].values()) < 1e-7
    assert found["factor"] > 1.0
    assert "## sparse-heat-1e1: heat in two dimensions, n = 2025" in (tmp_path / "sparse.md").read_text()
