"""Tables as people have them: dates, decimal commas, comments, encodings, names; and what comes back from a fit."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

import linode

pytest.importorskip("typer")

from linode.cli import console
from linode.cli.clock import UNITS, clock_of, moment, unit_of
from linode.cli.errors import BAD_FILE, OK, USAGE, Refusal
from linode.cli.tables import read_table
from linode.cli.times import read_times
from tests.shell import refused, run

XI, Z0 = np.array([[-0.1, 1.0], [-1.0, -0.1]]), np.array([1.0, 0.5])
T = 0.25 * np.arange(60)
Z = linode.LinearODE(XI, Z0)(T)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(times: list[str] | None = None, sep: str = ",", header: str = "t,a,b", z: np.ndarray = Z) -> str:
    first = list(map(repr, T.tolist())) if times is None else times
    rows = [sep.join([x, *map(repr, row)]) for x, row in zip(first, z.tolist())]
    return "\n".join([header.replace(",", sep), *rows]) + "\n"


def fitted(capsys, *words: object) -> dict:
    code, out, err = run(capsys, "fit", *words, "--json")
    assert code == OK, err
    return json.loads(out)


def rows_of(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- how a table is written ------------------------------------------------------------------------------------------

PLAIN = lines_of()
COMMA = "\n".join(line.replace(",", ";").replace(".", ",") for line in PLAIN.splitlines())
WRITTEN = {
    "plain": PLAIN.encode(),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "bars": PLAIN.replace(",", "|").encode(),
    "blanks": PLAIN.replace(",", "   ").encode(),
    "decimal commas": COMMA.encode(),
    "decimal commas and tabs": COMMA.replace(";", "\t").encode(),
    "decimal commas in quotes": "\n".join(
        ",".join(f'"{cell}"' for cell in line.split(";")) for line in COMMA.splitlines()
    ).encode(),
    "comments": ("# station 7, it's \"north\n#\n" + PLAIN.replace("\n1.0,", "\n  # a break\n1.0,")).encode(),
    "a header that is a comment": ("# made by hand\n# " + PLAIN).encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, most significant byte first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "UTF-8 with a mark": PLAIN.encode("utf-8-sig"),
    "ends of lines of DOS": PLAIN.replace("\n", "\r\n").encode(),
    "ends of lines of old Macs": PLAIN.replace("\n", "\r").encode(),
    "Excel's first line": ("sep=;\r\n" + COMMA).encode(),
    "an index that pandas wrote": "\n".join(
        f"{i - 1 if i else ''},{line}" for i, line in enumerate(PLAIN.splitlines())
    ).encode(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_numbers_are_read_however_they_are_written(capsys, name: str):
    Path("d.csv").write_bytes(WRITTEN[name])
    table = read_table(Path("d.csv"))
    assert [x for x in table.names if x] == ["t", "a", "b"]
    assert np.array_equal(table.numbers("t"), T)
    assert np.array_equal(np.stack([table.numbers(x) for x in "ab"], -1), Z)
    assert np.allclose(fitted(capsys, "d.csv")["Xi"], XI, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "decimal commas", "UTF-16"])
def test_a_table_comes_from_standard_input(capsys, monkeypatch: pytest.MonkeyPatch, name: str):
    give_stdin(monkeypatch, WRITTEN[name])
    assert np.allclose(fitted(capsys, "-")["Xi"], XI, atol=1e-6)


def test_systems_come_from_standard_input_too(capsys, monkeypatch: pytest.MonkeyPatch):
    expected = linode.LinearODE(XI, Z0)([0.0, 3.0])
    files = {"npz": io.BytesIO(), "mat": io.BytesIO()}
    np.savez(files["npz"], Xi=XI, z0=Z0)
    scipy.io.savemat(files["mat"], {"A": XI, "x0": Z0})
    system = json.dumps({"Xi": XI.tolist(), "z0": Z0.tolist()}).encode()
    for data in (system, b"  \n" + system, files["npz"].getvalue(), files["mat"].getvalue(), b"-0.1,1\n-1,-0.1\n"):
        give_stdin(monkeypatch, data)
        code, out, err = run(capsys, "solve", "-", "--z0", "1,0.5", "--times", "0,3", "--json")
        assert code == OK, err
        assert np.array_equal(json.loads(out)["z"], expected)
    give_stdin(monkeypatch, b"0\n3\n")
    Path("s.json").write_bytes(system)
    assert json.loads(run(capsys, "solve", "s.json", "--times", "-", "--json")[1])["t"] == [0.0, 3.0]
    refused(capsys, USAGE, "can be read once only", "solve", "-", "--times", "-")
    refused(capsys, USAGE, "can be read once only", "fit", "-", "--inputs", "-")


UNCLEAR = {
    "points and commas": ("t;a\n0,5;1.5\n1,5;2.5\n", "line 2 has 0,5, line 2 has 1.5: give --decimal"),
    "thousands": ("t\ta\n1,000\t1\n2,000\t2\n", "line 2 has 1,000: give --decimal , if this is no thousand"),
    "marks of thousands": ("t;a\n0;1.234,5\n1;2\n", "line 2, column a: '1.234,5' is no number"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_numbers_that_could_be_two_are_refused(capsys, name: str):
    content, words = UNCLEAR[name]
    Path("d.csv").write_text(content)
    refused(capsys, BAD_FILE, words, "fit", "d.csv")


def test_the_decimal_mark_can_be_told(capsys):
    Path("d.csv").write_text("t\ta\n0,000\t1,000\n1,000\t0,500\n2,000\t0,250\n3,000\t0,125\n")
    found = fitted(capsys, "d.csv", "--decimal", ",")
    assert np.allclose(found["eigenvalues"]["re"], -np.log(2.0))
    refused(capsys, USAGE, "--decimal must be a point or a comma", "fit", "d.csv", "--decimal", ";")
    refused(capsys, USAGE, "are both ','", "fit", "d.csv", "--decimal", ",", "--delimiter", ",")
    assert read_table(Path("d.csv"), None, ",").numbers("t").tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("mark", ['"', "'", "\n", "\r", "\0", "#", "1", "e", ".", "-", "ab", ""])
def test_what_cannot_delimit_is_refused(capsys, mark: str):
    Path("d.csv").write_text(PLAIN)
    refused(capsys, USAGE, "--delimiter", "fit", "d.csv", "--delimiter", mark)
    assert np.allclose(fitted(capsys, "d.csv", "--delimiter", ",")["Xi"], XI, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_table_is_read_as_it_was_written(tmp_path_factory, data: st.DataObject):
    sep = data.draw(st.sampled_from(",;\t|"))
    decimal = data.draw(st.sampled_from(".," if sep == ";" else "."))
    size = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 6))
    cell = st.floats(allow_nan=False, allow_infinity=False) | st.just(float("nan"))
    values = np.array(data.draw(st.lists(cell, min_size=size[0] * size[1], max_size=size[0] * size[1]))).reshape(
        size[::-1]
    )
    names = [f"c{i}, m/s" for i in range(size[0])]

    def text(x: float) -> str:
        return "" if np.isnan(x) else repr(x).replace(".", decimal)

    lines = [sep.join(f'"{name}"' for name in names)]
    lines += [sep.join(map(text, row)) or '""' for row in values.tolist()]
    path = tmp_path_factory.mktemp("table") / "d.txt"
    path.write_text("\n".join(lines) + "\n")
    table = read_table(path, None, decimal)
    kept = values[~np.isnan(values).all(1)] if size[0] == 1 else values
    assert table.names == names
    assert np.array_equal(np.stack([table.numbers(name) for name in names], -1), kept, equal_nan=True)


def test_columns_may_have_commas_in_their_names(capsys):
    Path("d.csv").write_text(lines_of(header='t,"flow, in (m3/s)",b').replace("t,", 't,"', 0))
    Path("d.csv").write_text('t,"flow, in",b\n' + lines_of().split("\n", 1)[1])
    for words in ("flow, in", "flow, in,b", '"flow, in",b', "b,flow, in"):
        found = fitted(capsys, "d.csv", "--columns", words, "--rank", "2", "--out", "f.csv", "--force")
        assert sorted(found["columns"]) == (["flow, in"] if words == "flow, in" else ["b", "flow, in"])
        assert '"flow, in"' in Path("f.csv").read_text().splitlines()[0]
    refused(
        capsys, BAD_FILE, "has no column 'flow'; its columns are 't', 'flow, in'", "fit", "d.csv", "--columns", "flow"
    )


# ---- dates -----------------------------------------------------------------------------------------------------------


def test_dates_are_exact_numbers():
    clock = clock_of(["2024-02-28T23:59:59.5+01:00"], "s")
    assert clock is not None
    for text, number in (
        ("2024-02-28T22:59:59.5Z", 0.0),
        ("2024-02-28 23:00:00.500000001Z", 1.000000001),
        ("2024-02-29T00:00:00+01:00", 0.5),
        ("2024-03-01T00:00:00+0100", 86400.5),  # a leap year
        ("2024-02-28T17:59:59.5-05", 0.0),
        ("2024-02-28T22:59:59,5UTC", 0.0),
        ("2024-02-28T23:59:59.5+01:00[Europe/Berlin]", 0.0),
    ):
        assert clock.number(text) == number, text
    for text in ("2024-02-30", "24-02-28", "2024-13-01", "2024-02-28T25:00Z", "2024-02-28T22:00", "2024", "today", ""):
        assert clock.number(text) is None, text
    assert clock_of(["1958-03"], "year").number("1959-03-01T06:00") == 365.25 / 365.25
    assert [unit_of(x) for x in ("hours", "H", "sec", "days", "d", "Weeks", "yr"[:1])] == [
        "h",
        "h",
        "s",
        "day",
        "day",
        "week",
        "year",
    ]
    with pytest.raises(Refusal, match=r"--time-unit 'month' is unknown; known are s, min, h, day, week, year"):
        unit_of("month")


@settings(max_examples=100, deadline=None)
@given(
    first=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    gap=st.integers(0, 100 * 365 * 86400 * 10**6),
    offset=st.none() | st.integers(-1439, 1439),
    unit=st.sampled_from(sorted(UNITS)),
)
def test_dates_come_back_from_numbers(first: datetime, gap: int, offset: int | None, unit: str):
    zone = None if offset is None else timezone(timedelta(minutes=offset))
    second = first + timedelta(microseconds=gap)
    texts = [x.replace(tzinfo=zone).isoformat() for x in (first, second)]
    clock = clock_of(texts, unit)
    assert clock is not None
    number = clock.number(texts[1])
    assert number is not None
    assert abs(number - gap / (UNITS[unit] * 1e6)) <= 4e-16 * number
    back = moment(str(clock.texts(np.array([0.0, number]))[1]))
    assert back is not None
    assert back.offset == offset
    assert abs(back.nanoseconds - clock.first.nanoseconds - 1000 * gap) <= 1000


DATES = [(datetime(2024, 3, 30, 12) + timedelta(hours=6 * k)).isoformat() for k in range(60)]
ZONED = [  # local time in Berlin, where the clocks went forward in the night to the 31st of March
    (x := datetime(2024, 3, 30, 11, tzinfo=timezone.utc) + timedelta(hours=6 * k))
    .astimezone(timezone(timedelta(hours=1 if x < datetime(2024, 3, 31, 1, tzinfo=timezone.utc) else 2)))
    .isoformat()
    for k in range(60)
]


@pytest.mark.parametrize("dates", [DATES, ZONED, [x.replace("T", " ") for x in DATES]], ids=["local", "zoned", "blank"])
def test_a_fit_of_dates_has_rates_per_unit_of_time(capsys, dates: list[str]):
    Path("d.csv").write_text(lines_of(dates, header="when,a,b"))
    rates = np.linalg.eigvals(XI).imag.max()  # T is in days: 6 hours are 0.25
    for unit, seconds in (("day", 86400), ("hours", 3600), ("s", 1), ("week", 7 * 86400)):
        found = fitted(capsys, "d.csv", "--time", "when", "--time-unit", unit)
        assert np.allclose(np.max(found["eigenvalues"]["im"]), rates * seconds / 86400, rtol=1e-6)
    assert fitted(capsys, "d.csv", "--time", "when")["time_unit"] == "day"
    out = run(capsys, "fit", "d.csv", "--time", "when")[1]
    assert f"time: days since {dates[0].replace(' ', 'T')}" in out


WRONG_DATES = {
    "no date": ("2024-03-01,1\n2024-03-40,2\n", "line 3, column t: '2024-03-40' is no date"),
    "a number": ("2024-03-01,1\n5.5,2\n", "line 3, column t: '5.5' is no date"),
    "a date after numbers": ("5.5,1\n2024-03-01,2\n", "line 3, column t: '2024-03-01' is no number"),
    "a zone": ("2024-03-01T00:00,1\n2024-03-02T00:00Z,2\n", "line 3, column t: '2024-03-02T00:00Z' has a time zone"),
    "no zone": ("2024-03-01T00:00Z,1\n2024-03-02T00:00,2\n", "line 3, column t: '2024-03-02T00:00' has no time zone"),
    "a missing one": ("2024-03-01,1\n,2\n", "line 3, column t: '' is no date"),
}


@pytest.mark.parametrize("name", WRONG_DATES)
def test_dates_that_are_none_are_refused_by_their_place(capsys, name: str):
    content, words = WRONG_DATES[name]
    Path("d.csv").write_text("t,a\n" + content)
    refused(capsys, BAD_FILE, words, "fit", "d.csv")


def test_a_forecast_past_the_last_year_of_dates_is_refused(capsys):
    Path("d.csv").write_text(lines_of(DATES))
    words = "after the year 9999"
    refused(capsys, USAGE, words, "fit", "d.csv", "--time-unit", "year", "--forecast", "9000", "--out", "f.csv")


def test_a_large_table_is_read_behind_a_bar(capsys, monkeypatch: pytest.MonkeyPatch):
    Path("d.csv").write_text(PLAIN)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    assert "reading" not in run(capsys, "fit", "d.csv")[2]
    monkeypatch.setattr(console, "MUCH", 100)
    code, out, err = run(capsys, "fit", "d.csv")
    assert code == OK
    assert "reading d.csv" in err
    assert "100 %" in err
    assert "reading" not in out
    monkeypatch.delenv("FORCE_COLOR")
    assert run(capsys, "fit", "d.csv")[2] == ""


# ---- names and inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "json", "mat"])
def test_a_saved_fit_solves_in_the_channels_and_on_the_axis_of_its_data(capsys, suffix: str):
    y = 300.0 + Z @ [[1.0, 0.5, 0.0], [0.0, 2.0, 1.0]] + 1e-4 * np.random.default_rng(0).standard_normal((60, 3))
    t = 1990.0 + T
    lines = [",".join(map(repr, row)) for row in np.column_stack([t, y]).tolist()]
    Path("d.csv").write_text("year,CO2 (ppm),b,c\n" + "\n".join(lines))
    saved = f"s.{suffix}"
    words = "--time", "year", "--time-unit", "year", "--rank", "2", "--bias"
    assert run(capsys, "fit", "d.csv", *words, "--save", saved)[0] == OK
    result = linode.fit(t, y, rank=2, bias=True)
    code, out, err = run(capsys, "solve", saved, "--times", "1990:2010:5")
    rows = rows_of(out)
    assert (code, err) == (OK, "")
    assert rows[0] == ["year", "CO2 (ppm)", "b", "c"]
    asked = np.linspace(1990.0, 2010.0, 5)
    assert np.allclose(np.array(rows[1:], float), np.c_[asked, result.predict(asked)], rtol=1e-12)
    states = rows_of(run(capsys, "solve", saved, "--times", "1990,1991", "--states")[1])
    assert states[0] == ["year", "z1", "z2"]
    assert np.allclose(np.array(states[1:], float)[:, 1:], result.ode()([0.0, 1.0]), rtol=1e-12)
    assert "(1/year)" in run(capsys, "explain", saved)[1]
    assert run(capsys, "explain", saved)[2] == ""


@pytest.mark.parametrize("dates", [DATES, ZONED], ids=["local", "zoned"])
@pytest.mark.parametrize("suffix", ["npz", "json", "mat"])
def test_a_saved_fit_of_dates_takes_dates_and_gives_dates(capsys, suffix: str, dates: list[str]):
    Path("d.csv").write_text(lines_of(dates, header="when,a,b"))
    saved = f"s.{suffix}"
    code = run(capsys, "fit", "d.csv", "--time", "when", "--time-unit", "h", "--save", saved, "--out", "f.csv")[0]
    assert code == OK
    assert [row[0] for row in rows_of(Path("f.csv").read_text())[:2]] == ["when", dates[0]]
    zone = "" if dates is DATES else "+01:00"
    later = f"2024-04-01T00:00:00{zone}"
    days = (datetime(2024, 4, 1) - datetime(2024, 3, 30, 12)).total_seconds() / 86400
    exact = linode.LinearODE(XI, Z0)([days])[0]
    Path("t.csv").write_text(f"when,t\nx,{later}\n")
    for times in (later, f"{dates[0]}:{later}:2", f"0,{24 * days}", "t.csv"):
        rows = rows_of(run(capsys, "solve", saved, "--times", times)[1])
        assert rows[0] == ["when", "a", "b"]
        assert rows[-1][0] == later, times
        assert np.allclose(np.array(rows[-1][1:], float), exact, atol=1e-6), times
    found = json.loads(run(capsys, "solve", saved, "--times", later, "--json")[1])
    assert (found["t"], found["names"]) == ([later], ["a", "b"])


def test_ranges_of_dates_are_cut_at_the_right_colons():
    clock = clock_of(["2024-01-01T00:00"], "h")
    assert read_times("2024-01-01T06:00:2024-01-02T12:30:3", clock).tolist() == [6.0, 21.25, 36.5]
    assert read_times("2024-01-01:2024-01-02:2", clock).tolist() == [0.0, 24.0]
    assert read_times("1:2024-01-02:3:log", clock).tolist() == pytest.approx([1.0, 24.0**0.5, 24.0])
    assert read_times("2024-01-02,5", clock).tolist() == [24.0, 5.0]
    with pytest.raises(Refusal, match="may be dates too"):
        read_times("2024-01-01:soon:3", clock)
    with pytest.raises(Refusal, match="--times '2024-01-01'"):
        read_times("2024-01-01")


def test_inputs_are_a_table_in_both_commands_and_columns_of_the_data_in_a_fit(capsys):
    rng = np.random.default_rng(1)
    times, u = 10.0 + np.arange(15.0), rng.standard_normal((15, 1))
    t = 10.0 + np.linspace(0.0, 14.0, 90)
    B = np.array([[0.0], [2.0]])
    z = linode.LinearODE(XI, Z0, B=B, u=linode.ZeroOrderHold(times - 10.0, u))(t - 10.0)
    held = u[np.searchsorted(times, t, side="right") - 1, 0]
    Path("d.csv").write_text(
        "t,a,b,force\n"
        + "\n".join(f"{x!r},{a!r},{b!r},{f!r}" for x, (a, b), f in zip(t.tolist(), z.tolist(), held.tolist()))
    )
    Path("u.csv").write_text("t,force\n" + "\n".join(f"{x!r},{f!r}" for x, f in zip(times.tolist(), u[:, 0].tolist())))
    by_table = fitted(capsys, "d.csv", "--columns", "a,b", "--inputs", "u.csv", "--save", "s.json")
    assert np.allclose(by_table["Xi"], XI, atol=1e-6)
    assert np.allclose(by_table["B"], B, atol=1e-6)
    assert "B" in fitted(capsys, "d.csv", "--columns", "a,b", "--inputs", "force")
    code, out, err = run(capsys, "solve", "s.json", "--times", "10:24:7", "--inputs", "u.csv")
    assert (code, err) == (OK, "")
    exact = linode.LinearODE(XI, Z0, B=B, u=linode.ZeroOrderHold(times - 10.0, u))(np.linspace(0.0, 14.0, 7))
    assert np.allclose(np.array(rows_of(out)[1:], float)[:, 1:], exact, atol=1e-6)
    words = "names neither columns of d.csv nor a file"
    refused(capsys, BAD_FILE, words, "fit", "d.csv", "--inputs", "farce")


def test_a_system_with_outputs_gives_its_channels(capsys):
    system = {"Xi": XI.tolist(), "z0": [1, 0], "B": [[0.0], [1.0]], "C": [[1.0, 1.0]], "D": [[3.0]], "offset": [5.0]}
    Path("s.json").write_text(json.dumps(system | {"names": ["level"], "t0": 2.0}))
    Path("u.csv").write_text("t,u\n0,1\n3,-1\n")
    rows = rows_of(run(capsys, "solve", "s.json", "--times", "2,2.5,4", "--inputs", "u.csv")[1])
    z = linode.LinearODE(XI, [1.0, 0.0], B=system["B"], u=linode.ZeroOrderHold([-2.0, 1.0], [[1.0], [-1.0]]))(
        [0.0, 0.5, 2.0]
    )
    assert rows[0] == ["t", "level"]
    assert np.allclose(np.array(rows[1:], float)[:, 1], z.sum(-1) + 3.0 * np.array([1.0, 1.0, -1.0]) + 5.0, rtol=1e-14)
    for wrong, words in (
        ({"offset": [1.0, 2.0]}, "offset has shape (2,), but there are 1 channels"),
        ({"D": [[1.0, 2.0]]}, "D has shape (1, 2); it must have as many columns as B"),
        ({"names": ["a", "b"]}, "names holds 2 names, but there are 1 channels"),
        ({"names": [1]}, "names must be text"),
        ({"time_origin": "noon"}, "time_origin is no date"),
        ({"t0": [1.0, 2.0]}, "t0 has shape (2,)"),
    ):
        Path("w.json").write_text(json.dumps(system | wrong))
        refused(capsys, BAD_FILE, words, "solve", "w.json", "--times", "0")
    Path("w.json").write_text(json.dumps(system | {"names": ["t"]}))
    refused(
        capsys,
        USAGE,
        "two columns of the result would be called 't'",
        "solve",
        "w.json",
        "--times",
        "0",
        "--inputs",
        "u.csv",
    )


def test_groups_keep_their_names(capsys):
    lines = lines_of().splitlines()
    Path("g.csv").write_text(
        "\n".join(["who," + lines[0], *("one," + x for x in lines[1:]), *("two," + x for x in lines[1:])])
    )
    assert run(capsys, "fit", "g.csv", "--group", "who", "--out", "f.csv")[0] == OK
    rows = rows_of(Path("f.csv").read_text())
    assert rows[0] == ["t", "who", "a", "a_stderr", "b", "b_stderr"]
    assert [row[1] for row in rows[1:]] == ["one"] * 60 + ["two"] * 60


def test_a_column_may_have_any_name(capsys):
    Path("d.csv").write_text(lines_of(header="t,file,arr_0"))
    for suffix in ("csv", "npz", "json"):
        assert run(capsys, "fit", "d.csv", "--out", f"f.{suffix}")[0] == OK
    assert set(np.load("f.npz")) == {"t", "file", "file_stderr", "arr_0", "arr_0_stderr"}
    Path("d.csv").write_text(lines_of(header="t,a,a_stderr"))
    refused(capsys, USAGE, "two columns of the result would be called 'a_stderr'", "fit", "d.csv", "--out", "g.csv")


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that a command writes."""
    from linode.cli import fitting, solving

    found: list = []
    for module in (fitting, solving):
        monkeypatch.setattr(module, "write_picture", lambda _, figure: found.append(figure))
    return found


def test_pictures_have_the_names_of_the_header_and_held_out_points(capsys, sheets: list):
    pytest.importorskip("matplotlib")
    Path("d.csv").write_text(lines_of(DATES, header="when,level,flow"))
    words = "--time", "when", "--holdout", "0.25", "--save", "s.npz"
    assert run(capsys, "fit", "d.csv", *words, "--plot", "f.png")[0] == OK
    (axes,) = sheets[-1].axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["level", "flow", "data", "held out", "fit", "forecast", "95 % band"]
    assert axes.get_xlabel() == "when (days since 2024-03-30T12:00:00)"
    hollow = [line for line in axes.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in hollow] == [np.c_[T, Z[:, j]][45:].tolist() for j in range(2)]
    assert run(capsys, "solve", "s.npz", "--times", "0:10:50", "--plot", "z.png")[0] == OK
    (axes,) = sheets[-1].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["level", "flow"]
    assert axes.get_xlabel() == "when (days since 2024-03-30T12:00:00)"


# ---- words that are nearly right -------------------------------------------------------------------------------------


def test_what_a_system_file_holds_in_vain_is_told(capsys):
    system = {"Xi": XI.tolist(), "z0": Z0.tolist(), "note": "a spring"}
    Path("s.json").write_text(json.dumps(system))
    assert run(capsys, "solve", "s.json", "--times", "0")[2] == ""
    Path("s.json").write_text(json.dumps(system | {"BB": [[1.0]], "mass": 3.0}))
    code, out, err = run(capsys, "solve", "s.json", "--times", "0")
    assert (code, out.count("\n")) == (OK, 2)
    assert err == "linode: s.json: 'BB', 'mass' are not used; did you mean 'B'?\n"
    Path("s.json").write_text(json.dumps({"Xi": XI.tolist(), "Z0": Z0.tolist()}))
    _, _, err = run(capsys, "solve", "s.json", "--times", "0")
    assert err.splitlines()[-1] == (
        "linode: s.json holds no z0: give --z0, numbers with commas between them or a file; it has 'Xi', 'Z0'"
    )
    Path("s.json").write_text(json.dumps(system | {"A": XI.tolist()}))
    refused(capsys, BAD_FILE, "holds Xi twice, as 'Xi', 'A'", "solve", "s.json", "--times", "0")
    Path("s.json").write_text(json.dumps(system | {"b": "none"}))
    refused(capsys, BAD_FILE, "b holds no numbers", "solve", "s.json", "--times", "0")


def test_words_that_are_nearly_right_are_answered_with_the_right_one(capsys):
    Path("s.json").write_text(json.dumps({"Xi": XI.tolist(), "z0": Z0.tolist()}))
    refused(capsys, USAGE, "did you mean 'eig'?", "solve", "s.json", "--times", "0", "--method", "EIG")
    refused(capsys, USAGE, "did you mean 'propagator'?", "solve", "s.json", "--times", "0", "--method", "propagate")
    refused(capsys, USAGE, "No such command 'sovle'; the commands are ", "sovle", "s.json")
    refused(capsys, USAGE, "did you mean 'solve'?", "sovle", "s.json")
    refused(capsys, USAGE, "a file comes after the command: linode solve FILE", "s.json")
    refused(capsys, USAGE, "there is no file missing.json either", "missing.json")
    refused(capsys, USAGE, "and there is no such file", "solve", "nosuchfile", "--times", "0")


def test_compare_says_how_busy_the_machine_is(capsys):
    pytest.importorskip("torchdiffeq")
    Path("s.json").write_text(json.dumps({"Xi": XI.tolist(), "z0": Z0.tolist(), "t0": 5.0}))
    found = json.loads(run(capsys, "compare", "s.json", "--times", "5,6", "--budget", "1", "--json")[1])
    assert found["threads"] >= 1
    assert found["processors"] >= 1
    assert found["load"] is None or found["load"] >= 0.0
    assert found["rows"][0]["error"] < 1e-14
    out = run(capsys, "compare", "s.json", "--times", "5,6", "--budget", "1")[1]
    assert f"{found['threads']} thread" in out
    assert "processors" in out
