"""Left-padded prompts are steered as each prompt alone; padding elsewhere never counts."""

import pytest
import torch
from by_token import greedy, padded, steered_by_token
from plain_hooks import random_vector
from transformers import GenerationConfig

import faststeer

CLOSE = {"rtol": 0, "atol": 1e-5}  # see test_positions
IDS, MASK = padded((3, 7, 5))
VECTOR = random_vector("v", [0, 2])
SCOPES = {
    "all": "all",
    "prompt": "prompt",
    "generated": "generated",
    "last": "last",
    "range": range(1, 3),
    "slice from the end": slice(-2, None),
}


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


@pytest.mark.parametrize("name", SCOPES)
def test_each_prompt_of_a_left_padded_batch_continues_as_alone(name, tiny_model, patched) -> None:
    idle = greedy(tiny_model, IDS, MASK)[1]
    patched.steer(VECTOR, 2.0, positions=SCOPES[name])
    tokens, scores = greedy(tiny_model, IDS, MASK)
    for line, mask in enumerate(MASK.bool()):
        ids = IDS[line, mask][None]
        alone = greedy(tiny_model, ids, torch.ones_like(ids))
        assert torch.equal(tokens[line, -6:], alone[0][0, -6:])
        torch.testing.assert_close(scores[line], alone[1][0], **CLOSE)
        assert (scores[line] - idle[line]).abs().max() > 1000 * CLOSE["atol"]


@pytest.mark.parametrize("source", ["model", "config", "config by position", "argument"])
def test_without_a_mask_padding_is_found_as_by_generate(source, tiny_model, patched, plain) -> None:
    patched.steer(VECTOR, 2.0, positions="generated")
    patched.steer(VECTOR, 0.5, name="early", positions=range(1, 3))
    early = [(VECTOR, lambda b, p, n: 0.5 * (1 <= p < 3))]
    late = [(VECTOR, lambda b, p, n: 2.0 * (p >= n))]
    with steered_by_token(plain.model, late + early, MASK):
        expected = greedy(plain, IDS, MASK, use_cache=False)
    config = GenerationConfig(max_new_tokens=6, do_sample=False)
    args, kwargs = (IDS,), {"generation_config": config}
    if source == "model":
        tiny_model.generation_config.pad_token_id = 0
    elif source == "argument":
        kwargs["pad_token_id"] = 0
    else:
        config.pad_token_id = 0
    if source == "config by position":
        args, kwargs = (IDS, kwargs.pop("generation_config")), {}
    found = tiny_model.generate(*args, **kwargs, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(found.sequences, expected[0])
    torch.testing.assert_close(torch.stack(found.scores, 1), expected[1], **CLOSE)


def test_padding_on_the_right_and_in_between_is_not_counted(tiny_model, patched, plain) -> None:
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    for positions, inside in {
        "last": lambda p, n: p == n - 1,
        range(1, 3): lambda p, n: 1 <= p < 3,
    }.items():
        patched.steer(VECTOR, 2.0, positions=positions)
        terms = [(VECTOR, lambda b, p, n, inside=inside: 2.0 * inside(p, n))]
        with steered_by_token(plain.model, terms, mask):
            expected = plain(IDS, attention_mask=mask, position_ids=numbers).logits
        found = tiny_model(IDS, attention_mask=mask, position_ids=numbers).logits
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **CLOSE)
