"""Evaluation and diagnostics of any decoder are those of each text alone, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_hooks import random_vector
from residual_streams import row_error
from tiny import ByteTokenizer
from torch import Tensor
from unusual_decoders import SMALL, layers_of, stored_states, strange

import faststeer
from faststeer import diagnostics, evaluate

TEXTS = ["ab", "some text", "a longer text, to be padded against", "text " * 12]
PAIRS = [("I love it", "I hate it, and more"), ("so good", "bad"), ("yes, it is", "no")]
PLAIN_HEADS = [name for name in SMALL if not name.startswith("Roberta")]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


def logprobs(model: Any, ids: list[int]) -> Tensor:
    """Return the log-probabilities ``[T - 1]`` of the tokens of one text alone."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.fixture(params=["left", "right"])
def tokenizer(request: pytest.FixtureRequest, byte_tokenizer: ByteTokenizer) -> Any:
    byte_tokenizer.padding_side = request.param
    return byte_tokenizer


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_token_scores_are_those_of_each_text_alone(name: str, tokenizer: Any) -> None:
    model = strange(name)
    expected = torch.stack([-logprobs(model, tokenizer(t)["input_ids"]).sum() for t in TEXTS])
    found = evaluate.token_scores(model, tokenizer, TEXTS)
    torch.testing.assert_close(found.surprise, expected, rtol=1e-5, atol=0)
    assert found.tokens.tolist() == [len(text) for text in TEXTS]


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_token_scores_under_settings_are_those_of_each_text_steered_alone(
    name: str, tokenizer: Any
) -> None:
    model = strange(name)
    vector = random_vector("v", [1])
    layer = layers_of(model)[1]

    def steer(module: Any, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        changed = first + 2.0 * vector.directions[1]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hook = layer.register_forward_hook(steer)
    expected = torch.stack([-logprobs(model, tokenizer(t)["input_ids"]).sum() for t in TEXTS])
    hook.remove()
    with faststeer.patch(model) as patched:
        patched.steer(vector)
        before, [half, whole] = evaluate.token_scores_by_setting(
            patched, model, tokenizer, TEXTS, [{"v": 1.0}, {"v": 2.0}]
        )
    torch.testing.assert_close(whole.surprise, expected, rtol=1e-5, atol=0)
    for other in (before, half):
        assert float((other.surprise - expected).abs().max()) > 0.1


@pytest.mark.parametrize("name", PLAIN_HEADS)
def test_answers_are_those_to_each_question_alone(name: str, tokenizer: Any) -> None:
    model = strange(name)
    choices = [evaluate.Choice(text, "x", "y") for text in TEXTS]
    found = evaluate.matching_scores(model, tokenizer, choices)
    for number, text in enumerate(TEXTS):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].double()
        logs = torch.stack([found.log_matching[number], found.log_other[number]])
        expected = logits.log_softmax(-1)[[ord("x"), ord("y")]]
        torch.testing.assert_close(logs, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_likelihoods_are_those_of_each_text_alone(name: str, tokenizer: Any) -> None:
    model = strange(name)
    items = [(text, "more" * number) for number, text in enumerate(TEXTS, 1)]
    found = evaluate.continuation_logprobs(model, tokenizer, items)
    for (prompt, continuation), own in zip(items, found, strict=True):
        alone = logprobs(model, tokenizer(prompt + continuation)["input_ids"])
        expected = float(alone[-len(continuation) :].sum())
        assert float(own) == pytest.approx(expected, rel=1e-5)
    every = torch.cat([logprobs(model, tokenizer(text)["input_ids"]) for text in TEXTS])
    perplexity = evaluate.perplexity(model, tokenizer, TEXTS)
    assert perplexity == pytest.approx(float((-every.mean()).exp()), rel=1e-5)


def test_a_head_that_does_more_than_an_embedding_is_refused(tokenizer: Any) -> None:
    model = strange("RobertaForCausalLM")  # a dense layer and a norm come first
    with pytest.raises(ValueError, match=r"logits of a RobertaForCausalLM are more than .*perplex"):
        evaluate.token_scores(model, tokenizer, TEXTS)
    with pytest.raises(ValueError, match="logits of a RobertaForCausalLM are more than"):
        diagnostics.calibrate(model, tokenizer, random_vector("v", [1]), 0.1, texts=TEXTS)


@pytest.mark.parametrize("name", SMALL)
def test_diagnostics_read_each_token_of_each_text_alone(name: str, tokenizer: Any) -> None:
    model, vector = strange(name), random_vector("v", [1])
    unit = vector.normalized().directions[1]
    alone = [_stored(model, tokenizer, text)[1] for text in TEXTS]
    norms = diagnostics.residual_norms(model, tokenizer, TEXTS, layers=1)[1]
    torch.testing.assert_close(norms, torch.cat(alone).norm(dim=1), rtol=1e-5, atol=0)
    for own, states in zip(
        diagnostics.project_tokens(model, tokenizer, vector, TEXTS), alone, strict=True
    ):
        torch.testing.assert_close(torch.tensor(own.values), states @ unit, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_projections_of_pairs_are_those_of_each_text_alone(name: str, tokenizer: Any) -> None:
    model, vector = strange(name), random_vector("v", [1])
    unit = vector.normalized().directions[1]
    last = [[_stored(model, tokenizer, text)[1, -1] @ unit for text in pair] for pair in PAIRS]
    expected = torch.tensor(last).double()
    positive, negative = expected.unbind(1)
    [found] = diagnostics.pair_projections(model, tokenizer, [vector], PAIRS, progress=False)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-4)
    own = diagnostics.separability(model, tokenizer, vector, PAIRS, progress=False)[1]
    assert own == diagnostics.auc(positive, negative)


@pytest.mark.parametrize("name", SMALL)
def test_act_add_is_the_difference_token_by_token(name: str, tokenizer: Any) -> None:
    model = strange(name)
    made = faststeer.act_add(model, tokenizer, "Love", "Hate", layer=1, site="resid_post")
    love, hate = (_stored(model, tokenizer, text)[1] for text in ("Love", "Hate"))
    found = torch.stack([own.directions[1] for own in made.vectors.values()])
    expected = (love - hate)[list(made.vectors)]
    assert row_error(found, expected) < 1e-4


def _stored(model: Any, tokenizer: Any, text: str) -> Tensor:
    return stored_states(model, tokenizer(text)["input_ids"])
