"""What notebooks show of results, and results as tables of pandas."""

from __future__ import annotations

import pickle
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import linode

XI = np.array([[-0.2, 2.0], [-2.0, -0.3]])
T = np.linspace(0.0, 6.0, 30)


class Cells(HTMLParser):
    """The text of each cell; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag in ("td", "th", "caption"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


def rows(shown: object) -> dict[str, str]:
    title, *cells = Cells(shown._repr_html_()).cells
    assert title
    return dict(zip(cells[::2], cells[1::2], strict=True))


def test_a_solution_shows_its_status_and_its_error():
    solution = linode.LinearODE(XI, [1.0, 0.0]).solve(T)
    found = rows(solution)
    assert found["status"] == str(solution.status)
    assert found["method"] == solution.method
    assert found["z"] == "(30, 2), float64"
    assert found["times"] == "0 to 6"
    assert float(found["relative error"].removeprefix("about ")) < 1e-13
    assert rows(linode.LinearODE(XI, [1.0, 0.0]).solve([]))["times"] == "none"
    assert rows(linode.LinearODE(torch.eye(2, requires_grad=True), torch.ones(2)).solve(1.0))["z"] == "(2,), float32"


def test_an_explanation_is_text_that_a_notebook_shows_as_a_table():
    text = linode.LinearODE(XI, [1.0, 0.0]).explain(T)
    assert isinstance(text, str)
    found = rows(text)
    assert [f"{name}: {value}" for name, value in found.items()] == text.splitlines()
    assert "&lt;=" in linode.LinearODE(XI, [1.0, 0.0], method="eig").explain()._repr_html_()  # <= is escaped


def test_figures_of_an_explanation_have_units():
    assert "eigenvalues (1/time): " in linode.LinearODE(XI, [1.0, 0.0], method="eig").explain()
    assert "step (time): " in linode.LinearODE(XI, [1.0, 0.0], method="propagator").explain(T)


def test_a_fit_shows_its_eigenvalues():
    z = linode.LinearODE(XI, [1.0, 0.0])(T) + 1e-3 * np.random.default_rng(0).standard_normal((30, 2))
    result = linode.fit(T, z)
    found = rows(result)
    assert found["status"] == str(result.status)
    assert re.fullmatch(r"-0\.2\d+ ± [\d.]+ -1\.9\d+i ± [\d.]+", found["eigenvalue 0"])
    assert found["fitted"] == "2 states, 2 channels, 1 trajectories, 60 values"


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        linode.LinearODE(XI, [1.0, 0.0]).solve(T).to_dataframe()


def test_a_solution_becomes_a_table():
    pandas = pytest.importorskip("pandas")
    solution = linode.LinearODE(XI, [1.0, 0.0]).solve(T)
    frame = solution.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["z1", "z2"]
    assert frame.index.name == "t"
    assert np.array_equal(frame.index, T)
    assert np.array_equal(frame.to_numpy(), solution.z)
    assert list(solution.to_dataframe(["x", "v"]).columns) == ["x", "v"]
    with pytest.raises(linode.OptionError, match="names must be 2 different names"):
        solution.to_dataframe(["x", "x"])


def test_a_batch_has_a_level_for_each_dimension():
    pytest.importorskip("pandas")
    own = torch.rand(3, 4, requires_grad=True)
    solution = linode.LinearODE(torch.from_numpy(XI), torch.rand(3, 2, dtype=torch.float64)).solve(own)
    frame = solution.to_dataframe()
    assert frame.index.names == ["trajectory", "t"]
    for k in range(3):
        part = frame.loc[k]
        assert np.allclose(part.index, own[k].detach())
        assert np.array_equal(part.to_numpy(), solution.z[k].detach())
    frame = linode.LinearODE(np.ones((5, 1, 1, 1)), np.ones((3, 1))).solve(T[:2]).to_dataframe()
    assert frame.index.names == ["batch 0", "batch 1", "t"]
    assert len(frame) == 30
    assert frame.loc[(4, 2)]["z1"].tolist() == pytest.approx(np.exp(T[:2]))
    assert linode.LinearODE(XI, [1.0, 0.0]).solve(0.0).to_dataframe().to_numpy().tolist() == [[1.0, 0.0]]
    assert len(linode.LinearODE(XI, [1.0, 0.0]).solve([]).to_dataframe()) == 0


def test_a_fit_becomes_a_table_with_the_names_of_its_data():
    pandas = pytest.importorskip("pandas")
    z = linode.LinearODE(XI, [1.0, 0.0])(T) + 1e-3 * np.random.default_rng(0).standard_normal((30, 2))
    z[3, 1] = np.nan
    result = linode.fit(T, pandas.DataFrame(z, columns=["level (m)", "flow"]))
    frame = result.to_dataframe()
    assert list(frame.columns) == ["level (m)", "level (m) fit", "flow", "flow fit"]
    assert np.array_equal(frame[["level (m)", "flow"]].to_numpy(), z, equal_nan=True)
    assert np.allclose(frame[["level (m) fit", "flow fit"]].to_numpy(), result.predict(T))
    several = linode.fit([T, T[:20]], [z, z[:20]])
    frame = several.to_dataframe(["a", "b"])
    assert frame.index.names == ["trajectory", "t"]
    assert np.array_equal(frame.loc[1]["a"].to_numpy(), z[:20, 0])
    assert list(linode.fit(T, z[:, 0], rank=2).to_dataframe().columns) == ["y1", "y1 fit"]
    pytest.importorskip("matplotlib")
    assert [x.get_text() for x in result.plot().get_legend().get_texts()][:2] == ["level (m)", "flow"]


def texts(ax) -> list[str]:
    return [x.get_text() for x in ax.get_legend().get_texts()]


def test_names_go_with_a_system_to_pictures_and_tables():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    names = ["position (m)", "velocity"]
    start = pandas.Series([1.0, 0.0], index=names)
    named = [
        linode.LinearODE(XI, start),
        linode.LinearODE(pandas.DataFrame(XI, columns=names, index=names), [1.0, 0.0]),
        linode.PiecewiseLinearODE([(0.0, XI), (1.0, -XI)], start),
    ]
    batch = linode.LinearODE(XI, pandas.DataFrame([[1.0, 0.0], [0.0, 1.0]], columns=names)).solve(T)
    assert list(batch.to_dataframe().columns) == names
    for ode in named:
        solution = ode.solve(T)
        assert list(solution.names) == names
        assert list(solution.to_dataframe().columns) == texts(solution.plot()) == texts(ode.plot(T)) == names
        assert texts(solution.plot(labels=["a", "b"])) == list(solution.to_dataframe(["a", "b"]).columns) == ["a", "b"]
        assert rows(solution)["states"] == "position (m), velocity"
        assert pickle.loads(pickle.dumps(solution)).names == solution.names
        assert solution.plot(states=["velocity"]).get_ylabel() == "velocity"
    assert named[0].plot_phase().get_xlabel() == "position (m)"
    plain = linode.LinearODE(XI, pandas.Series([1.0, 0.0])).solve(T)
    assert (plain.names, list(plain.to_dataframe().columns), texts(plain.plot())) == ((), ["z1", "z2"], ["z1", "z2"])


def test_names_go_with_data_to_messages_pictures_and_tables():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    z = linode.LinearODE(XI, [1.0, 0.0])(T) + 1e-3 * np.random.default_rng(0).standard_normal((30, 2))
    frame = pandas.DataFrame(z, columns=["level (m)", "flow"])
    for result in (
        linode.fit(T, frame),
        linode.fit([T, T], [frame, -frame]),
        linode.fit(T, z, names=list(frame.columns)),
    ):
        assert result.names == ["level (m)", "flow"]
        assert texts(result.plot())[:2] == result.names
        assert "channels level (m), flow" in result.summary()
        assert rows(result)["channels"] == "level (m), flow"
        assert result.ode().state_names == ("level (m)", "flow")
        assert result.plot(channels=["flow"]).get_ylabel() == "flow"
    plain = linode.fit(T, z)
    assert plain.names == ["y1", "y2"] == texts(plain.plot())[:2]
    assert linode.fit(T, frame["flow"], rank=2).names == ["flow"]
    assert linode.fit(T, frame["flow"], rank=2).ode().state_names == ()  # two states of one channel
    assert linode.fit(T, pandas.DataFrame(z)).names == ["y1", "y2"]
    assert linode.fit(T, pandas.DataFrame(z, columns=[2020, 2021])).names == ["2020", "2021"]
    with pytest.raises(linode.OptionError, match="names must be 2 different names"):
        linode.fit(T, z, names=["a"])
    with pytest.raises(linode.OptionError, match="channels must be of 0 to 1, got 'x'; names are level"):
        result.plot(channels=["x"])
    with pytest.raises(linode.NonFiniteError, match=r"channel 1 \(flow\) of z holds nothing but NaN"):
        linode.fit(T, frame.assign(flow=np.nan))


def test_all_that_was_fitted_becomes_a_table():
    pytest.importorskip("pandas")
    z = linode.LinearODE(XI, [1.0, 0.0])(T) + 1e-3 * np.random.default_rng(0).standard_normal((30, 2))
    result = linode.fit(T, z + 1.0, bias=True)
    table = result.parameters()
    assert list(table.columns) == ["value", "stderr"]
    for name, value, error in (
        ("Xi[0, 1]", result.Xi[0, 1], result.stderr[0, 1]),
        ("b[1]", result.b[1], result.b_stderr[1]),
        ("z0[0]", result.z0[0], result.z0_stderr[0]),
    ):
        assert table.loc[name].tolist() == [value, error]
    assert np.isnan(table.loc["C[0, 0]", "stderr"])
    several = linode.fit([T, T], [z, -z], standard_errors=False).parameters()
    assert several.loc["z0[1, 0]", "value"] == pytest.approx(-1.0, abs=0.01)
    assert several["stderr"].isna().all()
    u = np.repeat(np.random.default_rng(1).standard_normal(10), 3)
    driven = linode.fit(torch.from_numpy(T), torch.from_numpy(z), u, delay=0.1).parameters()
    assert driven.loc["delay", "value"] == 0.1


def test_dates_are_no_observations():
    pandas = pytest.importorskip("pandas")
    z = linode.LinearODE(XI, [1.0, 0.0])(T)
    days = pandas.date_range("2024-02-28", periods=30)
    frame = pandas.DataFrame(z, columns=["a", "b"], index=days)
    for table, column in ((frame.reset_index(), "index"), (frame.tz_localize("UTC").reset_index(), "index")):
        with pytest.raises(linode.DtypeError, match=f"column '{column}' of z holds dates"):
            linode.fit(T, table)
        with pytest.raises(linode.DtypeError, match=f"column '{column}' of u holds dates"):
            linode.fit(T, frame, table)
    for times in (frame.index, days.tz_localize("UTC"), pandas.period_range("2024-02", periods=30), days - days[0]):
        with pytest.raises(linode.DtypeError, match="t holds dates; make them numbers"):
            linode.fit(times, frame)
    assert np.allclose(linode.fit((frame.index - frame.index[0]) / pandas.Timedelta("1D") * T[1], frame).Xi, XI)
