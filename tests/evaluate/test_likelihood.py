"""Log-probabilities of continuations and perplexity, against one forward pass per text."""

import math

import pytest
import torch

from faststeer.evaluate.likelihood import continuation_logprobs, perplexity

ITEMS = [("The film was", " good"), ("A", " much longer ending"), ("Ten words or so here", "!")]


def alone(model, tokenizer, prompt: str, continuation: str) -> float:
    ids = tokenizer(prompt)["input_ids"]
    own = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids + own])).logits[0].double().log_softmax(-1)
    places = range(len(ids) - 1, len(ids) + len(own) - 1)
    return sum(float(logprobs[place, token]) for place, token in zip(places, own, strict=True))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_continuation_is_scored_as_if_it_were_alone(
    tiny_model, byte_tokenizer, batch_size
) -> None:
    found = continuation_logprobs(tiny_model, byte_tokenizer, ITEMS, batch_size)
    expected = [alone(tiny_model, byte_tokenizer, *item) for item in ITEMS]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=0, atol=1e-4)


def test_perplexity_weighs_tokens_not_texts(tiny_model, byte_tokenizer) -> None:
    texts = ["short", "a text that is a good deal longer"]
    total = count = 0.0
    for text in texts:
        ids = torch.tensor([byte_tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            total += float(tiny_model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    found = perplexity(tiny_model, byte_tokenizer, texts)
    assert found == pytest.approx(math.exp(total / count), rel=1e-5)


def test_a_text_without_a_predicted_token_is_refused(tiny_model, byte_tokenizer) -> None:
    def plain(text: str, **how) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}  # no token in front

    plain.pad_token_id = None
    for item, what in ((("", "ab"), "prompt"), (("a", ""), "continuation")):
        with pytest.raises(ValueError, match=rf"item 1, .*: its {what} has no tokens"):
            continuation_logprobs(tiny_model, plain, [("much longer", "abc"), item])
    with pytest.raises(ValueError, match="got no items"):
        continuation_logprobs(tiny_model, plain, [])
    with pytest.raises(ValueError, match="text 1 has 1 tokens, of which none is predicted"):
        perplexity(tiny_model, byte_tokenizer, ["well", ""])
    for texts in ([], "one text"):
        with pytest.raises(ValueError, match="expected several"):
            perplexity(tiny_model, byte_tokenizer, texts)


def test_a_perplexity_that_no_float_can_hold_is_infinite(make_tiny, byte_tokenizer) -> None:
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight *= 1e5
    assert perplexity(model, byte_tokenizer, ["some text"]) == math.inf
