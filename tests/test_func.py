"""torch.func: vmap over any argument, the Jacobians and Hessians, and their compositions; torch.autograd.functional
and torch.utils.checkpoint beside them. Truth is the loop over elements, or plain autograd.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import linode
from tests.accuracy import GENERAL

# torch's own, raised once per process by the first forward-mode call
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

METHODS = GENERAL
every_method = pytest.mark.parametrize("method", METHODS)
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}  # well-conditioned problems of norm about one


def draw(*shape: int, seed: int = 0, is_complex: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if is_complex else torch.float64
    return torch.randn(*shape, generator=generator, dtype=dtype)


def systems(*batch: int, is_complex: bool = False) -> Tensor:
    """Near a matrix with eigenvalues -1, 0.2 +- 1.5i, so that every method accepts them."""
    centre = torch.tensor([[-1.0, 0.2, 0.0], [0.0, 0.2, 1.5], [0.1, -1.5, 0.2]], dtype=torch.float64)
    return centre + 0.05 * draw(*batch, 3, 3, seed=1, is_complex=is_complex)


def solve(Xi: Tensor, z0: Tensor, t: Tensor, method: str = "auto") -> Tensor:
    return linode.LinearODE(Xi, z0, method=method)(t)


def loss(Xi: Tensor, z0: Tensor, t: Tensor, method: str = "auto") -> Tensor:
    return solve(Xi, z0, t, method).abs().square().sum()


TIMES = torch.tensor([0.5, -0.25, 0.0, 1.0], dtype=torch.float64)
XI, Z0 = systems(), draw(3)


def equal(got: Tensor, true: Tensor) -> bool:
    return got.shape == true.shape and torch.allclose(got, true, **ROUNDING)


def looped(function, in_dims: tuple[int | None, ...], *args: Tensor) -> Tensor:
    """What vmap must give, by a Python loop."""
    size = next(x.shape[dim] for x, dim in zip(args, in_dims) if dim is not None)
    return torch.stack(
        [function(*(x if dim is None else x.select(dim, i) for x, dim in zip(args, in_dims))) for i in range(size)]
    )


# ---- vmap --------------------------------------------------------------------------------------------------------

MIXES = [dims for dims in product((0, None), repeat=3) if any(dim == 0 for dim in dims)]


@every_method
@pytest.mark.parametrize("in_dims", MIXES)
def test_vmap_over_any_mix_of_arguments_equals_the_loop(method: str, in_dims: tuple[int | None, ...]):
    args = [x if dim == 0 else x[0] for x, dim in zip((systems(2), draw(2, 3), TIMES * draw(2, 1).abs()), in_dims)]
    got = vmap(lambda *x: solve(*x, method), in_dims)(*args)
    assert equal(got, looped(solve, in_dims, *args))


@pytest.mark.parametrize("in_dims", [(2, 1, 1), (1, None, 0), (-1, -1, None), (None, -1, 1)])
def test_mapped_dimensions_may_be_anywhere(in_dims: tuple[int | None, ...]):
    args = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip((systems(2), draw(2, 3), draw(2, 4)), in_dims)]
    assert equal(vmap(solve, in_dims)(*args), looped(solve, in_dims, *args))


@pytest.mark.parametrize("out_dim", [0, 1, 2, -1])
def test_out_dims_place_the_mapped_dimension(out_dim: int):
    args = (systems(2), draw(2, 3), draw(2, 4))
    assert equal(vmap(solve, out_dims=out_dim)(*args).movedim(out_dim, 0), looped(solve, (0, 0, 0), *args))


def test_nested_vmap_equals_two_loops():
    args = (systems(2), draw(5, 3), TIMES)
    got = vmap(vmap(solve, (None, 0, None)), (0, None, None))(*args)
    assert equal(got, torch.stack([looped(solve, (None, 0, None), Xi, *args[1:]) for Xi in args[0]]))


def test_vmap_adds_to_batch_dimensions_that_are_there_already():
    args = (systems(2, 3, 1), draw(2, 4, 3), TIMES)
    got = vmap(solve, (0, 0, None))(*args)
    assert got.shape == (2, 3, 4, 4, 3)
    assert equal(got, looped(solve, (0, 0, None), *args))


def test_vmap_over_times_alone_is_the_trajectory():
    assert equal(vmap(lambda s: solve(XI, Z0, s))(TIMES), solve(XI, Z0, TIMES))


def test_vmap_of_a_solver_made_outside_equals_the_loop():
    ode = linode.LinearODE(XI, Z0)
    times = draw(3, 4)
    assert equal(vmap(ode)(times), torch.stack([ode(t) for t in times]))


def test_vmap_of_a_complex_system_with_real_starts_equals_the_loop():
    args = (systems(2, is_complex=True), draw(2, 3), TIMES)
    assert equal(vmap(solve, (0, 0, None))(*args), looped(solve, (0, 0, None), *args))


def test_vmap_of_odeint_and_expm_equals_the_loop():
    Xi, z0 = systems(2), draw(2, 3)
    got = vmap(lambda A, v: linode.odeint(A, v, TIMES))(Xi, z0)
    assert equal(got, torch.stack([linode.odeint(A, v, TIMES) for A, v in zip(Xi, z0)]))
    assert equal(vmap(linode.expm)(Xi), torch.stack([linode.expm(A) for A in Xi]))


@pytest.mark.parametrize("bad", range(3))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_value_inside_vmap_raises_and_names_the_argument(bad: int, value: float):
    args = [systems(2), draw(2, 3), draw(2, 4)]
    args[bad] = args[bad].clone()
    args[bad].view(-1)[-1] = value
    with pytest.raises(linode.NonFiniteError, match=f"^{('Xi', 'z0', 't')[bad]} must be finite"):
        vmap(solve)(*args)


def test_a_wrong_shape_inside_vmap_raises():
    with pytest.raises(linode.ShapeError, match="z0 has last size 2"):
        vmap(solve, (0, 0, None))(systems(2), draw(2, 2), TIMES)


def test_a_method_that_cannot_be_accurate_raises_inside_vmap():
    Xi = torch.stack([XI, torch.eye(3, dtype=torch.float64).roll(1, 0).triu()])
    with pytest.raises(linode.MethodError, match="eig"):
        vmap(lambda A: solve(A, Z0, TIMES, "eig"))(Xi)


# ---- gradients ---------------------------------------------------------------------------------------------------


def autograd_gradients(*args: Tensor, method: str = "auto") -> tuple[Tensor, ...]:
    x = [arg.clone().requires_grad_() for arg in args]
    return torch.autograd.grad(loss(*x, method), x)


@every_method
@pytest.mark.parametrize("argnums", [0, 1, 2, (0, 2)])
def test_grad_equals_autograd(method: str, argnums: int | tuple[int, ...]):
    got = grad(loss, argnums)(XI, Z0, TIMES, method)
    true = autograd_gradients(XI, Z0, TIMES, method=method)
    pairs = zip(got, (true[i] for i in argnums)) if isinstance(argnums, tuple) else [(got, true[argnums])]
    assert all(equal(a, b) for a, b in pairs)


def test_vjp_equals_autograd():
    z, pull = vjp(solve, XI, Z0, TIMES)
    assert all(equal(a, b) for a, b in zip(pull(2 * z), autograd_gradients(XI, Z0, TIMES)))


@every_method
@pytest.mark.parametrize("in_dims", MIXES)
def test_per_sample_gradients_equal_those_of_each_sample(method: str, in_dims: tuple[int | None, ...]):
    args = [x if dim == 0 else x[0] for x, dim in zip((systems(2), draw(2, 3), draw(2, 2)), in_dims)]
    got = vmap(grad(lambda *x: loss(*x, method), (0, 1, 2)), in_dims)(*args)
    for i in range(2):
        true = autograd_gradients(*(x[i] if dim == 0 else x for x, dim in zip(args, in_dims)), method=method)
        assert all(equal(a[i], b) for a, b in zip(got, true))


def test_gradient_of_a_vmapped_loss_equals_that_of_the_sum():
    Xi, z0 = XI.clone().requires_grad_(), draw(4, 3).requires_grad_()
    total = vmap(lambda v: loss(Xi, v, TIMES))(z0).sum()
    got = torch.autograd.grad(total, (Xi, z0))
    assert all(equal(a, b) for a, b in zip(got, torch.autograd.grad(loss(Xi, z0, TIMES), (Xi, z0))))


def test_vmap_of_autograd_grad_gives_every_row_of_the_jacobian():
    Xi = XI.clone().requires_grad_()
    z = solve(Xi, Z0, TIMES)
    rows = torch.eye(z.numel(), dtype=z.dtype).reshape(-1, *z.shape)
    got = vmap(lambda g: torch.autograd.grad(z, Xi, g, retain_graph=True)[0])(rows)
    assert equal(got.reshape(*z.shape, 3, 3), jacrev(solve)(XI, Z0, TIMES))


# ---- Jacobians and Hessians --------------------------------------------------------------------------------------


@every_method
def test_jacobians_of_both_modes_equal_those_of_autograd(method: str):
    for argnum in range(3):
        args = [XI, Z0, TIMES[:2]]

        def one(x: Tensor, argnum: int = argnum, args: list[Tensor] = args) -> Tensor:
            return solve(*(x if i == argnum else arg for i, arg in enumerate(args)), method)

        true = torch.autograd.functional.jacobian(one, args[argnum])
        assert equal(jacrev(one)(args[argnum]), true)
        assert equal(jacfwd(one)(args[argnum]), true)


def test_jvp_is_the_jacobian_times_the_direction():
    direction = draw(3, 3, seed=5)
    _, got = jvp(lambda A: solve(A, Z0, TIMES), (XI,), (direction,))
    assert equal(got, torch.einsum("tkij,ij->tk", jacrev(solve)(XI, Z0, TIMES), direction))


HESSIANS = {
    "hessian": hessian,
    "forward_over_reverse": lambda f, n: jacfwd(jacrev(f, n), n),
    "reverse_over_reverse": lambda f, n: jacrev(jacrev(f, n), n),
    "reverse_over_forward": lambda f, n: jacrev(jacfwd(f, n), n),
}


@pytest.mark.parametrize("order", HESSIANS)
@pytest.mark.parametrize("argnum", range(3))
@pytest.mark.parametrize("is_defective", [False, True])
def test_hessians_in_every_order_equal_that_of_autograd(order: str, argnum: int, is_defective: bool):
    Xi = torch.tensor([[-0.5, 1.0], [0.0, -0.5]], dtype=torch.float64) if is_defective else XI[1:, 1:]
    args = (Xi, Z0[:2], TIMES[:2])
    true = torch.autograd.functional.hessian(loss, args)[argnum][argnum]
    assert equal(HESSIANS[order](loss, argnum)(*args), true)


def test_mixed_blocks_of_the_hessian_are_transposes_of_each_other():
    H = hessian(loss, (0, 1, 2))(XI[1:, 1:], Z0[:2], TIMES[:2])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        ij, ji = (H[a][b].flatten(end_dim=1 if a == 0 else 0) for a, b in ((i, j), (j, i)))
        assert equal(ij.reshape(ij.shape[0], -1), ji.reshape(ji.shape[0], -1).mT)


def test_hessian_vector_products_are_batched_by_vmap():
    directions = draw(3, 3, 3, seed=9)
    first = grad(loss)
    got = vmap(lambda d: jvp(lambda A: first(A, Z0, TIMES), (XI,), (d,))[1])(directions)
    true = hessian(loss)(XI, Z0, TIMES)
    assert equal(got, torch.einsum("ijkl,bkl->bij", true, directions))


def test_vectorized_jacobian_of_autograd_functional_is_right_or_raises():
    def of_Xi(A: Tensor) -> Tensor:
        return solve(A, Z0, TIMES)

    for strategy in ("reverse-mode", "forward-mode"):
        try:
            got = torch.autograd.functional.jacobian(of_Xi, XI, vectorize=True, strategy=strategy)
        except RuntimeError:
            continue  # the legacy vmap cannot enter an autograd.Function
        assert equal(got, jacrev(of_Xi)(XI))


def test_checkpointing_does_not_change_gradients():
    x = [arg.clone().requires_grad_() for arg in (XI, Z0, TIMES)]
    got = torch.autograd.grad(checkpoint(loss, *x, use_reentrant=False), x)
    assert all(torch.equal(a, b) for a, b in zip(got, autograd_gradients(XI, Z0, TIMES)))


def test_nested_forward_mode_raises_and_names_what_works():
    # torch drops the outer tangents of a custom function there (pytorch issue 197867): it would be silently wrong
    with pytest.raises(linode.NotDifferentiableError, match=r"jacfwd\(jacrev\(f\)\)"):
        jacfwd(jacfwd(loss))(XI, Z0, TIMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("is_forced", [False, True])
def test_second_derivatives_in_single_precision_are_those_of_double_rounded(dtype: torch.dtype, is_forced: bool):
    def energy(Xi: torch.Tensor) -> torch.Tensor:
        b = Xi[0] if is_forced else None
        return linode.LinearODE(Xi, Xi[:, 0], b=b)(TIMES).abs().square().sum()

    values = []
    for precision in (dtype, torch.promote_types(dtype, torch.float64)):
        Xi = XI.to(precision).requires_grad_()
        (gradient,) = torch.autograd.grad(energy(Xi), Xi, create_graph=True)
        values.append(torch.autograd.grad(gradient.abs().square().sum(), Xi)[0])
        forward = torch.func.jvp(energy, (Xi.detach(),), (torch.ones_like(Xi),))[1]
        assert forward.dtype == Xi.real.dtype
    assert values[0].dtype == dtype
    assert torch.dist(values[0].to(values[1]), values[1]) <= 1e-5 * values[1].norm()
