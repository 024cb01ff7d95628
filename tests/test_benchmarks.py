"""The benchmarks run and write what they measured; no row comes without its errors, and none is judged by its time."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torchdiffeq")
pytest.importorskip("matplotlib")

from benchmarks import __main__ as command
from benchmarks import truth
from benchmarks.workloads import MODES, WORKLOADS, Workload
from tests import oracles

TINY = Workload("tiny", 3, 7, seeds=(0,), targets={"lean eig": 1.5})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """The results of a quick run of one workload and one sweep, both tiny."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORKLOADS, "tiny", TINY)
        patch.setattr(command, "SWEEPS", {"n": ("number of states n", [TINY])})
        patch.setattr(command.torch, "set_num_threads", lambda n_threads: None)  # the other tests keep theirs
        workloads = ["tiny", "sweeps", "forced-zero", "forced-first"]
        command.main(["--quick", "--methods", "--workload", *workloads, "--output", str(folder)])
    return folder


def test_rows_have_a_time_and_small_errors_or_say_why_not(folder):
    modes = json.loads((folder / "cpu.json").read_text())["workloads"]["tiny"]["modes"]
    assert set(modes) == set(MODES)
    for mode, rows in modes.items():
        names = [row["contender"] for row in rows]
        assert {"linode", "linode eig", "lean eig", "usual eig", "matrix_exp", "dopri5", "limit"} <= set(names)
        for row in rows:
            if row["note"]:
                assert "MethodError" in row["note"] or row["contender"] == "expm_multiply"
                continue
            assert row["median_ms"] > 0.0
            if row["contender"] != "limit":
                assert set(row["errors"]) == ({"z", "dXi", "dz0"} if mode == "step" else {"z"})
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
