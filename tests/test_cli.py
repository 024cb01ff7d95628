"""The command line: what it writes is what the package computes, and whatever goes wrong is one line and a code."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import linode

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from linode.cli import demonstration
from linode.cli.errors import BAD_FILE, INTERRUPTED, MISSING, OK, TROUBLE, USAGE, Refusal
from linode.cli.output import Output
from linode.cli.times import read_times
from tests.shell import refused, run

XI, Z0 = np.array([[0.0, 1.0], [-1.0, -0.1]]), np.array([1.0, 0.5])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("system.npz", Xi=XI, z0=Z0)
    return tmp_path


def csv_of(text: str) -> tuple[list[str], np.ndarray]:
    header, *_ = text.splitlines()
    return header.split(","), np.atleast_2d(np.genfromtxt(io.StringIO(text), delimiter=",", skip_header=1))


def data(name: str = "data.csv", header: str = "t,a,b", sep: str = ",", sigma: float = 0.02) -> np.ndarray:
    """Written with 17 digits; the values."""
    t = np.linspace(0.0, 10.0, 80)
    rng = np.random.default_rng(0)
    rows = np.c_[t, linode.LinearODE(XI, Z0)(t) + sigma * rng.standard_normal((80, 2))]
    Path(name).write_text("\n".join([header, *(sep.join(map(repr, row)) for row in rows.tolist())]) + "\n")
    return rows


# ---- solve -----------------------------------------------------------------------------------------------------------


def test_solve_prints_the_states_with_all_digits(capsys):
    code, out, err = run(capsys, "solve", "system.npz", "--times", "0:10:11")
    names, rows = csv_of(out)
    assert (code, err, names) == (OK, "", ["t", "z1", "z2"])
    t = np.linspace(0.0, 10.0, 11)
    assert np.array_equal(rows, np.c_[t, linode.LinearODE(XI, Z0)(t)])


@pytest.mark.parametrize("suffix", ["csv", "npz", "json"])
def test_solve_writes_tables(capsys, suffix: str):
    out = f"z.{suffix}"
    assert run(capsys, "solve", "system.npz", "--times", "3,0,1", "--out", out)[0] == OK
    if suffix == "csv":
        t, z = np.split(csv_of(Path(out).read_text())[1], [1], axis=1)
    else:
        found = np.load(out) if suffix == "npz" else json.loads(Path(out).read_text())
        t, z = np.array(found["t"])[:, None], np.stack([found["z1"], found["z2"]], -1)
    assert t.ravel().tolist() == [3.0, 0.0, 1.0]
    assert np.array_equal(z, linode.LinearODE(XI, Z0)([3.0, 0.0, 1.0]))


def test_solve_takes_every_kind_of_file(capsys):
    Path("s.json").write_text(json.dumps({"A": XI.tolist(), "x0": Z0.tolist(), "note": "a spring"}))
    scipy.io.savemat("s.mat", {"Xi": XI, "z0": Z0[:, None]})
    np.savetxt("s.csv", XI, delimiter=";")
    Path("z0.csv").write_text("1\n0.5\n")
    expected = run(capsys, "solve", "system.npz", "--times", "0,1,2")[1]
    assert run(capsys, "solve", "s.json", "--times", "0,1,2")[1] == expected
    assert run(capsys, "solve", "s.mat", "--times", "0,1,2")[1] == expected
    assert run(capsys, "solve", "s.csv", "--z0", "1,0.5", "--times", "0,1,2")[1] == expected
    assert run(capsys, "solve", "s.csv", "--z0", "z0.csv", "--times", "0,1,2")[1] == expected


def test_solve_takes_complex_systems(capsys):
    Path("s.json").write_text('{"Xi": {"re": [[0.0]], "im": [[1.0]]}, "z0": [1.0]}')
    names, rows = csv_of(run(capsys, "solve", "s.json", "--times", "0,1")[1])
    assert names == ["t", "z1.re", "z1.im"]
    assert np.allclose(rows[1], [1.0, np.cos(1.0), np.sin(1.0)], atol=1e-15)


def test_solve_takes_times_of_files_and_inputs(capsys):
    np.save("t.npy", np.array([0.5, 2.0]))
    Path("t.csv").write_text("n,t\n1,0.5\n2,2.0\n")
    expected = run(capsys, "solve", "system.npz", "--times", "0.5,2")[1]
    for name in ("t.npy", "t.csv"):
        assert run(capsys, "solve", "system.npz", "--times", name)[1] == expected
    np.savez("driven.npz", Xi=XI, z0=Z0, B=np.array([[0.0], [2.0]]))
    Path("u.csv").write_text("t,force\n0,1\n1,-1\n")
    rows = csv_of(run(capsys, "solve", "driven.npz", "--times", "0.5,2", "--inputs", "u.csv")[1])[1]
    u = linode.ZeroOrderHold([0.0, 1.0], [[1.0], [-1.0]])
    assert np.array_equal(rows[:, 1:], linode.LinearODE(XI, Z0, B=[[0.0], [2.0]], u=u)([0.5, 2.0]))
    assert "taken as 0" in run(capsys, "solve", "driven.npz", "--times", "0.5")[2]


def test_solve_draws_and_tells_machines(capsys):
    code, out, _ = run(capsys, "solve", "system.npz", "--times", "0:5:50", "--plot", "z.png", "--json")
    found = json.loads(out)
    assert (code, found["status"], len(found["z"])) == (OK, "OK", 50)
    assert Path("z.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_trouble_is_told_and_the_result_is_written(capsys):
    Path("s.json").write_text('{"Xi": [[1.0]], "z0": [1.0]}')
    code, out, err = run(capsys, "solve", "s.json", "--times", "0,1e4", "--json")
    assert code == TROUBLE
    assert "s.json: OVERFLOW" in err
    assert json.loads(out)["z"] == [[1.0], [None]]


# ---- times -----------------------------------------------------------------------------------------------------------


def test_times_are_ranges_numbers_or_files():
    assert read_times("0:10:3").tolist() == [0.0, 5.0, 10.0]
    assert np.allclose(read_times("1e-2:1e2:5:log"), np.geomspace(1e-2, 1e2, 5), rtol=1e-15)
    assert read_times("-1,0,2.5").tolist() == [-1.0, 0.0, 2.5]


@pytest.mark.parametrize(
    "text",
    ["0:1:0", "0:1:-3", "0:1:2.5", "0:1", "a:b:c", "0:inf:3", "0:1:3:lin", "0:1:3:log", "nan", "", "1,,2", "0:1:1e12"],
)
def test_times_that_are_none_are_refused(text: str):
    with pytest.raises(Refusal, match="--times") as found:
        read_times(text)
    assert found.value.code == USAGE


# ---- fit -------------------------------------------------------------------------------------------------------------


def test_fit_is_that_of_the_package_and_comes_back_bit_for_bit(capsys):
    rows = data()
    for name in ("s.npz", "s.json", "s.mat"):
        code, out, err = run(capsys, "fit", "data.csv", "--save", name)
        assert (code, err) == (OK, "")
        assert "eigenvalue" in out
    result = linode.fit(rows[:, 0], rows[:, 1:])
    expected = result.ode()([0.0, 1.0])
    for name in ("s.npz", "s.json", "s.mat"):
        assert np.array_equal(csv_of(run(capsys, "solve", name, "--times", "0,1")[1])[1][:, 1:], expected)


def test_fit_takes_the_options_of_the_package(capsys):
    rows = data("d.tsv", "time\ta\tb", "\t")
    code, out, _ = run(
        capsys, "fit", "d.tsv", "--time", "time", "--columns", "a", "--rank", "2", "--stable", "--bias", "--json"
    )
    found = json.loads(out)
    result = linode.fit(rows[:, 0], rows[:, 1], rank=2, stable=True, bias=True)
    assert code == OK
    assert np.allclose(found["eigenvalues"]["im"], result.eigenvalues.imag)
    assert found["columns"] == ["a"]


def test_fit_forecasts_holds_out_and_draws(capsys):
    rows = data()
    code, _, _ = run(
        capsys, "fit", "data.csv", "--forecast", "5", "--holdout", "0.25", "--plot", "fit.png", "--out", "f.csv"
    )
    assert code == OK
    names, table = csv_of(Path("f.csv").read_text())
    assert names == ["t", "a", "a_stderr", "b", "b_stderr"]
    assert table[-1, 0] == pytest.approx(15.0)
    result = linode.fit(rows[:60, 0], rows[:60, 1:])
    assert np.allclose(table[:, [1, 3]], result.predict(table[:, 0]))
    found = json.loads(run(capsys, "fit", "data.csv", "--holdout", "0.25", "--json")[1])
    error = np.sqrt(np.mean((result.predict(rows[60:, 0]) - rows[60:, 1:]) ** 2, axis=0))
    assert np.allclose([found["holdout"][x]["rmse"] for x in "ab"], error)
    assert Path("fit.png").stat().st_size > 10000


def test_fit_takes_groups_and_inputs(capsys):
    t = np.linspace(0.0, 5.0, 60)
    u = np.random.default_rng(1).standard_normal((60, 1))
    lines = ["who,t,u,x,y"]
    for who, start in (("one", [1.0, 0.0]), ("two", [0.0, -2.0])):
        z = linode.LinearODE(XI, start, B=[[0.0], [2.0]], u=linode.ZeroOrderHold(t, u))(t)
        lines += [f"{who},{a!r},{b!r},{c!r},{d!r}" for a, b, (c, d) in zip(t.tolist(), u[:, 0].tolist(), z.tolist())]
    Path("g.csv").write_text("\n".join(lines))
    code, out, _ = run(capsys, "fit", "g.csv", "--group", "who", "--inputs", "u", "--json")
    found = json.loads(out)
    assert code == OK
    assert np.allclose(found["Xi"], XI, atol=1e-6)
    assert np.allclose(found["B"], [[0.0], [2.0]], atol=1e-6)
    assert np.allclose(found["z0"], [[1.0, 0.0], [0.0, -2.0]], atol=1e-6)


def test_missing_cells_are_missing_and_what_is_wrong_with_a_fit_is_told(capsys):
    data()
    lines = Path("data.csv").read_text().splitlines()
    lines[5] = ",".join([lines[5].split(",")[0], "", "NaN"])
    Path("gaps.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert run(capsys, "fit", "gaps.csv")[0] == OK
    code, _, err = run(capsys, "fit", "gaps.csv", "--rank", "2", "--sigma", "0.001")
    assert code == OK
    assert err.startswith("linode: MISFIT: ")
    assert err.count("\n") == 1


# ---- other commands --------------------------------------------------------------------------------------------------


def test_explain_names_the_method_and_the_eigenvalues(capsys):
    code, out, _ = run(capsys, "explain", "system.npz")
    assert code == OK
    assert "method: " in out
    assert "-0.05" in out
    found = json.loads(run(capsys, "explain", "system.npz", "--json")[1])
    assert found["n"] == 2
    assert f"evaluated by: {found['evaluated_by']}\n" in out


def test_methods_are_those_of_the_registry(capsys):
    assert set(json.loads(run(capsys, "methods", "--json")[1])) == set(linode.methods.registry())
    assert "propagator" in run(capsys, "methods")[1]


@pytest.mark.parametrize("setting", ["0", "1"])
def test_methods_say_whether_the_compiled_kernel_is_in_use(setting: str):
    def shell(*words: str) -> str:
        command = [sys.executable, "-m", "linode", "methods", *words]
        return subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout

    root = str(Path(linode.__file__).parents[1])
    environment = {**os.environ, "LINODE_COMPILED": setting, "PYTHONPATH": root}
    text, found = shell(), {name: facts["evaluated_by"] for name, facts in json.loads(shell("--json")).items()}
    if setting == "0":
        assert "compiled kernel: turned off by LINODE_COMPILED=0" in text
        assert set(found.values()) == {"torch (the compiled kernel is turned off by LINODE_COMPILED=0)"}
    elif importlib.util.find_spec("linode.kernels._small") is None:
        assert "compiled kernel: not built" in text
        assert all(by.startswith("torch (the compiled kernel is not built in ") for by in found.values())
    else:
        assert "compiled kernel: in use" in text
        assert (found["eig"], found["taylor"]) == ("the compiled kernel", "torch")


def test_compare_measures_each_against_the_truth(capsys):
    pytest.importorskip("torchdiffeq")
    code, out, _ = run(capsys, "compare", "system.npz", "--times", "2,0.5,1", "--json", "--plot", "c.png")
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert code == OK
    assert len(rows) == 4
    assert all(row["step"] > 0 and row["note"] == "" for row in rows.values())
    assert rows["linode"]["error"] < 1e-14
    assert 1e-14 < rows["torchdiffeq dopri5, rtol 1e-8"]["error"] < 1e-5
    assert "ball arithmetic" in run(capsys, "compare", "system.npz", "--times", "0:1:5")[1]


def test_compare_says_why_a_contender_has_no_row(capsys):
    np.savez("stiff.npz", Xi=[[-1e7, 0.0], [0.0, -1.0]], z0=[1.0, 1.0])
    out = run(capsys, "compare", "stiff.npz", "--times", "0:100:3", "--budget", "0.5", "--json")[1]
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert "took more than 0.5 s" in rows["torchdiffeq dopri5, rtol 1e-8"]["note"]
    assert rows["linode"]["error"] < 1e-12


def test_the_demo_draws_and_measures(capsys, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torchdiffeq")
    monkeypatch.setattr(demonstration, "BUDGET", 0.2)  # its row says so
    code, out, _ = run(capsys, "demo", "--json")
    found = json.loads(out)
    assert code == OK
    assert found["relative"] < 0.23
    assert 0.8 < found["band_holds"] <= 1
    assert found["torchdiffeq_step_seconds"] is None
    assert "took more than" in found["torchdiffeq"]
    assert Path("linode_demo.png").stat().st_size > 50000
    refused(capsys, USAGE, "--force", "demo")


def test_help_and_version(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == OK
    for name in ("demo", "solve", "fit", "explain", "compare", "methods", "Exit codes"):
        assert name in out
    assert run(capsys, "--version")[1] == f"linode {linode.__version__}\n"


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_usage_that_does_not_fit(capsys):
    refused(capsys, USAGE, "No such command", "nothing")
    refused(capsys, USAGE, "--times", "solve", "system.npz")
    refused(capsys, USAGE, "--nonsense", "solve", "system.npz", "--nonsense")
    refused(capsys, USAGE, "unknown; known are", "solve", "system.npz", "--times", "0", "--method", "magic")
    refused(capsys, USAGE, "holds no z0", "solve", Path("m.csv").write_text("1,0\n0,1\n") and "m.csv", "--times", "0")
    refused(capsys, USAGE, "but Xi is 2 x 2", "solve", "system.npz", "--times", "0", "--z0", "1,2,3")
    refused(capsys, USAGE, "must end with", "solve", "system.npz", "--times", "0", "--out", "z.exe")
    refused(capsys, USAGE, "a system is read from", "solve", "system.pickle", "--times", "0")


def test_files_are_never_replaced_without_force(capsys):
    Path("z.csv").write_text("mine")
    refused(capsys, USAGE, "--force", "solve", "system.npz", "--times", "0", "--out", "z.csv")
    assert Path("z.csv").read_text() == "mine"
    assert run(capsys, "solve", "system.npz", "--times", "0", "--out", "z.csv", "--force")[0] == OK
    assert Path("z.csv").read_text().startswith("t,z1")
    refused(capsys, BAD_FILE, "no folder", "solve", "system.npz", "--times", "0", "--out", "no/z.csv")
    Path("folder.csv").mkdir()
    refused(capsys, USAGE, "no file", "solve", "system.npz", "--times", "0", "--out", "folder.csv", "--force")


def test_a_file_that_comes_up_meanwhile_is_kept(here: Path):
    output = Output(Path("z.csv"), (".csv",), force=False)
    Path("z.csv").write_text("theirs")
    with pytest.raises(Refusal, match="already"):
        output.write(lambda file: file.write(b"mine"))
    assert Path("z.csv").read_text() == "theirs"
    assert sorted(x.name for x in here.iterdir()) == ["system.npz", "z.csv"]


def test_an_interrupted_write_leaves_nothing(here: Path):
    def stop(file: io.BytesIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    output = Output(Path("z.csv"), (".csv",), force=True)
    with pytest.raises(KeyboardInterrupt):
        output.write(stop)
    assert sorted(x.name for x in here.iterdir()) == ["system.npz"]


BAD = {
    "empty.csv": (b"", "is empty"),
    "text.csv": (b"1,0\n0,one\n", "line 2, column 2: 'one' is no number"),
    "ragged.csv": (b"1,0\n0\n", "line 2 has 1 cells, line 1 has 2"),
    "infinite.csv": (b"1,0\n0,inf\n", "line 2, column 2: 'inf' is no finite number"),
    "latin.csv": (b"1,0\n0,\xe9\n", "is no UTF-8 text"),
    "wide.csv": (b"1,0,0\n0,1,0\n", "must be (n, n)"),
    "bad.npz": (b"PK\x03\x04nonsense", "is no readable .npz file"),
    "bad.mat": (b"nonsense" * 40, "is no readable .mat file"),
    "bad.json": (b'{"Xi": [[1}', "line 1, column"),
    "twice.json": (b'{"Xi": [[1]], "Xi": [[2]]}', "'Xi' is there twice"),
    "deep.json": (b"[" * 100000, "nested too deeply"),
    "list.json": (b"[1, 2]", "holds a list"),
    "none.json": (b'{"z0": [1]}', "has no Xi"),
    "nan.json": (b'{"Xi": [[NaN]], "z0": [1]}', "Xi[0, 0] is not finite"),
    "words.json": (b'{"Xi": [["a"]], "z0": [1]}', "Xi holds no numbers"),
    "uneven.json": (b'{"Xi": [[1, 2], [3]], "z0": [1]}', "Xi is no regular array"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_hold_no_system_are_refused_by_name_and_place(capsys, name: str):
    content, words = BAD[name]
    Path(name).write_bytes(content)
    refused(capsys, BAD_FILE, f"{name}: ", "solve", name, "--times", "0", "--z0", "1,1")
    refused(capsys, BAD_FILE, words, "solve", name, "--times", "0", "--z0", "1,1")


def test_objects_and_bombs_are_refused(capsys):
    np.savez("object.npz", Xi=np.array([{"a": 1}], dtype=object), z0=Z0)
    refused(capsys, BAD_FILE, "is no readable .npz file", "solve", "object.npz", "--times", "0")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    Path("huge.npy").write_bytes(header.getvalue())
    refused(capsys, BAD_FILE, "huge.npy", "solve", "system.npz", "--times", "huge.npy")
    refused(capsys, BAD_FILE, "cannot be read", "solve", "missing.npz", "--times", "0")
    Path("folder.json").mkdir()
    refused(capsys, BAD_FILE, "cannot be read", "solve", "folder.json", "--times", "0")


TABLES = {
    "no header": (b"1,2\n3,4\n", "the first line must hold the names"),
    "twice": (b"t,a,a\n1,2,3\n", "column 'a' is there 2 times"),
    "a word": (b"t,a\n0,1\n1,x\n", "line 3, column a: 'x' is no number"),
    "no time": (b"s,a\n0,1\n", "has no column 't'; its columns are 's', 'a'"),
    "a time that is missing": (b"t,a\n,1\n1,2\n", "line 2, column t: '' is no finite number"),
    "short": (b"t,a\n0,1\n1\n", "line 3 has 1 cells, line 1 has 2"),
    "header only": (b"t,a\n", "has a header, and no rows"),
    "an open quote": (b't,a\n0,"1\n', "line 2"),
    "a null byte": (b"t,a\n0,\x001\n", "line 2"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_none_are_refused_by_name_and_place(capsys, name: str):
    content, words = TABLES[name]
    Path("d.csv").write_bytes(content)
    refused(capsys, BAD_FILE, words, "fit", "d.csv")
    refused(capsys, BAD_FILE, "d.csv: ", "fit", "d.csv")


def test_what_the_package_refuses_is_one_line_too(capsys):
    Path("d.csv").write_text("t,a\n0,1\n1,2\n")
    refused(capsys, USAGE, "fewer than", "fit", "d.csv", "--rank", "5")
    refused(capsys, USAGE, "is the time", "fit", "d.csv", "--columns", "t")


@pytest.mark.parametrize("suffix", ["csv", "json", "npz", "mat"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_rubbish_never_gives_a_traceback(capsys, suffix: str, content: bytes):
    Path(f"r.{suffix}").write_bytes(content)
    code, _, err = run(capsys, "solve", f"r.{suffix}", "--times", "0", "--z0", "1")
    assert code in (OK, TROUBLE, USAGE, BAD_FILE)
    assert err.count("\n") <= 1
    code, _, err = run(capsys, "fit", f"r.{suffix}", "--time", "t")
    assert code in (OK, TROUBLE, USAGE, BAD_FILE)


def test_a_missing_package_is_named(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "linode.cli.run", raising=False)
    monkeypatch.delitem(sys.modules, "linode.cli.app", raising=False)
    refused(capsys, MISSING, "pip install typer rich", "methods")


# ---- as a program ----------------------------------------------------------------------------------------------------


# a parent in the background may ignore SIGINT, which children inherit
LAUNCHER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "linode", *sys.argv[1:]])
"""


def program(*arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(linode.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-c", LAUNCHER, *arguments], subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe)


def test_a_reader_that_had_enough_is_no_error():
    with program("solve", "system.npz", "--times", "0:10:200000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == OK


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_one_line_and_leaves_nothing(here: Path, kind: signal.Signals):
    with program("solve", "system.npz", "--times", "0:10:3000000", "--out", "z.csv") as process:
        deadline = time.monotonic() + 120
        while not list(here.glob(".z.csv.*")):  # it is being written
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(kind)
        _, err = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, err
    assert err.decode().splitlines() == ["linode: interrupted; no file was left half-written"]
    assert sorted(x.name for x in here.iterdir()) == ["system.npz"]
