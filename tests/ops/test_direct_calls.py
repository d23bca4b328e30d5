"""Calls without torch's dispatcher: what they compute, and what they leave to the op."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from faststeer import _C, ops

EPS = 1e-5
NO_ENTRIES = (None, None, None, None)


class Norm(nn.Module):
    """A norm as transformers has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16))
        self.epsilon = EPS


class OtherNorm(Norm):
    pass


class PassingFunctions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **kwargs or {})


class PassingOps(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **kwargs or {})


def rows(count: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(1, count, 16), torch.randn(1, count, 16)


def entries() -> tuple[Tensor, Tensor, Tensor, None]:
    index = torch.tensor([[0, -1], [1, 0], [-1, -1]], dtype=torch.int32)
    return torch.randn(2, 16), index, torch.randn(3, 2), None


def of_norm(norm: nn.Module, x: Tensor | None, residual: Tensor, *rest: object) -> object:
    *entries, overwrite = rest or (*NO_ENTRIES, False)
    types = (Norm, Norm)
    return _C.steer_add_norm(norm, types, "epsilon", 1.0, x, residual, tuple(entries), overwrite)


@torch.no_grad()
@pytest.mark.parametrize("steering", [NO_ENTRIES, entries()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_norms_own_weight_and_epsilon_are_used(steering: tuple, overwrite: bool) -> None:
    norm, (x, residual) = Norm(), rows()
    given = residual.clone()
    expected = torch.ops.faststeer.steer_add_rms_norm.default(
        x, residual, norm.weight, EPS, *steering, 1.0
    )
    out, h = of_norm(norm, x, given, *steering, overwrite)
    assert torch.equal(out, expected[0])
    assert torch.equal(h, expected[1])
    assert (h is given) == overwrite
    assert torch.equal(given, expected[1] if overwrite else residual)


def with_hook(register: str) -> Callable[[nn.Module], object]:
    return lambda norm: getattr(norm, register)(lambda *_: None)


def with_forward(norm: nn.Module) -> None:
    norm.forward = lambda hidden: hidden


def with_other_weight(norm: nn.Module) -> None:
    norm._parameters["weight"] = nn.UninitializedParameter()


CHANGES = {
    "forward hook": with_hook("register_forward_hook"),
    "forward pre-hook": with_hook("register_forward_pre_hook"),
    "backward hook": with_hook("register_full_backward_hook"),
    "backward pre-hook": with_hook("register_full_backward_pre_hook"),
    "own forward": with_forward,
    "no weight": lambda norm: norm.register_parameter("weight", None),
    "weight of another class": with_other_weight,
    "hooks of another kind": lambda norm: norm.__dict__.pop("_forward_hooks"),
    "no epsilon": lambda norm: norm.__dict__.pop("epsilon"),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_norm_whose_call_could_do_anything_else_is_left_alone(change: str) -> None:
    norm, (x, residual) = Norm(), rows()
    assert of_norm(norm, x, residual) is not None
    assert _C.run_plainly(norm, Norm())
    CHANGES[change](norm)
    assert of_norm(norm, x, residual) is None
    if "weight" not in change and "epsilon" not in change:
        assert not _C.run_plainly(norm, Norm())
        assert not _C.run_plainly(Norm(), norm)


@torch.no_grad()
def test_a_norm_of_a_subclass_is_left_alone() -> None:
    assert of_norm(OtherNorm(), *rows()) is None


@torch.no_grad()
@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_a_hook_of_all_modules_counts_for_each(register: Callable) -> None:
    norm, (x, residual) = Norm(), rows()
    hook = register(lambda *_: None)
    try:
        assert of_norm(norm, x, residual) is None
        assert not _C.run_plainly(norm, norm)
    finally:
        hook.remove()
    assert of_norm(norm, x, residual) is not None


def test_with_grad_enabled_a_norm_is_left_alone() -> None:
    assert of_norm(Norm(), *rows()) is None


@torch.no_grad()
def test_what_would_change_the_dtype_or_the_memory_is_left_to_the_op() -> None:
    norm, (x, residual) = Norm(), rows()
    assert of_norm(norm.bfloat16(), x, residual) is not None  # the result stays float32
    assert of_norm(Norm(), x, residual.bfloat16()) is None
    assert of_norm(Norm().bfloat16(), x, residual.bfloat16()) is None
    assert of_norm(Norm(), x.double(), residual.double()) is None
    assert of_norm(Norm(), *(one.transpose(0, 1) for one in rows())) is not None
    assert of_norm(Norm(), x, residual.to("meta")) is None
    assert of_norm(Norm(), x, nn.Parameter(residual)) is not None
    assert of_norm(Norm(), x.as_subclass(Marked), residual) is None


@torch.no_grad()
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_large_call_of_a_norm_goes_to_the_op(overwrite: bool) -> None:
    norm, x, residual = Norm(), torch.randn(2**16, 17, 16), torch.randn(2**16, 17, 16)
    given = residual.clone()
    with torch.profiler.profile() as profile:
        out, h = of_norm(norm, x, given, *NO_ENTRIES, overwrite)
    assert "faststeer::steer_add_rms_norm" in {event.key for event in profile.key_averages()}
    expected = torch.ops.faststeer.steer_add_rms_norm.default(
        x, residual, norm.weight, EPS, *NO_ENTRIES, 1.0
    )
    assert torch.equal(out, expected[0])
    assert torch.equal(h, expected[1])
    assert torch.equal(given, residual)


class Marked(Tensor):
    """A subclass that means something else by its data."""


def watchers() -> dict[str, Callable[[], AbstractContextManager]]:
    return {
        "dispatch mode": PassingOps,
        "function mode": PassingFunctions,
        "default device": lambda: torch.device("cpu"),
        "profiler": torch.profiler.profile,
    }


@pytest.mark.parametrize("watcher", watchers())
def test_what_has_to_see_every_op_sees_it(watcher: str) -> None:
    x, residual = rows()
    weight = torch.rand(16)
    norm_call = (x, residual, weight, EPS, *NO_ENTRIES, 0.0)
    outputs = torch.empty_like(x), torch.empty_like(x)
    assert not _C.is_watched()
    assert _C.steer_add_rms_norm(*norm_call) is not None
    with watchers()[watcher]():
        assert _C.is_watched()
        assert _C.steer_add_rms_norm(*norm_call) is None
        assert _C.steer_add(x, residual, *NO_ENTRIES) is None
        assert _C.steer_add_rms_norm_out(*norm_call, *outputs) is False
    assert not _C.is_watched()


def test_a_trace_holds_the_op_and_not_its_result() -> None:
    x, residual = rows()
    weight = torch.rand(16)
    with pytest.warns(DeprecationWarning, match="trace"):
        traced = torch.jit.trace(
            lambda a: ops.steer_add_rms_norm(a, residual, weight, EPS)[0], (x,), check_trace=False
        )
    other = torch.randn_like(x)
    assert torch.equal(traced(other), ops.steer_add_rms_norm(other, residual, weight, EPS)[0])


def test_a_profile_names_the_op() -> None:
    x, residual = rows()
    with torch.profiler.profile() as profile:
        ops.steer_add(x, residual)
    assert "faststeer::steer_add" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_forward_mode_derivatives_are_those_of_the_specification(mode: Callable) -> None:
    (x, residual), (tangent, _) = rows(), rows()
    weight, (vectors, index, coefficient, _) = torch.rand(16), entries()

    def value(given: Tensor) -> tuple[Tensor, Tensor]:
        return ops.steer_add_rms_norm(given, residual, weight, EPS, vectors, index, coefficient)

    with forward_ad.dual_level(), mode():
        results = value(forward_ad.make_dual(x, tangent))
        found = [forward_ad.unpack_dual(result).tangent for result in results]
    step = 1e-2
    ahead, behind = value(x + step * tangent), value(x - step * tangent)
    for own, a, b in zip(found, ahead, behind, strict=True):
        assert own.abs().max() > 0.1
        torch.testing.assert_close(own, (a - b) / (2 * step), rtol=1e-2, atol=1e-2)
    with (
        forward_ad.dual_level(),
        pytest.raises(ValueError, match="without gradients"),
    ):
        ops.steer_add_rms_norm_out(
            x, residual, weight, EPS, *NO_ENTRIES, 0.0, torch.empty_like(x), torch.empty_like(x)
        )


def test_an_invalid_call_is_refused_in_the_words_of_the_op() -> None:
    x, residual = rows()
    with pytest.raises(ValueError, match="x has shape"):
        _C.steer_add(x[:, :2], residual, *NO_ENTRIES)
    with pytest.raises(ValueError, match="go together"):
        _C.steer_add(x, residual, torch.randn(1, 16), None, None, None)
    with pytest.raises(TypeError, match="6 arguments"):
        _C.steer_add(x, residual)
    with pytest.raises(TypeError):
        _C.steer_add_rms_norm(x, residual, torch.rand(16), "eps", *NO_ENTRIES, 0.0)
    no_module = SimpleNamespace(weight=1)
    with torch.no_grad():
        assert (
            _C.steer_add_norm(
                no_module, (Norm, Norm), "epsilon", 0.0, x, residual, NO_ENTRIES, False
            )
            is None
        )
