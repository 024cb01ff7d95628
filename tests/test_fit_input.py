"""What cannot be fitted is said by name; what the data do not determine is a status."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import linode

T = np.linspace(0.0, 5.0, 40)
Z = linode.LinearODE([[-0.1, 2.0], [-2.0, -0.1]], [1.0, 0.0])(T)
Z = Z + 0.01 * np.random.default_rng(0).standard_normal(Z.shape)
GAP = np.where(np.arange(40) == 5, np.nan, T)
HOLE = np.where(np.arange(80).reshape(40, 2) == 7, np.inf, Z)

WRONG = {
    "one sample": (lambda: linode.fit([0.0], [[1.0, 2.0]]), ValueError, "t holds 1 time; a fit needs at least 2"),
    "no sample": (lambda: linode.fit([], np.zeros((0, 2))), ValueError, "t holds 0 times"),
    "too few": (
        lambda: linode.fit(T[:2], Z[:2]),
        ValueError,
        "z holds 4 values, fewer than the 6 unknowns of 2 states",
    ),
    "too many states": (lambda: linode.fit(T, Z, rank=50), ValueError, "fewer than the 150 unknowns of 50 states"),
    "channel of NaN": (
        lambda: linode.fit(T, np.c_[Z[:, 0], np.nan * Z[:, 1]]),
        ValueError,
        "channel 1 of z holds nothing but NaN",
    ),
    "trajectory of NaN": (lambda: linode.fit([T, T], [Z, np.nan * Z]), ValueError, r"z\[1\] holds nothing but NaN"),
    "infinite": (lambda: linode.fit(T, HOLE), ValueError, r"z\[3, 1\] is infinite"),
    "NaN in t": (lambda: linode.fit(GAP, Z), ValueError, r"t\[5\] is nan"),
    "unsorted": (lambda: linode.fit(T[::-1], Z), ValueError, r"t must not decrease, but t\[1\]"),
    "equal times": (lambda: linode.fit(0 * T, Z), ValueError, "all 40 times of t are 0"),
    "complex": (lambda: linode.fit(T, Z + 1j, structure="skew"), ValueError, "structure 'skew' is for real data"),
    "complex times": (lambda: linode.fit(T + 1j, Z), TypeError, "t is complex"),
    "text": (lambda: linode.fit(["a", "b"], Z), TypeError, "t must hold real numbers"),
    "dates": (lambda: linode.fit(np.arange(40).astype("datetime64[D]"), Z), TypeError, "t holds dates"),
    "time last": (lambda: linode.fit(T, Z.T), ValueError, "time comes first"),
    "t in a matrix": (lambda: linode.fit(T[:, None], Z), ValueError, r"t has shape \(40, 1\)"),
    "lists of two sizes": (lambda: linode.fit([T, T], [Z]), ValueError, "t holds 2 trajectories, z holds 1"),
    "other channels": (lambda: linode.fit([T, T], [Z, Z[:, :1]]), ValueError, r"z\[1\] has 1 channels"),
    "rank of 0": (lambda: linode.fit(T, Z, rank=0), ValueError, "rank must be a positive integer, or 'auto', got 0"),
    "half a rank": (lambda: linode.fit(T, Z, rank=2.5), ValueError, "rank must be a positive integer"),
    "rank and C": (lambda: linode.fit(T, Z, rank=3, C=np.eye(2)), ValueError, "rank 3, C 2"),
    "C of other channels": (lambda: linode.fit(T, Z, C=np.ones((3, 2))), ValueError, r"C must be \(p, n\) with p = 2"),
    "a row of zeros": (lambda: linode.fit(T, Z, C=[[1.0, 0.0], [0.0, 0.0]]), ValueError, "no row of it may be zero"),
    "short input": (lambda: linode.fit(T, Z, np.ones((3, 1))), ValueError, r"u has shape \(3, 1\)"),
    "NaN in the input": (lambda: linode.fit(T, Z, np.full(40, np.nan)), ValueError, r"u\[0, 0\] is nan"),
    "a function": (lambda: linode.fit(T, Z, np.sin), TypeError, "linode.Smooth"),
    "stable by another word": (
        lambda: linode.fit(T, Z, stable="yes"),
        ValueError,
        "stable must be True, False or 'auto'",
    ),
    "structure by another word": (lambda: linode.fit(T, Z, structure="sqew"), ValueError, "'skew'"),
    "mask of another size": (
        lambda: linode.fit(T, Z, structure=np.ones((3, 3)), C=np.eye(2)),
        ValueError,
        "structure 3",
    ),
    "no matrix": (lambda: linode.fit(T, Z, structure=lambda theta: 3), ValueError, "structure cannot be called"),
    "failing structure": (
        lambda: linode.fit(T, Z, structure=(lambda theta: theta["k"], [1.0])),
        ValueError,
        "it raised",
    ),
    "two constraints": (lambda: linode.fit(T, Z, structure="skew", stable=True), ValueError, "exclude each other"),
    "empty bounds": (
        lambda: linode.fit(T, Z, structure=(lambda a: torch.diag(a), [1.0, 1.0], (1.0, 0.0))),
        ValueError,
        "bounds",
    ),
    "negative sigma": (lambda: linode.fit(T, Z, sigma=-1.0), ValueError, "sigma must be positive"),
    "sigma of other channels": (lambda: linode.fit(T, Z, sigma=[1.0, 2.0, 3.0]), ValueError, r"sigma has shape \(3,\)"),
    "z0 of other states": (lambda: linode.fit(T, Z, z0=[1.0, 0.0, 0.0]), ValueError, r"z0 must be \(2,\)"),
    "z0 in no basis": (lambda: linode.fit(T, np.c_[Z, Z], rank=2, z0=[1.0, 0.0]), ValueError, "give C"),
    "number for a structure": (lambda: linode.fit(T, Z, structure=3.5), ValueError, "structure must be a name"),
    "mask of nothing": (lambda: linode.fit(T, Z, structure=np.zeros((2, 2))), ValueError, "leaves no entry"),
    "mask of text": (lambda: linode.fit(T, Z, structure=[["a", "b"], ["c", "d"]]), ValueError, "booleans or numbers"),
    "theta0 of text": (lambda: linode.fit(T, Z, structure=(torch.diag, "abc")), ValueError, "theta0 of structure"),
    "theta0 of NaN": (
        lambda: linode.fit(T, Z, structure=(torch.diag, [np.nan] * 2)),
        ValueError,
        "theta0 of structure",
    ),
    "bounds one by one": (
        lambda: linode.fit(T, Z, structure=(torch.diag, [1.0, 1.0], [(0, 1), (0, 1), (0, 1)])),
        ValueError,
        "bounds of structure",
    ),
    "sparse": (lambda: linode.fit(T, torch.eye(40).to_sparse()), TypeError, "z must be a dense tensor"),
    "progress": (lambda: linode.fit(T, Z, progress=3), ValueError, "progress must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_fitted_is_said_by_name(name: str):
    call, kind, words = WRONG[name]
    with pytest.raises(linode.LinodeError, match=words) as caught:
        call()
    assert isinstance(caught.value, kind)


def finite(result: linode.FitResult) -> bool:
    values = (result.Xi, result.z0, result.stderr, result.covariance, result.eigenvalues, result.eigenvalue_stderr)
    return all(np.isfinite(x).all() for x in values) and np.isfinite(result.cost)


UNDETERMINED = {
    "constant": (lambda: linode.fit(T, np.ones((40, 2))), r"Xi\[0, 1\]"),
    "constant, biased": (lambda: linode.fit(T, np.ones((40, 2)), bias=True), r"b\[0\]"),
    "constants of many": (lambda: linode.fit([T, T], [np.ones((40, 2))] * 2), r"Xi\[0, 1\]"),
    "nothing": (lambda: linode.fit(T, np.zeros((40, 2))), r"Xi\[0, 0\]"),
    "nothing of many": (lambda: linode.fit([T, T], [np.zeros((40, 2))] * 2), r"Xi\[0, 0\]"),
    "one channel twice": (lambda: linode.fit(T, np.c_[Z, Z[:, 0]]), r"Xi\[2, 2\]"),
    "no input": (lambda: linode.fit(T, Z, np.zeros((40, 1))), r"B\[0, 0\], B\[1, 0\]"),
    "input and bias": (lambda: linode.fit(T, Z, np.ones((40, 1)), bias=True), r"B\[0, 0\]"),
}


@pytest.mark.parametrize("name", UNDETERMINED)
def test_what_data_do_not_determine_is_a_status_that_names_it(name: str):
    call, words = UNDETERMINED[name]
    result = call()
    assert not result
    assert result.status is linode.FitStatus.NOT_IDENTIFIABLE
    message = result.message.split("not identifiable from these data: ")[1]
    assert re.search(words, message), message
    assert finite(result)


def test_two_values_determine_one_rate():
    result = linode.fit([0.0, 1.0], [1.0, 0.5])
    assert result.status is linode.FitStatus.NO_FREEDOM
    assert np.allclose(result.Xi, -np.log(2.0))


def test_a_fit_without_freedom_has_no_errors_and_says_so():
    result = linode.fit(T[:3], Z[:3])
    assert result.status is linode.FitStatus.NO_FREEDOM
    assert np.isinf(result.stderr).all()
    assert np.isinf(np.abs(result.eigenvalue_stderr)).all()
    assert np.allclose(result.predict(T[:3]), Z[:3])


def test_noise_alone_is_fitted_without_complaint_of_numpy():
    rng = np.random.default_rng(0)
    for options in ({}, {"bias": True}, {"stable": True}, {"rank": 1}, {"rank": 4}):
        assert finite(linode.fit(T, rng.standard_normal((40, 2)), **options))
    assert finite(linode.fit(T, rng.standard_normal(40), rank=6))
    assert finite(linode.fit([T, T], list(rng.standard_normal((2, 40, 2)))))


def test_data_that_grow_by_a_hundred_orders_are_fitted():
    t = np.linspace(0.0, 100.0, 60)
    z = np.exp(2.5 * t)
    result = linode.fit(t, z * (1 + 0.01 * np.random.default_rng(0).standard_normal(60)), sigma=0.01 * z)
    assert abs(result.Xi[0, 0] - 2.5) < 4 * result.stderr[0, 0]


def test_what_to_predict_is_checked():
    one, many = linode.fit(T, Z, np.sin(T)), linode.fit([T, T], [Z, Z])
    with pytest.raises(linode.ShapeError, match="t holds 3 arrays; it must be"):
        many.predict([T, T, T])
    with pytest.raises(linode.ShapeError, match=r"u has shape \(3, 1\); u must be \(T, m\) = \(40, 1\)"):
        one.predict(T, u=np.ones(3))
    with pytest.raises(linode.ShapeError, match=r"t has shape \(1, 40\)"):
        one.predict(T[None])
    with pytest.raises(linode.ShapeError, match="u has 2 channels, but the fit had 0"):
        many.predict(T, u=linode.ZeroOrderHold([0.0], [[1.0, 1.0]]))
    with pytest.raises(linode.ShapeError, match="u holds 1 inputs"):
        linode.fit([T, T], [Z, Z], [np.sin(T)] * 2).predict(T, u=[np.sin(T)])
    for call in (lambda: many.ode(k=3), lambda: many.predict_stderr(T, k=3)):
        with pytest.raises(linode.OptionError, match="k must be of 0 to 1"):
            call()
    with pytest.raises(linode.ShapeError, match="z0 has last size 3"):
        one.predict(T, z0=[1.0, 2.0, 3.0])
