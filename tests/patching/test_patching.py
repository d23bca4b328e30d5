"""Patching changes only what is documented, and is exactly undone."""

import copy

import pytest
import torch
from patched_tiny import IDS, VECTOR, close, expected_with_hooks, logits
from plain_hooks import hooked
from torch import nn

import faststeer


def facts(model) -> list:
    """Return the state that unpatching has to restore."""
    return [
        (name, type(module), sorted(module.__dict__), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_unpatching_restores_classes_attributes_and_bits(tiny_model) -> None:
    before, state, stock = facts(tiny_model), list(tiny_model.state_dict()), logits(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        assert list(tiny_model.state_dict()) == state
        assert [name for name, _ in tiny_model.named_buffers()] == [
            "model.rotary_emb.inv_freq"
        ] or ("model.rotary_emb.inv_freq" in dict(tiny_model.named_buffers()))
        patched.steer(VECTOR, 2.0)
        assert not close(logits(tiny_model), stock)
        tiny_model(IDS, output_hidden_states=True)
    patched.unpatch()
    assert torch.equal(logits(tiny_model), stock)
    after = facts(tiny_model)
    root_marks = {
        "_output_capturing_hooks_installed"
    }  # added by transformers when it records outputs
    assert [(n, t, [a for a in d if a not in root_marks], h) for n, t, d, h in after] == before


def test_an_exception_inside_the_block_still_unpatches(tiny_model) -> None:
    before = facts(tiny_model)

    def fail() -> None:
        with faststeer.patch(tiny_model) as patched:
            patched.steer(VECTOR)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert facts(tiny_model) == before


def test_patching_again_starts_without_the_previous_steering(tiny_model) -> None:
    expected, stock = expected_with_hooks(tiny_model), logits(tiny_model)
    for _ in range(3):
        with faststeer.patch(tiny_model) as patched:
            assert patched.handles == []
            assert close(logits(tiny_model), stock)
            patched.steer(VECTOR, 2.0)
            assert close(logits(tiny_model), expected)
        assert torch.equal(logits(tiny_model), stock)


def test_patching_twice_returns_the_same_handle(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        assert faststeer.patch(tiny_model) is patched
        assert faststeer.patch(tiny_model.model) is patched
    again = faststeer.patch(tiny_model)
    assert again is not patched
    patched.unpatch()  # the old handle has no effect any more
    assert faststeer.patch(tiny_model) is again
    again.unpatch()


def test_a_nested_patch_block_leaves_the_outer_block_s_steering(tiny_model) -> None:
    """As when a function that patches is called on an already patched model."""
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        steered = logits(tiny_model)
        with faststeer.patch(tiny_model) as inner:
            assert inner is patched
        assert torch.equal(logits(tiny_model), steered)
    with pytest.raises(ValueError, match="was unpatched"):
        patched.steer(VECTOR)


def test_class_names_are_preserved(tiny_model) -> None:
    with faststeer.patch(tiny_model):
        assert type(tiny_model.model.layers[0]).__name__ in tiny_model._no_split_modules
        assert type(tiny_model.model.norm).__name__ == "LlamaRMSNorm"


def test_other_models_are_refused_by_name_and_unchanged(tiny_model) -> None:
    with pytest.raises(ValueError, match=r"Linear holds no decoder that can be.*LlamaModel"):
        faststeer.patch(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="got a str"):
        faststeer.patch("model")
    both = nn.ModuleList([tiny_model, copy.deepcopy(tiny_model)])
    with pytest.raises(ValueError, match="holds 2 decoders"):
        faststeer.patch(both)

    class OwnLayer(type(tiny_model.model.layers[2])):
        pass

    tiny_model.model.layers[2].__class__ = OwnLayer
    before = facts(tiny_model)
    with pytest.raises(ValueError, match=r"layer 2 is a .*OwnLayer; only the stock"):
        faststeer.patch(tiny_model)
    assert facts(tiny_model) == before


def test_a_layer_wrapped_by_other_code_is_refused(tiny_model) -> None:
    """Such a wrapper hides the class's forward: a naive patch would silently do nothing."""
    layer = tiny_model.model.layers[1]
    layer.forward = lambda *args, **kwargs: type(layer).forward(layer, *args, **kwargs)
    before = facts(tiny_model)
    with pytest.raises(ValueError, match="layer 1 has a `forward` of its own"):
        faststeer.patch(tiny_model)
    assert facts(tiny_model) == before


@pytest.mark.parametrize("where", ["input_layernorm", "post_attention_layernorm", "final"])
def test_a_norm_with_an_instance_forward_is_called_unchanged(tiny_model, where) -> None:
    """As after kernelize and Liger."""
    layer = tiny_model.model.layers[1]
    norm = tiny_model.model.norm if where == "final" else getattr(layer, where)
    norm.forward = torch.tanh
    stock, steered = logits(tiny_model), expected_with_hooks(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        assert close(logits(tiny_model), stock)
        patched.steer(VECTOR, 2.0)
        assert close(logits(tiny_model), steered)
    assert torch.equal(logits(tiny_model), stock)


def test_a_leftover_instance_forward_of_the_class_does_not_hide_the_patch(tiny_model) -> None:
    """transformers 4.57 leaves one behind after output_hidden_states=True."""
    expected, stock = expected_with_hooks(tiny_model), logits(tiny_model)
    for layer in tiny_model.model.layers:
        layer.forward = layer.forward
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        assert close(logits(tiny_model), expected)
        for layer in tiny_model.model.layers:
            layer.forward = layer.forward
        assert close(logits(tiny_model), expected)
    assert torch.equal(logits(tiny_model), stock)


def test_a_change_of_the_layers_after_patching_is_detected(tiny_model) -> None:
    """A norm computed for one layer is never given to another."""
    with faststeer.patch(tiny_model):
        del tiny_model.model.layers[1]
        tiny_model.config.num_hidden_layers = 3
        found = logits(tiny_model)
        tiny_model.config.num_hidden_layers = 2
        shorter = logits(tiny_model)
    assert close(shorter, logits(tiny_model))
    tiny_model.config.num_hidden_layers = 3
    assert close(found, logits(tiny_model))


def test_the_bare_decoder_and_a_peft_model_can_be_patched(tiny_model) -> None:
    from peft import LoraConfig, get_peft_model

    expected = expected_with_hooks(tiny_model)
    with torch.no_grad(), hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]):
        hidden = tiny_model.model(IDS).last_hidden_state
    with faststeer.patch(tiny_model.model) as patched, torch.no_grad():
        patched.steer(VECTOR, 2.0)
        assert close(tiny_model.model(IDS).last_hidden_state, hidden)
    torch.manual_seed(0)  # adapters that inflate the logits leave no digits to compare
    adapted = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    stock = logits(adapted)
    with hooked(adapted.base_model.model.model, [(VECTOR, 2.0, range(4))]):
        lora_expected = logits(adapted)
    assert not close(lora_expected, expected)
    with faststeer.patch(adapted) as patched:
        assert close(logits(adapted), stock)
        patched.steer(VECTOR, 2.0)
        assert close(logits(adapted), lora_expected)
    assert torch.equal(logits(adapted), stock)
