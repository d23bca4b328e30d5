"""Virtual tokens of PEFT shift positions: scopes are refused by the adapter's name."""

import pytest
import torch
from by_token import padded
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from plain_hooks import random_vector

import faststeer

IDS, MASK = padded((5, 7))
V = random_vector("v", [1])


def wrapped(model, config):
    return get_peft_model(model, config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()


# PEFT passes the past to transformers 5.24 under its old name, with or without the new one.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Both `past_key_values` and `cache` are set:FutureWarning")
@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_scopes_are_refused_beside_virtual_tokens_and_all_positions_are_steered(
    tiny_model, config
) -> None:
    model = wrapped(tiny_model, config)
    with faststeer.patch(model) as patched, torch.inference_mode():
        handle = patched.steer(V, 2.0, positions="last")
        with pytest.raises(ValueError, match=f"{config.__name__} puts virtual tokens of PEFT"):
            model.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=2)
        with pytest.raises(ValueError, match=f"{config.__name__} puts virtual tokens of PEFT"):
            model(input_ids=IDS, attention_mask=MASK)
        handle.remove()
        idle = model(input_ids=IDS, attention_mask=MASK).logits
        patched.steer(V, 2.0)
        assert not torch.equal(model(input_ids=IDS, attention_mask=MASK).logits, idle)


def test_scopes_work_with_other_adapters_and_a_disabled_one(tiny_model, make_tiny) -> None:
    for model in (
        get_peft_model(make_tiny(), LoraConfig(task_type="CAUSAL_LM")).eval(),
        wrapped(tiny_model, PromptTuningConfig).get_base_model(),
    ):
        with faststeer.patch(model) as patched, torch.inference_mode():
            idle = model(input_ids=IDS, attention_mask=MASK).logits
            patched.steer(V, 2.0, positions="last")
            found = model(input_ids=IDS, attention_mask=MASK).logits
            assert torch.equal(found[:, :-1], idle[:, :-1])
            assert not torch.equal(found[:, -1], idle[:, -1])
