"""All derivatives of a trajectory at once, as least squares need them, against ball arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import linode
from linode.fitting.channels import make_channels
from linode.fitting.data import make_data
from linode.fitting.projection import RatesModel
from linode.fitting.rates import Factors, StableFactors
from linode.fitting.sensitivity import make_basis, respond
from linode.fitting.states import StatesModel, exact_response
from linode.fitting.structures import Function, Linear, make_structure
from linode.fitting.unknowns import System, make_unknowns
from tests import forced_oracles, oracles

T, N, M = 6, 3, 2
SYSTEMS = {
    "oscillating": np.array([[-0.3, 2.0, 0.0], [-2.0, -0.3, 0.5], [0.1, 0.0, -1.0]]),
    "stiff": np.array([[-200.0, 3.0, 0.0], [1.0, -5.0, 1.0], [0.0, 0.2, -0.01]]),
    "growing": np.array([[0.8, 1.0, 0.0], [0.0, 0.3, 1.0], [0.2, 0.0, 0.1]]),
    "slow": 1e-3 * np.array([[-0.3, 2.0, 0.0], [-2.0, -0.3, 0.5], [0.1, 0.0, -1.0]]),
    "singular": np.array([[0.0, 1.0, 0.0], [-1.0, -0.1, 0.0], [1.0, 0.0, 0.0]]),
}
DEFECTIVE = {"zero": np.zeros((N, N)), "chain": -np.eye(N) + np.diag(np.ones(N - 1), 1)}
every_system = pytest.mark.parametrize("name", SYSTEMS)


def problem(seed: int = 0) -> tuple[np.ndarray, ...]:
    """t, z0, B, b, u, g."""
    rng = np.random.default_rng(seed)
    t = np.append(0.0, np.sort(rng.uniform(0.0, 2.0, T - 1)))
    return t, *(rng.standard_normal(shape) for shape in (N, (N, M), N, (T, M), (T, N)))


def close(found: np.ndarray, true: np.ndarray, tol: float = 1e-8) -> bool:
    """For least squares derivatives are good to half of their digits."""
    return bool(np.abs(found - true).max() <= tol * np.abs(true).max())


@every_system
def test_states_and_derivatives_without_input_are_those_of_ball_arithmetic(name: str):
    Xi, (t, z0, _, _, _, g) = SYSTEMS[name], problem()
    found = respond(make_basis(Xi), np.zeros((N, 0)), z0[None], t[None], None, True)
    true = oracles.gradients(Xi, z0, t, g)
    assert close(found.z[0], oracles.trajectory(Xi, z0, t), 1e-11)
    assert close(np.einsum("ti,tij->j", g, found.by_z0[0]), true.a, 1e-10)
    assert close(np.einsum("ti,tij->j", g, found.by_Xi[0]).reshape(N, N), true.S)


@every_system
def test_states_and_derivatives_of_held_samples_are_those_of_ball_arithmetic(name: str):
    Xi, (t, z0, B, b, u, g) = SYSTEMS[name], problem()
    gains, values = np.c_[B, b], np.c_[u, np.ones(T)]
    found = respond(make_basis(Xi), gains, z0[None], t[None], values[None], True)
    arguments = (Xi, z0, t, b, B, t, u)
    dXi, dz0, _, db, dB, *_ = forced_oracles.gradients(forced_oracles.zero_order, g, *arguments)
    assert close(found.z[0], forced_oracles.solution(forced_oracles.zero_order, *arguments), 1e-10)
    assert close(np.einsum("ti,tij->j", g, found.by_z0[0]), dz0, 1e-10)
    assert close(np.einsum("ti,tij->j", g, found.by_Xi[0]).reshape(N, N), dXi)
    by_gains = np.einsum("ti,tij->j", g, found.by_B[0]).reshape(N, M + 1)
    assert close(by_gains, np.c_[dB, db])


@every_system
def test_a_constant_forcing_in_closed_form_is_the_recurrence_over_samples(name: str):
    Xi, (t, z0, _, b, _, _) = SYSTEMS[name], problem()
    closed = respond(make_basis(Xi), b[:, None], z0[None], t[None], np.ones(1), True)
    stepped = respond(make_basis(Xi), b[:, None], z0[None], t[None], np.ones((1, T, 1)), True)
    for x, y in zip((closed.z, closed.by_Xi, closed.by_B), (stepped.z, stepped.by_Xi, stepped.by_B)):
        assert close(x, y)


def test_trajectories_are_solved_together_as_they_are_one_by_one():
    Xi = SYSTEMS["oscillating"]
    system = [problem(seed) for seed in range(3)]
    B = system[0][2]
    t, z0, u = (np.stack([part[i] for part in system]) for i in (0, 1, 4))
    together = respond(make_basis(Xi), B, z0, t, u, True)
    for k in range(3):
        one = respond(make_basis(Xi), B, z0[k : k + 1], t[k : k + 1], u[k : k + 1], True)
        for x, y in zip((together.z, together.by_Xi, together.by_B), (one.z, one.by_Xi, one.by_B)):
            assert close(x[k], y[0], 1e-13)


@pytest.mark.parametrize("name", DEFECTIVE)
def test_a_defective_matrix_has_no_basis_and_exact_derivatives_by_the_solver(name: str):
    Xi, (t, z0, B, b, u, g) = DEFECTIVE[name], problem()
    if name == "chain":  # the zero matrix has one, though all its eigenvalues coincide
        assert make_basis(Xi) is None
    data, _ = make_data(t, np.zeros((T, N)), u, None)
    system = System(Xi, B, b, np.eye(N), np.zeros((N, M)), z0[None], 0.0)
    found = exact_response(data, system, True, z0[None], True)
    arguments = (Xi, z0, t, b, B, t, u)
    dXi, _, _, db, dB, *_ = forced_oracles.gradients(forced_oracles.zero_order, g, *arguments)
    assert close(found.z[0], forced_oracles.solution(forced_oracles.zero_order, *arguments), 1e-13)
    assert close(np.einsum("ti,tij->j", g, found.by_Xi[0]).reshape(N, N), dXi, 1e-12)
    assert close(np.einsum("ti,tij->j", g, found.by_B[0]).reshape(N, M + 1), np.c_[dB, db], 1e-12)


# ---- models ----------------------------------------------------------------------------------------------------------


def differences(function, theta: np.ndarray) -> np.ndarray:
    """By central differences of fourth order."""
    columns, step = [], 5e-4
    for j in range(len(theta)):
        h = step * (np.arange(len(theta)) == j)
        near, far = (function(theta + k * h) - function(theta - k * h) for k in (1, 2))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, -1)


def check_gradient(model, theta: np.ndarray) -> None:
    _, gram, gradient = model.linearise(theta)
    true = differences(model.cost, theta) / 2
    assert close(gradient, true, 1e-6)
    assert (np.linalg.eigvalsh(gram) >= -1e-10 * np.trace(gram)).all()


@pytest.mark.parametrize("factors", [Factors, StableFactors])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_of_variable_projection_is_that_of_differences(factors, n: int, bias: bool):
    rng = np.random.default_rng(n)
    t = np.sort(rng.uniform(0.0, 3.0, 25))
    y = rng.standard_normal((25, 3))
    y[rng.uniform(size=y.shape) < 0.2] = np.nan  # channels see other times
    channels = make_channels(make_data(t, y, None, [0.5, 1.0, 2.0])[0])
    model = RatesModel(factors(n, 3.0), channels.t, channels.y, channels.w, bias)
    check_gradient(model, rng.standard_normal(n))


@pytest.mark.parametrize("d", [-4.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 4.0])
def test_functions_of_a_pair_of_eigenvalues_are_smooth_through_their_collision(d: float):
    """c and S with their slopes, against the exponential of their generator in ball arithmetic."""
    factors, t = Factors(2, 3.0), np.array([0.0, 0.1, 1.0, 3.0])
    theta = np.array([-0.5, d])
    phi, slopes = factors.basis_and_slopes(theta, t)
    M = factors.generator(theta)
    assert close(phi, oracles.trajectory(M, factors.start(), t), 1e-13)
    for k, dM in enumerate(factors.generator_slopes(theta)):
        beside = np.block([[M, dM], [np.zeros((2, 2)), M]])
        true = oracles.trajectory(beside, np.r_[0.0, 0.0, factors.start()], t)[:, :2]
        assert close(slopes[:, k], true, 1e-12)


@pytest.mark.parametrize("factors", [Factors, StableFactors])
def test_eigenvalues_go_into_factors_and_come_back(factors):
    for lam in ([-1.0 + 2j, -1.0 - 2j, -3.0], [-1.0, -2.0, -3.0, -4.0], [-1.0, -1.0]):
        made = factors(len(lam), 1.0)
        theta = made.from_eigenvalues(np.array(lam))
        for found in (made.eigenvalues(theta), np.linalg.eigvals(made.generator(theta))):  # a double one to its root
            assert np.allclose(np.sort_complex(found), np.sort_complex(lam), rtol=0, atol=1e-4)


def test_stable_factors_decay_whatever_theta_is():
    rng = np.random.default_rng(0)
    for _ in range(200):
        theta = 4 * rng.standard_normal(5)
        assert (StableFactors(5, 1.0).eigenvalues(theta).real < 0).all()


STRUCTURES = {
    "free": lambda: make_structure(None, N, False, 1.0),
    "stable": lambda: make_structure(None, N, True, 2.0),
    "symmetric": lambda: make_structure("symmetric", N, False, 1.0),
    "skew": lambda: make_structure("skew", N, False, 1.0),
    "diagonal": lambda: make_structure("diagonal", N, False, 1.0),
    "metzler": lambda: make_structure("metzler", N, False, 1.0),
    "compartmental": lambda: make_structure("compartmental", N, False, 1.0),
    "mask": lambda: make_structure(np.triu(np.ones((N, N))), N, False, 1.0),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("drive", ["none", "bias", "held", "held and bias"])
@pytest.mark.parametrize("is_seen", [True, False])
def test_the_gradient_with_initial_states_eliminated_is_that_of_differences(name: str, drive: str, is_seen: bool):
    rng, structure = np.random.default_rng(1), STRUCTURES[name]()
    data, p = two_trajectories(rng, N if is_seen else 2, "held" in drive)
    known = {"b": np.full(N, np.nan)} if "bias" in drive else {}
    known |= {"C": np.eye(N)} if is_seen else {}
    model = StatesModel(data, make_unknowns(structure, 2, p, data.m, **known))
    check_gradient(model, 0.7 * rng.standard_normal(model.unknowns.size))


def two_trajectories(rng: np.random.Generator, p: int, is_driven: bool, t0: float | None = None):
    times = [np.sort(rng.uniform(0.0, 2.0, count)) for count in (9, 7)]
    z = [rng.standard_normal((len(t), p)) for t in times]
    z[0][3, 1] = np.nan
    u = [rng.standard_normal((len(t), M)) for t in times] if is_driven else None
    return make_data(times, z, u, None, t0)[0], p


def shared(q: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every part from the same four parameters."""
    a, b, c, d = q
    zero = 0 * a
    return {
        "Xi": torch.stack([-a, b, zero, c, -b, d, zero, a, -d - 1]).reshape(3, 3),
        "B": torch.stack([a, zero, b * c, zero, d, a]).reshape(3, 2),
        "C": torch.stack([a, zero + 1, zero, b, c, zero]).reshape(2, 3),
        "D": torch.stack([a * b, zero, zero, d]).reshape(2, 2),
        "b": torch.stack([zero, a, c]),
        "z0": torch.stack([a, b * d, zero]),
    }


@pytest.mark.parametrize("names", [("B",), ("C", "D"), ("b", "z0"), ("B", "C", "D", "b", "z0")])
def test_the_gradient_by_parameters_that_parts_share_is_that_of_differences(names: tuple[str, ...]):
    rng = np.random.default_rng(5)
    data, p = two_trajectories(rng, 2, True, t0=-0.3)
    kept = Function(lambda q: {name: shared(q)[name] for name in ("Xi", *names)}, [0.5, 0.4, 0.3, 0.2])
    model = StatesModel(data, make_unknowns(kept, 2, p, M))
    check_gradient(model, 0.5 * rng.standard_normal(model.unknowns.size))


@pytest.mark.parametrize("is_input", [False, True])
def test_the_gradient_by_direct_feedthrough_and_by_a_delay_is_that_of_differences(is_input: bool):
    rng = np.random.default_rng(6)
    data, p = two_trajectories(rng, 2, True)
    if is_input:
        hold = linode.FirstOrderHold(np.linspace(-1.0, 3.0, 8), rng.standard_normal((8, M)))
        data = replace(data, u=None, inputs=(hold, hold))
    known = {"D": np.full((p, M), np.nan), "delay": np.nan} if is_input else {"D": [[0.3, np.nan], [np.nan, 0.0]]}
    known |= {"delay": 0.37} if not is_input else {}
    model = StatesModel(data, make_unknowns(make_structure(None, N, False, 1.0), 2, p, M, **known))
    theta = 0.5 * rng.standard_normal(model.unknowns.size)
    if is_input:
        theta[-1] = 0.41
    check_gradient(model, theta)


def test_entries_that_are_known_stay_and_others_are_free():
    nan = np.nan
    known = {"B": [[nan, 1.0], [0.0, nan], [2.0, 2.0]], "z0": [[nan, 0.5, nan]], "C": [[1.0, nan, 0.0]]}
    unknowns = make_unknowns(make_structure(None, N, False, 1.0), 1, 1, M, **known)
    theta = np.arange(1.0, 1.0 + unknowns.size)
    system = unknowns.system(theta)
    assert system.B.tolist() == [[10.0, 1.0], [0.0, 11.0], [2.0, 2.0]]
    assert system.C.tolist() == [[1.0, 12.0, 0.0]]
    assert system.z0.tolist() == [[0.0, 0.5, 0.0]]
    assert unknowns.free_z0.tolist() == [[True, False, True]]
    assert unknowns.names()[9:] == ("B[0, 0]", "B[1, 1]", "C[0, 1]")
    assert np.array_equal(unknowns.pack(theta[:9], B=system.B, C=system.C), theta)


def test_changes_of_basis_are_those_that_keep_what_is_known():
    """Diagonal Xi and unknown C: the scales of the states; nothing known: every matrix; C of all states: none.

    Skew Xi: rotations, and what commutes with Xi, of which Xi itself is a rotation too.
    """
    rng = np.random.default_rng(7)
    z0 = rng.standard_normal((1, N))
    cases = (("diagonal", None, N), ("free", None, N * N), ("free", np.eye(N), 0), ("skew", None, 3 + 3 - 1))
    for name, C, count in cases:
        structure = STRUCTURES[name]()
        unknowns = make_unknowns(structure, 1, 1 if C is None else N, 0, **({} if C is None else {"C": C}))
        theta = rng.standard_normal(unknowns.size)
        found = unknowns.changes_of_basis(theta, z0)
        assert np.linalg.matrix_rank(found) == count, name
        y = observations(unknowns, theta, z0)
        for direction in found:  # z0 moves along, which elimination does
            moved = observations(unknowns, theta + 1e-6 * direction, None, y)
            assert np.abs(moved - y).max() < 1e-9, name


def observations(unknowns, theta: np.ndarray, z0: np.ndarray | None, y: np.ndarray | None = None) -> np.ndarray:
    """Observations from z0, or those nearest to y from the best initial states."""
    t = np.linspace(0.0, 1.0, 12)
    p = unknowns.C.shape[0]
    data, _ = make_data(t, np.zeros((12, p)) if y is None else y[0], None, None)
    model = StatesModel(data, unknowns if z0 is None else replace(unknowns, z0=z0))
    found = model.eliminated(theta)
    return data.y - found.r.reshape(data.y.shape)


@pytest.mark.parametrize("name", STRUCTURES)
def test_slopes_of_structures_are_differences_and_the_nearest_theta_gives_back_its_matrix(name: str):
    structure = STRUCTURES[name]()
    theta = np.random.default_rng(2).standard_normal(structure.size)
    assert close(structure.slopes(theta), differences(lambda x: structure.matrix(x).ravel(), theta), 1e-7)
    Xi = structure.matrix(theta)
    again = structure.matrix(structure.nearest(Xi))
    assert np.allclose(again, Xi, rtol=1e-8, atol=2e-3 if name in ("metzler", "compartmental") else 1e-8)


def test_structures_are_what_they_are_called():
    rng = np.random.default_rng(3)
    for name, make in STRUCTURES.items():
        structure = make()
        Xi = structure.matrix(rng.standard_normal(structure.size))
        off = Xi[~np.eye(N, dtype=bool)]
        holds = {
            "free": isinstance(structure, Linear),
            "stable": (np.linalg.eigvals(Xi).real < 0).all(),
            "symmetric": np.array_equal(Xi, Xi.T),
            "skew": np.array_equal(Xi, -Xi.T),
            "diagonal": not off.any(),
            "metzler": (off > 0).all(),
            "compartmental": (off > 0).all() and (Xi.sum(0) < 0).all(),
            "mask": not np.tril(Xi, -1).any(),
        }
        assert holds[name], name


@pytest.mark.parametrize("rate", [0.1, 30.0])
def test_every_stable_matrix_is_in_the_stable_set(rate: float):
    rng = np.random.default_rng(4)
    for _ in range(20):
        Xi = rng.standard_normal((4, 4))
        Xi = rate * (Xi - (np.linalg.eigvals(Xi).real.max() + 0.1) * np.eye(4))
        structure = make_structure(None, 4, True, rate)
        assert close(structure.matrix(structure.nearest(Xi)), Xi, 1e-10)
    unstable = rate * np.diag([0.5, -1.0, -2.0, -3.0])
    assert (np.linalg.eigvals(structure.matrix(structure.nearest(unstable))).real < 0).all()
