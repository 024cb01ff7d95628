"""The command line against files and streams that mean no good: one line and a code, never a crash or a lost file."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import linode

pytest.importorskip("typer")

from linode.cli import files
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
    _, out, _ = run(capsys, "solve", f"s.{suffix}", "--times", "5,6,7")
    shown = np.array([[float(x) for x in line.split(",")] for line in out.splitlines()[1:]])[:, 1:]
    result = linode.fit(t, y, rank=1, bias=True)
    assert result.offset is not None
    assert np.allclose(shown, result.predict([5.0, 6.0, 7.0]), atol=1e-12)


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


# ---- files that are none -----------------------------------------------------------------------------------------


def in_time(*arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own, which fails if it goes on for ever."""
    command = [sys.executable, "-m", "linode", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("kind", ["a pipe", "a link to a pipe", "/dev/zero", "/dev/urandom"])
def test_what_has_no_end_is_not_read(kind: str):
    os.mkfifo("pipe.csv")
    names = {"a pipe": "pipe.csv", "a link to a pipe": "link.csv"}
    Path("link.csv").symlink_to("pipe.csv" if kind.startswith("a ") else kind)
    name = names.get(kind, "link.csv")
    for words in (
        ("fit", name),
        ("solve", name, "--z0", "1,0", "--times", "0"),
        ("solve", "system.npz", "--times", name),
        ("solve", "system.npz", "--times", "0", "--z0", name),
        ("solve", "system.npz", "--times", "0", "--inputs", name),
    )[:: 1 if kind == "a pipe" else 4]:
        done = in_time(*words)
        assert done.returncode == BAD_FILE, done
        assert done.stderr == (
            f"linode: {name}: cannot be read: it is a device or a pipe; "
            "pipe it into the command, and give - as its name\n"
        )


def test_a_pipe_without_end_is_read_up_to_the_limit(capsys, monkeypatch: pytest.MonkeyPatch):
    class Endless(io.RawIOBase):
        n_read = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            buffer[:] = b"0" * len(buffer)
            Endless.n_read += len(buffer)
            return len(buffer)

    monkeypatch.setattr(files, "MOST_BYTES", 10**6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    refused(capsys, BAD_FILE, "standard input: is larger than", "fit", "-")
    assert Endless.n_read < 10**7
    Path("long.csv").write_bytes(b"t,a\n" + b"0,1\n" * 300000)
    refused(capsys, BAD_FILE, "long.csv: is larger than", "fit", "long.csv")
    with open("holes.csv", "wb") as file:
        file.truncate(2**40)  # that takes no room
    refused(capsys, BAD_FILE, "holes.csv: is larger than", "fit", "holes.csv")


@pytest.mark.skipif(os.name != "posix", reason="streams of POSIX")
def test_standard_input_that_cannot_be_read_is_one_line():
    command = [sys.executable, "-m", "linode", "fit", "-"]
    done = subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (BAD_FILE, "linode: standard input: is empty\n")
    closed = ["sh", "-c", 'exec "$0" "$@" <&-', *command]
    done = subprocess.run(closed, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (BAD_FILE, "linode: standard input: is closed\n")


def compressed(name: bytes, shape: tuple[int, int]) -> bytes:
    """An array of zeros in a MATLAB file of version 5, compressed without holding it."""
    n = shape[0] * shape[1] * 8
    flags = struct.pack("<IIII", 6, 8, 6, 0)
    sizes = struct.pack("<IIii", 5, 8, *shape)
    named = struct.pack("<HH4s", 1, len(name), name.ljust(4, b"\0"))
    head = flags + sizes + named + struct.pack("<II", 9, n)
    press = zlib.compressobj(9)
    parts = [press.compress(struct.pack("<II", 14, len(head) + n) + head)]
    parts += [press.compress(bytes(2**20)) for _ in range(n // 2**20)]
    data = b"".join([*parts, press.compress(bytes(n % 2**20)), press.flush()])
    return struct.pack("<II", 15, len(data)) + data


def head_of_mat() -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)


def test_a_small_matlab_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(capsys):
    Path("bomb.mat").write_bytes(head_of_mat() + compressed(b"Xi", (12000, 12000)))  # 1.15 GB
    assert Path("bomb.mat").stat().st_size < 2 * 10**6
    refused(capsys, BAD_FILE, "bomb.mat: unpacks to more than 1 GiB", "solve", "bomb.mat", "--times", "0", "--z0", "1")
    one = compressed(b"A", (100, 1000))  # 0.8 MB
    Path("many.mat").write_bytes(head_of_mat() + 1500 * one)
    refused(capsys, BAD_FILE, "many.mat: unpacks to more than 1 GiB", "solve", "many.mat", "--times", "0", "--z0", "1")


def test_what_a_matlab_file_says_of_its_size_is_not_believed():
    file = BytesIO()
    scipy.io.savemat(file, {"Xi": scipy.sparse.csc_matrix(([1.0], ([0], [0])), shape=(10**6, 10**6))})
    with pytest.raises(ValueError, match="unpacks to more than"):  # 8 TB as a dense array
        arrays_of_mat(file.getvalue())
    file = BytesIO()
    scipy.io.savemat(file, {"Xi": XI})
    sound = file.getvalue()
    at = sound.index(struct.pack("<II", 5, 8)) + 8
    for shape in ((10**9, 1), (2**31 - 1, 2**31 - 1), (-1, 4), (0, 0)):
        try:
            found = arrays_of_mat(sound[:at] + struct.pack("<ii", *shape) + sound[at + 8 :])
        except ValueError:
            continue
        assert found["Xi"].size in (0, 4)
    small = arrays_of_mat(sound, most=10**4)
    assert np.array_equal(small["Xi"], XI)
    with pytest.raises(ValueError, match="unpacks to more than"):
        arrays_of_mat(sound, most=100)


def test_archives_that_lie_are_refused(capsys):
    member = BytesIO()
    np.lib.format.write_array(member, np.eye(2))
    with zipfile.ZipFile("twice.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says so too
        for _ in range(2):
            archive.writestr("Xi.npy", member.getvalue())
    refused(capsys, BAD_FILE, "holds 'Xi.npy' twice", "solve", "twice.npz", "--times", "0", "--z0", "1,0")
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile("huge.npz", "w") as archive:
        archive.writestr("Xi.npy", header.getvalue())
    refused(capsys, BAD_FILE, "huge.npz: is no readable .npz file", "solve", "huge.npz", "--times", "0", "--z0", "1,0")
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("Xi.npy", "w") as file:
        for _ in range(1100):
            file.write(bytes(2**20))
    refused(capsys, BAD_FILE, "bomb.npz: unpacks to 1.07 GiB", "solve", "bomb.npz", "--times", "0", "--z0", "1,0")


def test_numbers_of_json_that_do_not_fit_together_are_refused(capsys):
    for system, words in (
        ('{"Xi": {"re": [[1, 2]], "im": [[1], [2]]}, "z0": [1]}', "re of shape (1, 2) and im of shape (2, 1)"),
        ('{"Xi": {"re": [[1]], "im": [1, 2, 3]}, "z0": [1]}', "re of shape (1, 1) and im of shape (3,)"),
        ('{"Xi": {"re": [[1]]}, "z0": [1]}', "complex arrays are objects with re and im"),
        ('{"Xi": [[1e400]], "z0": [1]}', "Xi[0, 0] is not finite"),
        ('{"Xi": [[' + "9" * 5000 + ']], "z0": [1]}', "Exceeds the limit"),
        ('{"Xi": [[' + "9" * 400 + ']], "z0": [1]}', "Xi"),
        ('{"Xi": [[true]], "z0": [1]}', "Xi holds no numbers: bool"),
        ('{"Xi": [[null]], "z0": [1]}', "Xi holds no numbers: object"),
        ('{"Xi": "[[1]]", "z0": [1]}', "Xi holds no numbers"),
        ('{"Xi": [[1]], "z0": {"a": 1}}', "z0 is an object"),
        ('{"Xi": [[1]], "z0": [1], "b": [1, 2]}', "b has shape (2,), but Xi is 1 x 1"),
    ):
        Path("s.json").write_text(system)
        code, out, err = run(capsys, "solve", "s.json", "--times", "0")
        assert code in (USAGE, BAD_FILE), system
        assert (out, err.count("\n")) == ("", 1)
        assert words in err


def test_many_names_take_no_more_than_linear_time(capsys):
    names = ",".join(f"c{i}" for i in range(60000))
    Path("wide.csv").write_text(f"{names}\n" + ",".join(["1"] * 60000) + "\n")
    Path("wide.json").write_text(json.dumps({f"c{i}": 1 for i in range(60000)}))
    start = time.monotonic()
    _, _, err = run(capsys, "fit", "wide.csv")
    assert "has no column 't'; its columns are 'c0', 'c1'" in err
    assert len(err) < 1000
    _, _, err = run(capsys, "solve", "wide.json", "--times", "0")
    assert "has no Xi (or A); it has 'c0', 'c1'" in err
    assert "more" in err
    assert len(err) < 1000
    assert time.monotonic() - start < 30.0  # a square of 60,000 steps takes minutes


# ---- what reaches the terminal ---------------------------------------------------------------------------------------

ESCAPES = "\x1b[31mred\x1b[0m\x07\u202etfel\u2066\x9b2J\r\nlinode: all is well"


def clean_streams(capsys, *words: object) -> str:
    _, out, err = run(capsys, *words)
    assert err.count("\n") <= 1
    assert all(x.isprintable() or x == "\n" for x in out + err), repr(out + err)
    return out + err


def test_names_of_files_never_reach_the_terminal_as_commands(capsys):
    Path("s.json").write_text(json.dumps({ESCAPES: 1}))
    assert r"\x1b[31mred\x1b[0m\x07" in clean_streams(capsys, "solve", "s.json", "--times", "0")
    Path("s.json").write_text(json.dumps({"Xi": [[1]], "z0": [1], ESCAPES: 1}))
    assert r"\x1b[31m" in clean_streams(capsys, "solve", "s.json", "--times", "0")
    Path("s.json").write_text(json.dumps({"Xi": [[1]], "z0": [1], "names": [ESCAPES]}))
    assert r"t,\x1b[31m" in clean_streams(capsys, "solve", "s.json", "--times", "0")
    Path("s.json").write_text(f'{{"Xi": [[1]], {json.dumps(ESCAPES)}: 1, {json.dumps(ESCAPES)}: 2}}')
    assert r"\x1b[31m" in clean_streams(capsys, "solve", "s.json", "--times", "0")
    rows = "".join(f"{i},{2.0**-i}\n" for i in range(9))
    quoted = '"' + ESCAPES.replace("\r\n", " ") + '"'
    Path("d.csv").write_text(f"t,{quoted}\n{rows}")
    assert r"\x1b[31m" in clean_streams(capsys, "fit", "d.csv", "--holdout", "0.3")
    clean_streams(capsys, "fit", "d.csv", "--time", "x")
    clean_streams(capsys, "fit", "d.csv", "--json")
    Path("d.csv").write_text(f"t,a\n0,{quoted}\n{rows}")
    clean_streams(capsys, "fit", "d.csv")
    np.savez("n.npz", **{"\x1b[2J": np.eye(2)})
    assert r"\x1b[2J" in clean_streams(capsys, "solve", "n.npz", "--times", "0")
    name = "\x1b[31mred.json"
    Path(name).write_text("{")
    assert r"\x1b[31mred.json: line 1" in clean_streams(capsys, "solve", name, "--times", "0")
    clean_streams(capsys, "solve", "\x1b[31m.json", "--times", "0")
    clean_streams(capsys, "\x1b[31m")
    clean_streams(capsys, "solve", "system.npz", "--times", "\x1b[31m")
    clean_streams(capsys, "solve", "system.npz", "--times", "0", "--method", "\x1b[31m")
    clean_streams(capsys, "solve", "system.npz", "--times", "0", "--\x1b[31m")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_file_name_that_is_no_text_is_shown():
    done = subprocess.run(
        [sys.executable, "-m", "linode", "solve", b"\xff\xfe.json", "--times", "0"],
        env=ENVIRONMENT,
        capture_output=True,
    )
    assert done.returncode == BAD_FILE
    assert done.stderr == b"linode: \\udcff\\udcfe.json: cannot be read: No such file or directory\n"


def test_letters_that_standard_output_does_not_have_are_one_line():
    Path("s.json").write_text(json.dumps({"Xi": [[1]], "z0": [1], "names": ["température"]}))
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "linode", "solve", "s.json", "--times", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == BAD_FILE
    assert done.stderr == "linode: standard output is ascii, which has no '\\xe9'; set PYTHONIOENCODING=utf-8\n"


# ---- what is replaced ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_file_that_is_replaced_keeps_its_permissions(capsys, mode: int):
    for name in ("z.csv", "z.png", "z.npz", "z.json"):
        Path(name).write_text("old")
        Path(name).chmod(mode)
        option = "--plot" if name == "z.png" else "--out"
        assert run(capsys, "solve", "system.npz", "--times", "0,1", option, name, "--force")[0] == OK
        assert stat.S_IMODE(Path(name).stat().st_mode) == mode
        assert Path(name).read_bytes() != b"old"
    previous = os.umask(0o027)
    try:
        assert run(capsys, "solve", "system.npz", "--times", "0,1", "--out", "new.csv")[0] == OK
    finally:
        os.umask(previous)
    assert stat.S_IMODE(Path("new.csv").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_that_is_read_only_is_not_replaced(capsys):
    Path("z.csv").write_text("old")
    Path("z.csv").chmod(0o444)
    Path("link.csv").symlink_to("z.csv")
    for name in ("z.csv", "link.csv"):
        words = f"{name}: is read-only"
        refused(capsys, BAD_FILE, words, "solve", "system.npz", "--times", "0,1", "--out", name, "--force")
        assert Path("z.csv").read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may change owners")
def test_a_file_of_another_owner_stays_theirs(capsys):
    Path("z.csv").write_text("old")
    os.chown("z.csv", 12345, 12346)
    assert run(capsys, "solve", "system.npz", "--times", "0,1", "--out", "z.csv", "--force")[0] == OK
    assert (Path("z.csv").stat().st_uid, Path("z.csv").stat().st_gid) == (12345, 12346)


def test_a_link_to_nothing_creates_nothing_without_force(capsys):
    Path("z.csv").symlink_to("elsewhere.csv")
    refused(capsys, USAGE, "z.csv: is a link to", "solve", "system.npz", "--times", "0,1", "--out", "z.csv")
    assert not Path("elsewhere.csv").exists()
    assert run(capsys, "solve", "system.npz", "--times", "0,1", "--out", "z.csv", "--force")[0] == OK
    assert Path("z.csv").is_symlink()
    assert Path("elsewhere.csv").read_text().startswith("t,z1")
    Path("a.csv").symlink_to("b.csv")
    Path("b.csv").symlink_to("a.csv")
    code, out, err = run(capsys, "solve", "system.npz", "--times", "0,1", "--out", "a.csv")
    assert (code in (USAGE, BAD_FILE), out, err.count("\n")) == (True, "", 1)
    assert run(capsys, "solve", "system.npz", "--times", "a.csv")[0] in (USAGE, BAD_FILE)


@pytest.mark.parametrize("length", [300, 5000])
def test_a_name_that_is_too_long_is_told_of_its_own_file(capsys, length: int):
    name = "x" * length
    for words in (
        ("solve", "system.npz", "--times", "0,1", "--out", f"{name}.csv"),
        ("solve", "system.npz", "--times", "0,1", "--out", f"{name}/z.csv"),
        ("solve", "system.npz", "--times", "0,1", "--plot", f"{name}.png"),
        ("fit", f"{name}.csv"),
        ("solve", f"{name}.json", "--times", "0"),
        ("solve", "system.npz", "--times", "0", "--inputs", f"{name}.csv"),
        ("solve", "system.npz", "--times", "0", "--z0", f"{name}.csv"),
        (name,),
    ):
        code, _, err = run(capsys, *words)
        assert code in (USAGE, BAD_FILE)
        assert err.count("\n") == 1
        assert "standard output" not in err
        assert name in err


def test_the_longest_name_that_there_can_be_is_written(capsys):
    for option, suffix in (("--out", ".csv"), ("--plot", ".png")):
        name = "x" * 251 + suffix
        assert run(capsys, "solve", "system.npz", "--times", "0,1", option, name)[0] == OK
        assert Path(name).stat().st_size > 0
