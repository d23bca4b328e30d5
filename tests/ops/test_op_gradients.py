"""Gradients of the ops through torch: what is wanted, compiled, recorded; how much memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from backward_calls import EPS, random_call
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from faststeer import ops
from faststeer.ops import reference, registration

NAMES = ("x", "residual", "weight", "vectors", "coefficient")


def inputs(
    dtype: torch.dtype = torch.float32, x_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a call with gradients."""
    call = random_call(12, 40, 4, 3, dtype=dtype)
    given = {
        "x": torch.randn(3, 4, 40).to(x_dtype or dtype),
        "residual": torch.randn(3, 4, 40).to(dtype),
        "weight": call.weight,
        "vectors": call.vectors,
        "coefficient": call.coefficient,
    }
    for tensor in given.values():
        tensor.requires_grad_()
    return given | {"index": call.index}


def with_norm(given: dict[str, Tensor | None], module=ops) -> tuple[Tensor, Tensor]:
    entries = (given["vectors"], given["index"], given["coefficient"])
    first = (given["x"], given["residual"], given["weight"], EPS)
    return module.steer_add_rms_norm(*first, *entries, None, 1.0)


def without_norm(given: dict[str, Tensor | None], module=ops) -> Tensor:
    entries = (given["vectors"], given["index"], given["coefficient"])
    return module.steer_add(given["x"], given["residual"], *entries)


class Calls(TorchDispatchMode):
    """Records the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.flags: list[tuple] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(op.name())
        if "backward" in op.name():
            self.flags.append(args)
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_mixed_dtypes_come_in_the_dtype_of_each_tensor(x_dtype: torch.dtype) -> None:
    given = inputs(x_dtype=x_dtype)
    out, h = with_norm(given)
    (out.sin().sum() + h.cos().sum()).backward()
    for name in NAMES:
        assert given[name].grad.dtype == given[name].dtype
    assert torch.equal(given["x"].grad, given["residual"].grad.to(x_dtype))
    plain = inputs(x_dtype=x_dtype)
    without_norm(plain).sum().backward()
    assert plain["x"].grad.dtype == x_dtype


@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
def test_a_device_without_kernels_gets_the_same_gradients() -> None:
    call = random_call(12, 40, 4, 3, offset=1.0)
    given = tuple(vars(call).values())
    wanted = (torch.bfloat16, True, True, True, True)
    calls = (
        (torch.ops.faststeer.steer_add_rms_norm_backward, (*given, *wanted)),
        (torch.ops.faststeer.steer_add_backward, (call.grad_out, *given[6:], True, False)),
    )
    for op, arguments in calls:
        found = registration._without_kernel_backward(*arguments)
        for one, other in zip(found, op(*arguments), strict=True):
            tolerance = 1e-2 if one.dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    arguments = (None, call.h, call.weight, EPS, *given[6:], None, 1.0)
    found = registration._without_kernel_norm_autograd(*arguments)
    expected = torch.ops.faststeer.steer_add_rms_norm_autograd(*arguments)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("function", [with_norm, without_norm])
def test_without_x_the_others_get_the_same_gradients(function) -> None:
    given = inputs()
    names = [n for n in NAMES[1:] if function is with_norm or n != "weight"]
    results = []
    for x in (None, torch.zeros(3, 4, 40)):
        result = function(given | {"x": x})
        parts = result if isinstance(result, tuple) else (result,)
        loss = sum((part.sin() * (n + 1)).sum() for n, part in enumerate(parts))
        results.append(torch.autograd.grad(loss, [given[n] for n in names]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_backward_pass_is_one_op() -> None:
    for function, names in (
        (with_norm, ["faststeer::steer_add_rms_norm_backward"]),
        (without_norm, ["faststeer::steer_add_backward"]),
    ):
        given = inputs()
        result = function(given)
        result = result if isinstance(result, tuple) else (result,)
        grads = [torch.randn_like(part) for part in result]
        with Calls() as calls:
            torch.autograd.grad(
                result,
                [given[name] for name in NAMES if function is with_norm or name != "weight"],
                grads,
            )
        assert [name for name in calls.names if "detach" not in name] == names


def subsets() -> Iterator[tuple[str, ...]]:
    for bits in range(1, 2 ** len(NAMES)):
        yield tuple(name for i, name in enumerate(NAMES) if bits >> i & 1)


def test_only_gradients_that_are_needed_are_computed() -> None:
    everything = inputs()
    out, h = with_norm(everything)
    grads = torch.randn_like(out), torch.randn_like(h)
    expected = dict(
        zip(
            NAMES, torch.autograd.grad((out, h), [everything[n] for n in NAMES], grads), strict=True
        )
    )
    for wanted in subsets():
        given = {
            name: tensor.detach().requires_grad_(name in wanted) if name != "index" else tensor
            for name, tensor in everything.items()
        }
        with Calls() as calls:
            found = torch.autograd.grad(with_norm(given), [given[n] for n in wanted], grads)
        for name, gradient in zip(wanted, found, strict=True):
            assert torch.equal(gradient, expected[name]), (wanted, name)
        (arguments,) = calls.flags
        assert arguments[9] is None  # x is of the residual's dtype: one array is both gradients
        flags = (("x" in wanted or "residual" in wanted), *(n in wanted for n in NAMES[2:]))
        assert arguments[10:] == flags


@pytest.mark.parametrize("used", [(0,), (1,)])
def test_an_output_that_nothing_uses_costs_no_zeros(used: tuple[int]) -> None:
    given = inputs()
    result = with_norm(given)[used[0]]
    with Calls() as calls:
        found = torch.autograd.grad(
            result, [given[n] for n in NAMES], torch.ones_like(result), allow_unused=True
        )
    assert not any("zeros" in name for name in calls.names)
    specified = with_norm(given, reference)[used[0]]
    expected = torch.autograd.grad(
        specified, [given[n] for n in NAMES], torch.ones_like(result), allow_unused=True
    )
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("function", [with_norm, without_norm])
def test_gradients_of_gradients_equal_those_of_the_specification(function) -> None:
    def second(module) -> list[Tensor]:
        torch.manual_seed(0)
        given = inputs()
        leaves = [given[n] for n in NAMES if function is with_norm or n != "weight"]
        result = function(given, module)
        parts = result if isinstance(result, tuple) else (result,)
        loss = sum((part.sin() * (n + 1)).sum() for n, part in enumerate(parts))
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    for one, other in zip(second(ops), second(reference), strict=True):
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [with_norm, without_norm])
def test_the_backward_pass_compiles_without_a_graph_break(function) -> None:
    def loss(given: dict[str, Tensor]) -> Tensor:
        result = function(given)
        parts = result if isinstance(result, tuple) else (result,)
        return sum((part.sin() * (n + 1)).sum() for n, part in enumerate(parts))

    torch.manual_seed(0)
    given = inputs(x_dtype=torch.bfloat16)
    leaves = [given[n] for n in NAMES if function is with_norm or n != "weight"]
    expected = torch.autograd.grad(loss(given), leaves)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True)(given), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entries", [True, False])
def test_opcheck_passes_for_the_backward_ops(entries: bool) -> None:
    call = random_call(6, 8, 3, 2 if entries else 0)
    given = tuple(vars(call).values())
    op = torch.ops.faststeer.steer_add_rms_norm_backward.default
    for x_dtype in (None, torch.bfloat16):
        torch.library.opcheck(op, (*given, x_dtype, True, True, entries, entries))
    torch.library.opcheck(op, (*given, None, False, True, False, False))
    if entries:
        op = torch.ops.faststeer.steer_add_backward.default
        torch.library.opcheck(op, (call.grad_out, *given[6:], True, True))
        torch.library.opcheck(op, (call.grad_out, *given[6:], False, True))


def test_an_op_with_autograd_refuses_modes() -> None:
    given = inputs()
    entries = (given["vectors"], given["index"], given["coefficient"], torch.ones(5, 5))
    with pytest.raises(ValueError, match="no gradients through modes"):
        torch.ops.faststeer.steer_add_autograd(given["x"], given["residual"], *entries)
    with pytest.raises(ValueError, match="no gradients through modes"):
        torch.ops.faststeer.steer_add_rms_norm_autograd(
            given["x"], given["residual"], given["weight"], EPS, *entries
        )


def test_float64_is_differentiated_through_the_specification() -> None:
    given = {
        name: tensor if name == "index" else tensor.detach().double().requires_grad_()
        for name, tensor in inputs().items()
    }
    arguments = tuple(given[n] for n in NAMES)

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return with_norm(dict(zip(NAMES, tensors, strict=True)) | {"index": given["index"]})

    assert torch.autograd.gradcheck(call, arguments)


@pytest.mark.parametrize("norm", [True, False])
def test_the_formulas_are_the_gradients_of_the_specification(norm: bool) -> None:
    """What a device without kernels runs, and what kernels are tested against."""
    given = {
        name: tensor if name == "index" else tensor.detach().double().requires_grad_()
        for name, tensor in inputs().items()
    }
    leaves = [given[n] for n in NAMES[1:] if norm or n != "weight"]
    entries = (given["vectors"], given["index"], given["coefficient"])
    if norm:
        out, h = with_norm(given, reference)
        grads = torch.randn_like(out), torch.randn_like(h)
        expected = torch.autograd.grad((out, h), leaves, grads)
        scale = reference.inverse_rms(h, EPS)
        found = reference.steer_add_rms_norm_backward(
            *grads, h, given["weight"], scale, 1.0, *entries, None, True, True, True, True
        )
        found = found[:1] + found[2:]
    else:
        h = without_norm(given, reference)
        grad = torch.randn_like(h)
        expected = torch.autograd.grad(h, leaves, grad)
        found = (grad, *reference.steer_add_backward(grad, *entries, True, True))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_no_temporary_holds_every_entry_of_every_row() -> None:
    """Of 2,048 rows with 33 entries of 4096 that would be 1.1 GB in float32."""
    program = """
import resource, sys
sys.path.insert(0, "tests/support")
import torch
from backward_calls import random_call
call = random_call(2048, 4096, 2048, 33, dtype=torch.bfloat16)
arguments = (*vars(call).values(), None, True, True, True, True)
from faststeer import ops
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.ops.faststeer.steer_add_rms_norm_backward(*arguments)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    grown = int(done.stdout) * 1024
    results = 2048 * 4096 * 2 + 5 * 4096 * 4
    assert grown < results + (64 << 20), grown
