"""The command line against files and streams that mean no good: one line and a code, never a crash or a lost file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import linode

pytest.importorskip("typer")

from linode.cli.comparing import OverBudgetError, limited
from linode.cli.errors import BAD_FILE, OK, TROUBLE, USAGE
from linode.cli.matfile import arrays_of_mat
from tests.shell import refused, run

XI, Z0 = np.array([[0.0, 1.0], [-1.0, -0.1]]), np.array([1.0, 0.5])
SYSTEM = {"Xi": XI, "z0": Z0}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(linode.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("system.npz", **SYSTEM)
    return tmp_path


def bytes_of(suffix: str) -> bytes:
    """A sound file with the system."""
    file = BytesIO()
    if suffix == "npz":
        np.savez(file, **SYSTEM)
    elif suffix == "mat":
        scipy.io.savemat(file, SYSTEM)
    elif suffix == "json":
        file.write(json.dumps({name: x.tolist() for name, x in SYSTEM.items()}).encode())
    else:
        file.write(b"0,1\n-1,-0.1\n")
    return file.getvalue()


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_matlab_file_that_crashes_its_reader_is_a_clear_error(capsys):
    sound, tag = bytes_of("mat"), b"\x09\0\0\0\x20\0\0\0"  # float64, 32 bytes: the values of Xi
    assert sound.count(tag) == 1
    Path("bad.mat").write_bytes(sound.replace(tag, b"\x7f\0\0\0\x20\0\0\0"))  # there is no type 127
    refused(capsys, BAD_FILE, "bad.mat: is no readable .mat file", "solve", "bad.mat", "--times", "0,1")


def test_matlab_files_are_read_bit_for_bit_and_objects_are_left_out(here: Path):
    # of the present folder nothing is imported by the process that reads
    (here / "numpy.py").write_text("raise SystemExit('code was run')")
    file = BytesIO()
    Xi = np.random.default_rng(0).standard_normal((3, 3)) * (1 + 1j)
    scipy.io.savemat(file, {"Xi": Xi, "cells": np.array([1, "a"], object), "text": "abc"}, do_compression=True)
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, ''); import linode.cli.matfile"]
    assert b"code was run" in subprocess.run(command, env=ENVIRONMENT, capture_output=True).stderr  # it would be
    found = arrays_of_mat(file.getvalue())
    assert list(found) == ["Xi"]
    assert np.array_equal(found["Xi"], Xi)


@pytest.mark.parametrize("suffix", ["npz", "json", "csv"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_give_a_traceback(capsys, suffix: str, data: st.DataObject):
    content = bytearray(bytes_of(suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(content) - 1))
        content[i : i + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    Path(f"damaged.{suffix}").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    code, out, err = run(capsys, "solve", f"damaged.{suffix}", "--times", "0,1", "--z0", "1,0")
    assert code in (OK, TROUBLE, USAGE, BAD_FILE)
    assert (err.count("\n") == 1 and not out) if code in (USAGE, BAD_FILE) else out.startswith("t,z1")


@pytest.mark.parametrize("damage", [b"\xff", b"\0", b"\x7f"])
def test_damaged_matlab_files_never_end_the_process(capsys, damage: bytes):
    sound = bytes_of("mat")
    for i in (124, 128, 132, 144, 160, 168, 176, 184):  # version and tags of the first array
        Path("damaged.mat").write_bytes(sound[:i] + damage + sound[i + 1 :])
        code, out, err = run(capsys, "solve", "damaged.mat", "--times", "0,1")
        assert code in (OK, USAGE, BAD_FILE)
        assert (code == OK) == bool(out)
        assert (code == OK) != bool(err)


def test_underscores_are_no_digits(capsys):
    Path("m.csv").write_text("1_0,0\n0,1\n")
    refused(capsys, BAD_FILE, "m.csv: line 1, column 1: '1_0'", "solve", "m.csv", "--z0", "1,0", "--times", "0,1")


@pytest.mark.parametrize("option", ["--times", "--z0"])
def test_a_name_that_is_too_long_for_a_file_is_refused(capsys, option: str):
    others = {"--times": "0,1", "--z0": "1,0"} | {option: "x" * 300}
    code, _, err = run(capsys, "solve", "system.npz", *[x for pair in others.items() for x in pair])
    assert code in (USAGE, BAD_FILE)
    assert err.count("\n") == 1


# ---- what is written -------------------------------------------------------------------------------------------------


def test_what_is_read_is_never_written_to(capsys):
    before = Path("system.npz").read_bytes()
    Path("alias.npz").symlink_to("system.npz")
    for out in ("system.npz", "./system.npz", "alias.npz"):
        words = "is read, or written, by this command already"
        refused(capsys, USAGE, words, "solve", "system.npz", "--times", "0,1", "--out", out, "--force")
    assert Path("system.npz").read_bytes() == before


def test_no_file_is_written_twice(capsys):
    Path("d.csv").write_text("t,a\n" + "".join(f"{i},{2.0**-i}\n" for i in range(9)))
    words = "same.json: is read, or written, by this command already"
    refused(capsys, USAGE, words, "fit", "d.csv", "--out", "same.json", "--save", "same.json", "--force")
    assert not Path("same.json").exists()


def test_a_link_stays_a_link(capsys):
    Path("folder").mkdir()
    Path("folder/z.csv").write_text("old")
    Path("z.csv").symlink_to("folder/z.csv")
    assert run(capsys, "solve", "system.npz", "--times", "0,1", "--out", "z.csv", "--force")[0] == OK
    assert Path("z.csv").is_symlink()
    assert Path("folder/z.csv").read_text().startswith("t,z1,z2\n0.0,1.0,0.5\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    command = [sys.executable, "-m", "linode", "solve", "system.npz", "--times", "0,1"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == BAD_FILE
    assert done.stderr.startswith("linode: standard output cannot be written")
    assert done.stderr.count("\n") == 1


# ---- fits ------------------------------------------------------------------------------------------------------------


def test_held_out_rows_are_forecast_with_their_own_inputs(capsys):
    t = 5.0 + 0.1 * np.arange(60)
    u = np.random.default_rng(0).standard_normal(60)
    ode = linode.LinearODE(XI, Z0, B=[[0.0], [1.0]], u=linode.ZeroOrderHold(t - 5.0, u[:, None]))
    noise = 1e-3 * np.random.default_rng(1).standard_normal((60, 2))
    rows = np.column_stack([t, ode(t - 5.0) + noise, u])
    Path("d.csv").write_text("t,a,b,u\n" + "\n".join(",".join(map(repr, row)) for row in rows.tolist()))
    code, out, err = run(capsys, "fit", "d.csv", "--inputs", "u", "--holdout", "0.25", "--json")
    assert code == OK, err
    errors = [x["rmse"] for x in json.loads(out)["holdout"].values()]
    assert max(errors) < 3e-3  # the noise, and what it leaves open of Xi; 0.1 and more with the last input held on


def test_a_column_that_is_named_twice_is_refused(capsys):
    Path("d.csv").write_text("t,a\n0,1\n1,2\n2,3\n")
    refused(capsys, USAGE, "'a' is there twice", "fit", "d.csv", "--columns", "a,a")


def test_an_endless_forecast_is_refused_before_the_fit(capsys):
    Path("d.csv").write_text("t,a\n0,1\n1,2\n2,3\n")
    refused(capsys, USAGE, "--forecast must be finite", "fit", "d.csv", "--forecast", "inf")


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_a_saved_system_says_how_its_states_make_the_columns(capsys, suffix: str):
    t = 5.0 + 0.1 * np.arange(60)
    y = np.exp(-(t - 5.0))[:, None] * [1.0, 2.0, -1.0] + [3.0, 5.0, -1.0]
    y += 1e-3 * np.random.default_rng(0).standard_normal(y.shape)
    lines = [",".join(map(repr, row)) for row in np.column_stack([t, y]).tolist()]
    Path("d.csv").write_text("t,a,b,c\n" + "\n".join(lines))
    assert run(capsys, "fit", "d.csv", "--rank", "1", "--bias", "--save", f"s.{suffix}")[0] == OK
    _, out, _ = run(capsys, "solve", f"s.{suffix}", "--times", "0,1,2")
    z = np.array([[float(x) for x in line.split(",")] for line in out.splitlines()[1:]])[:, 1:]
    saved = np.load("s.npz") if suffix == "npz" else json.loads(Path("s.json").read_text())
    shown = z @ np.array(saved["C"]).T + saved["offset"]
    result = linode.fit(t, y, rank=1, bias=True)
    assert result.offset is not None
    assert np.allclose(shown, result.predict(float(saved["t0"]) + np.arange(3.0)), atol=1e-12)


# ---- budgets ---------------------------------------------------------------------------------------------------------


class Slow:
    """Its finaliser takes a while, and loses what is raised in it."""

    def __del__(self) -> None:
        time.sleep(0.4)


def test_an_alarm_that_is_lost_in_a_finaliser_comes_again(capsys):
    start = time.monotonic()
    with pytest.raises(OverBudgetError), limited(0.1):
        thing = Slow()
        del thing
        time.sleep(20.0)
    assert time.monotonic() - start < 10.0
    assert capsys.readouterr().err == ""
