"""ActAdd: position by position, from the start of the prompt, during the prefill only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from residual_streams import residual_streams
from tiny import ByteTokenizer
from torch import nn
from transformers import LlamaForCausalLM

import faststeer

LAYER, COEFFICIENT = 2, 3.0


def test_the_vectors_are_differences_per_token_with_the_shorter_text_padded_with_spaces(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    added = faststeer.act_add(tiny_model, byte_tokenizer, "Love", "Hates", layer=LAYER)
    ids = [byte_tokenizer(text)["input_ids"] for text in ("Love ", "Hates")]
    first, second = (residual_streams(tiny_model, own)["resid_pre"][LAYER] for own in ids)
    assert list(added.vectors) == [1, 2, 3, 4, 5]  # both begin with BOS
    for position, vector in added.vectors.items():
        wanted = first[position] - second[position]
        torch.testing.assert_close(vector.directions[LAYER], wanted, rtol=0, atol=1e-5)
        assert vector.site == "resid_pre"
        assert vector.metadata["position"] == position


@pytest.mark.parametrize("prompt", ["I think that", "I"])
def test_applied_it_adds_to_the_start_of_the_prompt_and_to_no_generated_token(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, prompt: str
) -> None:
    """Like a hook that adds where it sees a whole prompt; the other prompt is left-padded."""
    added = faststeer.act_add(tiny_model, byte_tokenizer, "Love", "Hate", layer=LAYER)
    ids = torch.tensor([byte_tokenizer(prompt)["input_ids"]])
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "output_logits": True}
    options |= {"return_dict_in_generate": True, "eos_token_id": None, "pad_token_id": 0}

    def add(module: nn.Module, args: Any) -> Any:
        hidden = args[0].clone()
        if hidden.shape[1] > 1:
            for position, vector in added.vectors.items():
                hidden[:, position : position + 1] += COEFFICIENT * vector.directions[LAYER]
        return (hidden, *args[1:])

    hook = tiny_model.model.layers[LAYER].register_forward_pre_hook(add)
    wanted = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    hook.remove()
    plain = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    batch = nn.functional.pad(ids, (4, 0))
    with faststeer.patch(tiny_model) as patched:
        handles = added.apply(patched, COEFFICIENT)
        found = tiny_model.generate(batch, attention_mask=(batch != 0).long(), **options)
    assert [handle.name for handle in handles] == [f"act_add[{n}]" for n in added.vectors]
    assert torch.equal(found.sequences[:, 4:], wanted.sequences)
    logits = [torch.stack(each.logits) for each in (found, wanted, plain)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-4)
    assert (logits[1] - logits[2]).abs().max() > 0.1


def test_prompts_without_a_difference_are_refused(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    for pair, layer, message in (
        (("a", ""), 0, "act_add got an empty prompt"),
        (("a", "a "), 0, "'a' and 'a ' have equal tokens"),
        (("a", "b"), 9, "layer 9 is out of range"),
    ):
        with pytest.raises(ValueError, match=message):
            faststeer.act_add(tiny_model, byte_tokenizer, *pair, layer=layer)
