"""Decoders inside larger models: masks and prompts come from the outer model or the caller.

Each refusal's advice is followed, and gives the result of plain hooks.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from by_token import greedy, padded, steered_by_token
from plain_hooks import random_vector

import faststeer

CLOSE = {"rtol": 0, "atol": 1e-5}
IDS, MASK = padded((4, 9, 6))
IDS = IDS % 280 + 5 * (IDS > 0)
V = random_vector("v", [1])
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "image_size": 8,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
}


def gemma3() -> Any:
    config = transformers.Gemma3Config(
        text_config={**TEXT, "sliding_window": 512},
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=290,
        boi_token_index=291,
        eoi_token_index=292,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def llava() -> Any:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=290,
    )
    return transformers.LlavaForConditionalGeneration(config)


@pytest.fixture(params=[gemma3, llava])
def model(request) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = request.param().eval()
    made.generation_config.eos_token_id = None
    return made


def decoder_of(model) -> Any:
    return model.model.language_model


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [("all", slice(None)), ("last", slice(-1, None)), (range(1, 3), slice(1, 3))],
)
def test_capture_counts_each_token_of_a_padded_batch_and_never_padding(
    model, positions, chosen
) -> None:
    alone = []
    with torch.no_grad():
        for row, mask in zip(IDS, MASK, strict=True):
            hidden = model(row[mask.bool()][None], output_hidden_states=True).hidden_states
            alone.append(hidden[2][0, chosen])
        with faststeer.capture(model, layers=[1], positions=positions) as moments:
            numbers = (MASK.cumsum(1) - 1).clamp(min=0)
            model(IDS, attention_mask=MASK, position_ids=numbers)
    rows = torch.cat(alone).double()
    assert int(moments[1].count) == len(rows)
    torch.testing.assert_close(moments[1].mean[0], rows.mean(0), rtol=0, atol=1e-5)


def test_without_any_mask_all_tokens_count(model) -> None:
    with faststeer.capture(model, layers=[1]) as moments, torch.no_grad():
        model(IDS)
    assert int(moments[1].count) == IDS.numel()


def test_a_scope_in_a_plain_forward_counts_no_padding(model) -> None:
    terms = [(V, lambda b, p, n: 3.0 * (p == 1))]
    with torch.inference_mode():
        idle = model(IDS, attention_mask=MASK).logits
        with steered_by_token(decoder_of(model), terms, MASK):
            expected = model(IDS, attention_mask=MASK).logits
        with faststeer.patch(model) as patched:
            patched.steer(V, 3.0, positions=range(1, 2))
            found = model(IDS, attention_mask=MASK).logits
    real = MASK.bool()
    assert float((expected - idle)[real].abs().max()) > 0.01
    torch.testing.assert_close(found[real], expected[real], **CLOSE)


@pytest.mark.parametrize("how", [{}, {"cache_implementation": "static"}])
def test_scopes_are_right_in_generate(model, how) -> None:
    terms = [(V, lambda b, p, n: 3.0 * (p >= n))]
    with torch.inference_mode():
        with steered_by_token(decoder_of(model), terms, MASK):
            expected = greedy(model, IDS, MASK, use_cache=False)
        with faststeer.patch(model) as patched:
            patched.steer(V, 3.0, positions="generated")
            found = greedy(model, IDS, MASK, **how)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)


def test_a_prepared_mask_without_the_outer_model_is_refused_with_advice_that_works(
    model,
) -> None:
    decoder = decoder_of(model)
    made: Any = torch.ones(3, 1, 9, 9, dtype=torch.bool).tril()
    if type(model).__name__.startswith("Gemma3"):
        made = {"full_attention": made, "sliding_attention": made}
    with (
        pytest.raises(ValueError, match=r"counting tokens needs an attention mask of two.*capture"),
        faststeer.capture(model, layers=[1]),
        torch.no_grad(),
    ):
        decoder(inputs_embeds=model.get_input_embeddings()(IDS), attention_mask=made)
    with faststeer.capture(model, layers=[1]) as moments, torch.no_grad():
        model(IDS, attention_mask=MASK)
    assert int(moments[1].count) == int(MASK.sum())


def test_a_mask_of_other_tokens_than_the_decoders_is_refused(model) -> None:
    decoder = decoder_of(model)
    made = torch.ones(3, 1, 9, 9, dtype=torch.bool).tril()

    def longer(module, args, kwargs):
        kwargs["inputs_embeds"] = model.get_input_embeddings()(IDS)
        kwargs["attention_mask"] = {"full_attention": made, "sliding_attention": made}
        return args, kwargs

    decoder.register_forward_pre_hook(longer, with_kwargs=True)
    with (
        pytest.raises(ValueError, match=r"a mask of shape \(3, 4\): other tokens"),
        faststeer.capture(model, layers=[1]),
        torch.no_grad(),
    ):
        model(IDS[:, :4], attention_mask=MASK[:, :4])


def test_a_failed_forward_leaves_no_mask_and_unpatching_no_hook(model) -> None:
    def ours() -> int:
        every = [
            h
            for m in model.modules()
            for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
        ]
        return sum(hook.__module__.startswith("faststeer") for hook in every)

    with faststeer.patch(model) as patched:
        with pytest.raises(ValueError, match="tokens: 0"):
            model(IDS, attention_mask=MASK, pixel_values=torch.zeros(1, 3, 8, 8))
        assert patched.plan.forward.outer_masks == []
        assert ours() > 0
    assert ours() == 0


def test_after_in_a_plain_forward_of_embeddings_is_refused_with_advice_that_works(model) -> None:
    with faststeer.patch(model) as patched, torch.inference_mode():
        patched.steer(V, 3.0, positions=faststeer.after([int(IDS[1, 4])]))
        with pytest.raises(
            ValueError, match=r"this forward has embeddings.*call generate with inp"
        ):
            model(IDS)
        found = greedy(model, IDS[1:2], MASK[1:2])
    terms = [(V, lambda b, p, n: 3.0 * (p >= 5))]
    with steered_by_token(decoder_of(model), terms, MASK[1:2]), torch.inference_mode():
        expected = greedy(model, IDS[1:2], MASK[1:2], use_cache=False)
    torch.testing.assert_close(found[1], expected[1], **CLOSE)


def test_a_generate_without_ids_is_refused_and_works_with_them(tiny_model) -> None:
    tiny_model.generation_config.bos_token_id = 1
    start = torch.tensor([[1]])
    terms = [(random_vector("v", [1]), lambda b, p, n: 3.0 * (p >= n))]
    with steered_by_token(tiny_model.model, terms, torch.ones_like(start)):
        expected = greedy(tiny_model, start, torch.ones_like(start), use_cache=False)
    with faststeer.patch(tiny_model) as patched, torch.inference_mode():
        patched.steer(V, 3.0, positions="generated")
        with pytest.raises(ValueError, match=r"generate was called without input_ids.*\(with max_"):
            tiny_model.generate(max_new_tokens=3)
        found = greedy(tiny_model, start, torch.ones_like(start))
        patched.clear()
        tiny_model.generate(max_new_tokens=3)  # all positions need no prompt
        patched.steer(V, 3.0)
        tiny_model.generate(max_new_tokens=3)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)


def test_an_encoder_decoder_requires_prompt_lengths_for_the_decoders_prompt() -> None:
    sides = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "vocab_size": 300}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ends = {"eos_token_id": None, "forced_eos_token_id": None, "init_std": 0.1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bart = transformers.BartForConditionalGeneration(
            transformers.BartConfig(**sides, **heads, **ends)
        ).eval()
    bart.generation_config.eos_token_id = bart.generation_config.forced_eos_token_id = None
    decoder = bart.model.decoder
    start = torch.ones(3, 1, dtype=torch.long)  # the decoder's prompt
    terms = [(V, lambda b, p, n: 3.0 * (p >= n))]
    with torch.inference_mode():
        idle = greedy(bart, IDS, MASK, use_cache=False)
        with steered_by_token(decoder, terms, start):
            expected = greedy(bart, IDS, MASK, use_cache=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", faststeer.FaststeerWarning)
            patched = faststeer.patch(decoder)
        patched.steer(V, 3.0, positions="generated")
        with pytest.raises(ValueError, match=r"generate of a model that patch.. was given, or set"):
            greedy(bart, IDS, MASK)
        patched.prompt_lengths = [1, 1, 1]
        found = greedy(bart, IDS, MASK)
        patched.unpatch()
    assert float((expected[1] - idle[1]).abs().max()) > 0.01
    torch.testing.assert_close(found[1], expected[1], **CLOSE)
