"""The benchmarks run, and no row comes without its errors."""

import pytest

pytest.importorskip("torchdiffeq")

from benchmarks.bench_training_step import measure


def test_every_row_of_the_training_step_has_a_time_and_small_errors_or_says_why_not():
    rows = measure(n=3, n_times=5, n_rounds=1)
    names = [row.contender for row in rows]
    assert {"linode auto", "torch.linalg.eig", "matrix_exp", "torchdiffeq dopri5"} <= set(names)
    for row in rows:
        if row.failure:
            assert "MethodError" in row.failure or "linalg_eig_backward" in row.failure
            assert row.contender != "linode auto"
            continue
        assert min(row.quartiles) > 0.0
        assert set(row.errors) == {"z", "dXi", "dz0"}
        assert max(row.errors.values()) < (1e-5 if "torchdiffeq" in row.contender else 1e-12)
