"""Models dispatched by accelerate, whose wrappers hide a class's forward."""

import accelerate
import pytest
import torch
from hooked import hooked, random_vector

import faststeer

IDS = torch.randint(0, 512, (2, 7), generator=torch.Generator().manual_seed(3))
VECTOR = random_vector("v", range(4))


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def dispatch(model, folder, how):
    """As `device_map=` does: wrappers on every module; on disk: weights come and go."""
    if how == "hooks":
        devices = {"": "cpu"}
        return accelerate.dispatch_model(model, devices, main_device="cpu", force_hooks=True)
    if how == "cpu offload":
        return accelerate.cpu_offload(model, torch.device("cpu"))
    accelerate.disk_offload(model, folder, torch.device("cpu"))
    return model


@pytest.mark.parametrize("how", ["hooks", "cpu offload", "disk offload"])
@pytest.mark.parametrize("when", ["before the patch", "after the patch"])
def test_a_dispatched_model_is_steered(tiny_model, tmp_path, how, when) -> None:
    stock = logits(tiny_model)
    with hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]):
        expected = logits(tiny_model)
    if when == "before the patch":
        tiny_model = dispatch(tiny_model, tmp_path, how)
        assert "forward" in tiny_model.model.layers[0].input_layernorm.__dict__
    patched = faststeer.patch(tiny_model)
    handle = patched.steer(VECTOR, 2.0)
    if when == "after the patch":
        tiny_model = dispatch(tiny_model, tmp_path, how)
    assert (stock - expected).abs().max() > 0.01
    torch.testing.assert_close(logits(tiny_model), expected, rtol=0, atol=1e-5)
    handle.coefficient = 0.0
    torch.testing.assert_close(logits(tiny_model), stock, rtol=0, atol=1e-5)
    handle.coefficient = 2.0
    patched.unpatch()
    assert torch.equal(logits(tiny_model), stock)


def test_wrappers_on_whole_layers_are_entered_and_restored(tiny_model) -> None:
    for layer in tiny_model.model.layers:
        accelerate.hooks.add_hook_to_module(
            layer, accelerate.hooks.AlignDevicesHook(execution_device="cpu")
        )
    wrapped = [layer._old_forward for layer in tiny_model.model.layers]
    stock = logits(tiny_model)
    with hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]):
        expected = logits(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        torch.testing.assert_close(logits(tiny_model), expected, rtol=0, atol=1e-5)
    assert [layer._old_forward for layer in tiny_model.model.layers] == wrapped
    assert torch.equal(logits(tiny_model), stock)


def test_wrappers_taken_off_while_patched_leave_no_steered_forward_behind(tiny_model) -> None:
    stock = logits(tiny_model)
    tiny_model = accelerate.dispatch_model(tiny_model, {"": "cpu"}, "cpu", force_hooks=True)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        accelerate.hooks.remove_hook_from_submodules(tiny_model)
        steered = logits(tiny_model)
        assert not torch.allclose(steered, stock, atol=1e-3)
    assert torch.equal(logits(tiny_model), stock)
    for module in tiny_model.modules():
        assert getattr(module.__dict__.get("forward"), "__func__", None) in (
            None,
            type(module).forward,
        )


def test_a_hook_of_ones_own_in_accelerate_may_edit_in_place(tiny_model) -> None:
    class Halve(accelerate.hooks.ModelHook):
        def post_forward(self, module, output):
            return output.mul_(0.5)

    accelerate.hooks.add_hook_to_module(tiny_model.model.layers[1], Halve())
    stock = logits(tiny_model)
    with faststeer.patch(tiny_model):
        torch.testing.assert_close(logits(tiny_model), stock, rtol=0, atol=1e-5)
