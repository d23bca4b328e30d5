"""A patched model computes in the same dtypes as the stock model."""

import pytest
import torch
from patched_tiny import VECTOR, close, expected_with_hooks, logits

import faststeer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_mixed_dtypes_give_the_stock_result_dtypes(make_tiny, dtype) -> None:
    model = make_tiny()
    for norms_in_half in (False, True):
        for module in model.modules():
            if norms_in_half and type(module).__name__ == "LlamaRMSNorm":
                module.to(dtype)
        with torch.autocast("cpu", dtype):
            stock = logits(model)
            with faststeer.patch(model):
                found = logits(model)
        assert found.dtype == stock.dtype
        torch.testing.assert_close(found, stock, rtol=0.1, atol=0.1)
    wide_norms = make_tiny(dtype)  # as after prepare_model_for_kbit_training
    for module in wide_norms.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.to(torch.float32)
    with torch.autocast("cpu", dtype):
        stock = logits(wide_norms)
        with faststeer.patch(wide_norms) as patched:
            found = logits(wide_norms)
            patched.steer(VECTOR, 2.0)
            assert not close(logits(wide_norms), stock)
    assert torch.equal(found, stock)


def test_a_float64_model_is_steered_in_float64(make_tiny) -> None:
    model = make_tiny(torch.float64)
    stock, expected = logits(model), expected_with_hooks(model)
    with faststeer.patch(model) as patched:
        assert torch.equal(logits(model), stock)
        patched.steer(VECTOR, 2.0)
        assert close(logits(model), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_cast_after_patching_is_steered_like_one_cast_before(make_tiny, dtype) -> None:
    before, after = make_tiny().to(dtype), make_tiny()
    with faststeer.patch(before) as patched:
        patched.steer(VECTOR, 2.0)
        expected = logits(before)
    stock = logits(before)
    with faststeer.patch(after) as patched:
        patched.steer(VECTOR, 2.0)
        logits(after)
        after.to(dtype)
        found = logits(after)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert not torch.equal(found, stock)
    assert torch.equal(logits(after), stock)


def test_a_model_moved_after_patching_has_its_tables_moved_too(make_tiny) -> None:
    """To another device, where a coefficient is set, and back; `meta` acts as the other device."""
    model = make_tiny()
    expected = expected_with_hooks(model)
    with faststeer.patch(model) as patched:
        patched.steer(VECTOR, 1.0)
        for table in patched.plan.tables.values():
            table.entries(torch.empty(1, 1, 64, device="meta"))
        assert {own.device.type for own in patched.plan.forward.device_tables} == {"meta"}
        patched["v"].coefficient = 2.0
        assert close(logits(model), expected)
