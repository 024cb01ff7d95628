"""The benchmark of fits runs, and says of every contender how near it came, or why it did not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchdiffeq")
pytest.importorskip("matplotlib")

from benchmarks.fitting import __main__ as command
from benchmarks.fitting import peers, reference
from benchmarks.fitting.problems import PROBLEMS, problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.torch, "set_num_threads", lambda n_threads: None)  # the other tests keep theirs
        patch.setattr(command, "PAUSE", 0.0)
        patch.setattr(command, "COVERAGE_SEEDS", 4)
        patch.setattr(peers, "N_STEPS", 3)
        options = ["--problem", "stiff", "snapshots, uniform", "--seeds", "2", "--no-series", "--output", str(folder)]
        command.main(options)
    return folder


def test_rows_say_how_near_linode_came_and_why_others_did_not(folder: Path):
    problems = json.loads((folder / "fit.json").read_text())["problems"]
    for name in ("stiff", "snapshots, uniform"):
        rows = {row["contender"]: row for row in problems[name]}
        assert set(rows) == {"linode", *peers.PEERS}
        own = rows["linode"]
        assert (own["n_near"], own["n_failed"], own["n_seeds"]) == (2, 0, 2)
        assert own["worst_ratio"] <= 1.05
        assert own["cpu_ms"] > 0
        for peer, row in rows.items():
            assert "note" in row or row["n_seeds"] == min(2, peers.FEW_SEEDS.get(peer, 2))
    adam = {row["contender"]: row for row in problems["stiff"]}["Adam, 2000 steps"]
    assert adam["worst_ratio"] > 1.05  # after three steps


def test_the_table_has_a_row_for_every_contender(folder: Path):
    table = (folder / "fit.md").read_text()
    assert table.count("| linode |") == 2
    assert table.count("| Adam, 2000 steps |") == 2


def test_a_contender_that_fails_or_hangs_is_counted(monkeypatch: pytest.MonkeyPatch):
    def failing(case: object) -> np.ndarray:
        raise ValueError("no convergence")

    monkeypatch.setattr(command, "PAUSE", 0.0)
    monkeypatch.setattr(command, "COVERAGE_SEEDS", 2)
    _, row = command.measured("stiff", 2, {"failing": failing})
    assert row["n_failed"] == 2
    assert row["notes"] == ["seed 0: ValueError: no convergence", "seed 1: ValueError: no convergence"]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_is_a_minimum_below_the_truth(name: str):
    """The truth's residuals are the noise; fitting can only make them smaller, by about a value for each unknown."""
    case = problem(name, 0)
    best = reference.reference(case)
    noise = sum(float(((z - clean) ** 2).sum()) for _, z, clean in case.trajectories)
    assert 0.5 * noise < best.cost < noise
    assert 0.1 * best.bound < best.error < 5 * best.bound
