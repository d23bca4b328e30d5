"""Padding masks that a decoder never receives: taken from the outer model, or refused."""

import copy
import threading

import pytest
import torch
import transformers
from by_token import padded
from plain_hooks import random_vector

import faststeer

pytestmark = pytest.mark.filterwarnings("ignore:.*hooks steer it:faststeer.FaststeerWarning")

IDS, MASK = padded((4, 9))
V = random_vector("v", [1], hidden=32)
FIRST = slice(0, 1)


def rwkv():
    config = transformers.RwkvConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=3, context_length=64
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.RwkvForCausalLM(config).eval()


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits


def test_the_language_model_of_rwkv_keeps_its_mask_and_the_first_token_is_found() -> None:
    model = rwkv()
    padding = int((MASK[0] == 0).sum())
    with faststeer.patch(model) as patched:
        idle = logits(model)
        patched.steer(V, 20.0, positions=FIRST)
        changed = (logits(model) != idle).any(-1)
    assert changed[0].int().argmax() == padding > 0
    assert changed[1].int().argmax() == 0


def test_positions_are_refused_if_the_padding_is_unknown() -> None:
    model = rwkv()
    with faststeer.patch(model) as patched:
        patched.steer(V, 20.0, positions=FIRST)
        compiled = torch.compile(model, backend="eager")
        with pytest.raises(Exception, match="RwkvModel is never given: a compiled forward does n"):
            logits(compiled)
    with faststeer.patch(model.rwkv) as patched:
        patched.steer(V, 20.0, positions=FIRST)
        with pytest.raises(ValueError, match=r"RwkvModel is never given: give patch\(\) or capt"):
            logits(model)
        with torch.inference_mode():
            model(input_ids=IDS[:1, -4:], use_cache=False)  # a single text has no padding


def test_masks_of_two_threads_in_one_model_are_kept_apart() -> None:
    model = rwkv()
    with faststeer.patch(model) as patched:
        patched.steer(V, 20.0, positions=FIRST)
        expected = logits(model)
        other = MASK.flip(0)
        inside, seen = threading.Event(), threading.Event()
        outer = patched._outer[0]

        def elsewhere() -> None:
            outer._begin(model, (), {"attention_mask": other})
            inside.set()
            seen.wait(10)
            outer._end(model, (), None)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        assert inside.wait(10)
        found = logits(model)
        seen.set()
        thread.join()
        assert torch.equal(found, expected)
        assert patched.plan.forward.outer_masks == []


def test_an_inactive_scope_needs_no_positions() -> None:
    model = rwkv()
    with faststeer.patch(model) as patched:
        with patched.off():
            expected = model.generate(IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False)
        patched.steer(V, 2.0, positions="last")
        with patched.off():
            found = model.generate(IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False)
        assert torch.equal(found, expected)


def test_a_copy_of_a_fused_layer_is_steered_once_the_model_is_patched(make_tiny) -> None:
    faststeer.install()
    try:
        model = make_tiny(layers=3)
        layers = model.model.layers
        layers.insert(2, copy.deepcopy(layers[1]))
        model.config.num_hidden_layers = 4
        for place, layer in enumerate(layers):
            layer.self_attn.layer_idx = place
        with faststeer.patch(model) as patched, torch.inference_mode():
            assert patched.num_layers == 4
            idle = model(IDS).logits
            patched.steer(random_vector("v", [2]), 2.0)
            assert not torch.equal(model(IDS).logits, idle)
    finally:
        faststeer.uninstall()
