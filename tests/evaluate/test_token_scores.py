"""Accuracy, perplexity and KL equal those of one forward pass per text, however computed."""

from __future__ import annotations

import math

import pytest
import torch
from plain_hooks import hooked, random_vector
from slow_scores import divergences, token_by_token

import faststeer
from faststeer.evaluate.next_token import TokenScores, token_scores, token_scores_by_setting

# Of very different lengths, and likely enough that a random model predicts some of it.
TEXTS = [chr(97 + n % 26) * (2 + 7 * n % 31) + " and more"[: n % 9] for n in range(50)]


def rows(tokenizer) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def same(scores: TokenScores, expected: list[dict[str, float]]) -> bool:
    for name in ("tokens", "top1", "top10"):
        assert getattr(scores, name).tolist() == [own[name] for own in expected]
    surprise = torch.tensor([own["surprise"] for own in expected]).double()
    torch.testing.assert_close(scores.surprise, surprise, rtol=1e-5, atol=1e-4)
    return True


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_fifty_texts_score_exactly_as_token_by_token(
    tiny_model, byte_tokenizer, side, batch_size
) -> None:
    byte_tokenizer.padding_side = side
    found = token_scores(tiny_model, byte_tokenizer, TEXTS, batch_size=batch_size)
    expected = token_by_token(tiny_model, rows(byte_tokenizer))
    assert same(found, expected)
    total = sum(own["tokens"] for own in expected)
    assert found.accuracy == sum(own["top1"] for own in expected) / total
    assert found.accuracy10 == sum(own["top10"] for own in expected) / total > 0
    mean = sum(own["surprise"] for own in expected) / total
    assert found.perplexity == pytest.approx(math.exp(mean), rel=1e-5)
    assert math.isnan(found.kl)


@pytest.mark.parametrize("side", ["left", "right"])
def test_settings_in_one_batch_score_as_one_at_a_time_with_hooks(
    tiny_model, plain, byte_tokenizer, side
) -> None:
    byte_tokenizer.padding_side = side
    vector = random_vector("v", range(4))
    settings = [{"v": {layer: c}} for layer in (1, 2) for c in (1.0, -3.0)] + [{}, {"v": 2.0}]
    with faststeer.patch(tiny_model) as patched:
        patched.steer(vector)
        unsteered, found = token_scores_by_setting(
            patched, tiny_model, byte_tokenizer, TEXTS, settings, batch_size=7, at_once=3
        )
    encoded = rows(byte_tokenizer)
    assert same(unsteered, token_by_token(plain, encoded))
    for setting, scores in zip(settings, found, strict=True):
        weights = setting.get("v", {})
        weights = weights if isinstance(weights, dict) else dict.fromkeys(range(4), weights)
        with hooked(plain.model, [(vector, c, [layer]) for layer, c in weights.items()]):
            assert same(scores, token_by_token(plain, encoded))
    assert found[4].kl == unsteered.kl == 0
    assert found[5].accuracy10 != unsteered.accuracy10


def test_the_divergence_is_over_the_whole_vocabulary(tiny_model, plain, byte_tokenizer) -> None:
    vector = random_vector("v", range(4))
    with faststeer.patch(tiny_model) as patched:
        patched.steer(vector, layers=2, coefficient=3.0)
        _, [found] = token_scores_by_setting(
            patched, tiny_model, byte_tokenizer, TEXTS[:8], [{"v": {2: 3.0}}], batch_size=3
        )
        expected = divergences(plain, tiny_model, rows(byte_tokenizer)[:8])
    assert min(expected) > 1e-3
    torch.testing.assert_close(
        found.divergence, torch.tensor(expected).double(), rtol=1e-3, atol=1e-4
    )


def test_of_equally_likely_tokens_the_first_counts(make_tiny, byte_tokenizer) -> None:
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    scores = token_scores(model, byte_tokenizer, ["\0\0a"])  # each of 512 tokens is as likely
    assert (scores.top1.tolist(), scores.top10.tolist()) == ([2], [3])
    assert scores.perplexity == pytest.approx(512)


def test_long_texts_are_cut_where_the_tokenizer_cuts(tiny_model, byte_tokenizer) -> None:
    whole = token_scores(tiny_model, byte_tokenizer, ["abcdefghij"], max_length=6)
    assert whole.tokens.tolist() == [5]
    assert whole.surprise == token_scores(tiny_model, byte_tokenizer, ["abcde"]).surprise


def test_scores_are_restored_from_files(tiny_model, byte_tokenizer) -> None:
    scores = token_scores(tiny_model, byte_tokenizer, TEXTS[:3])
    again = TokenScores.from_items(scores.items())
    assert again.items() == scores.items()
    assert again.perplexity == scores.perplexity
    twice = scores.chosen([1, 1])
    assert twice.tokens.tolist() == [int(scores.tokens[1])] * 2


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "expected several"),
        ("one", "expected several"),
        (["well", ""], "text 1 has 1 tokens, of which none is predicted"),
        (["x" * 2000], "text 0 has 2001 tokens, and the model's context is 1024; max_length=1024"),
    ],
)
def test_texts_that_cannot_be_scored_are_reported(
    tiny_model, byte_tokenizer, texts, message
) -> None:
    with pytest.raises(ValueError, match=message):
        token_scores(tiny_model, byte_tokenizer, texts)


def test_a_model_whose_logits_are_scaled_is_refused(byte_tokenizer, make_tiny) -> None:
    scaled = make_tiny(family="Granite", logits_scaling=8.0)
    with pytest.raises(ValueError, match="logits of a GraniteForCausalLM are more than its output"):
        token_scores(scaled, byte_tokenizer, TEXTS)
    with pytest.raises(ValueError, match="a LlamaModel has no output embedding"):
        token_scores(make_tiny().model, byte_tokenizer, TEXTS)


def test_smollm2_scores_prose_as_token_by_token(demo, prose) -> None:
    texts = [text[: 60 * n] for n, text in enumerate(prose[:3], 1)]
    found = token_scores(demo.model, demo.tokenizer, texts, batch_size=2)
    assert same(found, token_by_token(demo.model, [demo.tokenizer(t)["input_ids"] for t in texts]))
    assert 0.2 < found.accuracy < found.accuracy10 < 1
