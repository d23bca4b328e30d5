"""Models dispatched by accelerate, whose wrappers hide a class's forward."""

import accelerate
import pytest
import torch
from plain_hooks import hooked, random_vector
from transformers import LlamaForCausalLM

import faststeer

IDS = torch.randint(0, 512, (2, 7), generator=torch.Generator().manual_seed(3))
VECTOR = random_vector("v", range(4))


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def stream_after(model, layer):
    """Return the residual stream that the layer returns."""
    seen = []
    hook = model.model.layers[layer].register_forward_hook(lambda *call: seen.append(call[2]))
    logits(model)
    hook.remove()
    return seen[0]


def dispatch(model, folder, how):
    """Dispatch like `device_map=`: wrappers on every module; on disk, weights load per call."""
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


def test_wrappers_on_whole_layers_are_steered_and_restored(tiny_model) -> None:
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


def test_removing_wrappers_while_patched_leaves_no_steered_forward(tiny_model) -> None:
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


def test_a_user_s_accelerate_hook_may_edit_in_place(tiny_model) -> None:
    class Halve(accelerate.hooks.ModelHook):
        def post_forward(self, module, output):
            return output.mul_(0.5)

    accelerate.hooks.add_hook_to_module(tiny_model.model.layers[1], Halve())
    stock = logits(tiny_model)
    with faststeer.patch(tiny_model):
        torch.testing.assert_close(logits(tiny_model), stock, rtol=0, atol=1e-5)


@pytest.mark.parametrize("elsewhere", ["cpu", "disk"])
def test_a_device_map_over_two_devices_is_steered(tiny_model, tmp_path, elsewhere) -> None:
    tiny_model.save_pretrained(tmp_path / "whole")
    places = dict.fromkeys(["model.embed_tokens", "model.rotary_emb", "lm_head"], "cpu")
    places |= {f"model.layers.{n}": elsewhere if n % 2 else "cpu" for n in range(4)}
    places["model.norm"] = elsewhere
    model = LlamaForCausalLM.from_pretrained(
        tmp_path / "whole", device_map=places, offload_folder=tmp_path / "parts"
    )
    assert model.model.layers[1].input_layernorm.weight.is_meta == (elsewhere == "disk")
    stock = logits(tiny_model)
    for site in ("resid_pre", "resid_mid", "resid_post"):
        vector = random_vector("v", range(4), site=site)
        with hooked(tiny_model.model, [(vector, 2.0, range(4))]):
            expected = logits(tiny_model)
        with faststeer.patch(model) as patched:
            patched.steer(vector, 2.0)
            torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
            patched.clear()
            patched.steer(vector, 0.0)
            with patched.rows([{}, {"v": 2.0}]):
                found = logits(model)
        torch.testing.assert_close(found[0], stock[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("when", ["before the patch", "after the patch"])
def test_vectors_are_placed_on_the_device_of_their_layer(tiny_model, when) -> None:
    """Layers 2 and 3 run on the meta device, which has shapes without values."""
    with hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]):
        expected = stream_after(tiny_model, 1)

    def dispatch() -> None:
        later = [*tiny_model.model.layers[2:], tiny_model.model.norm, tiny_model.lm_head]
        for module in later:
            accelerate.hooks.add_hook_to_module(
                module.to("meta"), accelerate.hooks.AlignDevicesHook(execution_device="meta")
            )

    if when == "before the patch":
        dispatch()
    with faststeer.patch(tiny_model) as patched:
        handle = patched.steer(VECTOR, 2.0)
        if when == "after the patch":
            logits(tiny_model)
            dispatch()
        for _ in range(2):
            assert logits(tiny_model).is_meta
        torch.testing.assert_close(stream_after(tiny_model, 1), expected, rtol=0, atol=1e-5)
        devices = {s.layer: t.tables.vectors.device.type for s, t in patched.plan.tables.items()}
        assert devices == {0: "cpu", 1: "cpu", 2: "meta", 3: "meta"}
        handle.coefficient = 0.0
        assert not torch.allclose(stream_after(tiny_model, 1), expected, atol=0.01)
