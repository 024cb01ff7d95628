"""`linode fit` on inputs that act at once, unknown ranks, and with errors and names of all parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import linode

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from linode.cli.errors import OK, USAGE
from tests.shell import refused, run

T = np.arange(60) * 0.5
U = np.repeat(np.random.default_rng(4).standard_normal(12), 5)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    z = np.zeros(60)  # z' = -z / 2 + u with u held, y = z + 0.9 u
    for i in range(59):
        z[i + 1] = np.exp(-0.25) * z[i] + (1 - np.exp(-0.25)) / 0.5 * U[i]
    y = z + 0.9 * U + 0.01 * np.random.default_rng(0).standard_normal(60)
    write("room.csv", {"t": T, "temperature": y, "heating": U})


def write(name: str, columns: dict[str, np.ndarray]) -> None:
    rows = zip(*(x.tolist() for x in columns.values()))
    Path(name).write_text("\n".join([",".join(columns), *(",".join(map(repr, row)) for row in rows)]) + "\n")


def read(name: str) -> np.ndarray:
    return np.genfromtxt(name, delimiter=",", skip_header=1)


DRIVEN = ("fit", "room.csv", "--columns", "temperature", "--inputs", "heating")


def test_an_output_that_follows_an_input_is_told_with_the_option_that_mends_it(capsys):
    code, out, err = run(capsys, *DRIVEN)
    assert code == OK
    assert "channels temperature" in out
    assert "residuals of temperature follow input heating" in err
    assert "needs --feedthrough" in err
    code, out, err = run(capsys, *DRIVEN, "--feedthrough", "--holdout", "0.2", "--save", "room.json", "--json")
    found = json.loads(out)
    assert (code, err, found["status"]) == (OK, "", "OK")
    assert abs(found["D"][0][0] - 0.9) < 4 * found["D_stderr"][0][0]
    assert abs(found["z0"][0]) < 4 * found["z0_stderr"][0]
    assert found["holdout"]["temperature"]["rmse"] < 0.02
    write("u.csv", {"t": T, "heating": U})
    code, _, err = run(capsys, "solve", "room.json", "--times", "room.csv", "--inputs", "u.csv", "--out", "z.csv")
    assert (code, err) == (OK, "")  # the standard errors in the file are not reported as unused
    assert np.abs(read("z.csv")[:, 1] - read("room.csv")[:, 1]).max() < 0.06


@pytest.mark.parametrize("suffix", ["npz", "json", "mat"])
def test_a_saved_fit_holds_the_errors_of_all_its_parts(capsys, suffix: str):
    saved = f"s.{suffix}"
    assert run(capsys, *DRIVEN, "--feedthrough", "--bias", "--save", saved)[0] == OK
    code, _, err = run(capsys, "solve", saved, "--times", "0:1:3")
    assert code == OK
    assert err.count("\n") == 1
    assert "holds B, but there are no --inputs" in err
    if suffix == "json":
        found = json.loads(Path(saved).read_text())
        t, y, u = read("room.csv").T
        result = linode.fit(t, y, u, feedthrough=True, bias=True)
        for name in ("stderr", "B_stderr", "b_stderr", "D_stderr", "z0_stderr"):
            assert np.allclose(found[name], getattr(result, name), rtol=1e-9), name


def test_the_rank_is_chosen_by_held_out_samples(capsys):
    t = np.linspace(0.0, 10.0, 200)
    y = np.exp(-0.3 * t) + 2 * np.exp(-2 * t) + 0.01 * np.random.default_rng(1).standard_normal(200)
    write("two.csv", {"t": t, "y": y})
    code, out, _ = run(capsys, "fit", "two.csv", "--rank", "auto", "--json")
    found = json.loads(out)
    assert (code, len(found["Xi"])) == (OK, 2)
    assert [x["rank"] for x in found["ranks"][:2]] == [1, 2]
    assert found["ranks"][0]["held_out_error"] > 2 * found["ranks"][1]["held_out_error"]
    assert "held-out error" in run(capsys, "fit", "two.csv", "--rank", "auto")[1]


@pytest.mark.parametrize("rank", ["0", "-1", "two", "1.5", "²", "9" * 30])
def test_a_rank_that_is_no_number_of_states_is_refused(capsys, rank: str):
    refused(capsys, USAGE, "must be a whole number of 1 to 1000000, or auto", *DRIVEN, "--rank", rank)
