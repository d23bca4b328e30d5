"""Scores of items: log-probabilities, computed plainly, one text at a time."""

from __future__ import annotations

import pytest
import torch
from plain_hooks import hooked, random_vector
from slow_scores import logits_of

import faststeer
from faststeer.data.questions import Choice
from faststeer.data.shipped import HeldOut
from faststeer.data.trait_files import OpenPrompt
from faststeer.diagnostics.tuning.objectives import (
    PairItems,
    PromptItems,
    ScoredItems,
    encoded,
    scored,
)
from faststeer.evaluate.continuation_sets import set_scores
from faststeer.evaluate.tasks import Subject

PAIRS = [("it was good" + "!" * n, "it is bad" + "?" * (7 - n)) for n in range(5)]
PAIRS += [("ab ab", "ab ba"), ("xy", "xz")]  # every token of the first is in its other text


def per_token(model, tokenizer, pair: tuple[str, str]) -> float:
    rows = [list(tokenizer(text)["input_ids"]) for text in pair]
    same = next(n for n, (a, b) in enumerate(zip(*rows, strict=False)) if a != b)
    means = []
    for ids, other in zip(rows, rows[::-1], strict=True):
        logprobs = logits_of(model, ids).log_softmax(-1)
        after = range(max(1, same), len(ids))
        own = [at for at in after if ids[at] not in other]
        logs = [float(logprobs[at - 1, ids[at]]) for at in own or after]
        means.append(sum(logs) / len(logs))
    return means[0] - means[1]


def test_pairs_score_means_per_token_of_what_they_do_not_share(tiny_model, byte_tokenizer) -> None:
    vector = random_vector("v", layers=(1,), seed=3)
    plain = [per_token(tiny_model, byte_tokenizer, pair) for pair in PAIRS]
    with hooked(tiny_model.model, [(vector, 0.7, [1])]):
        steered = [per_token(tiny_model, byte_tokenizer, pair) for pair in PAIRS]
    assert max(abs(a - b) for a, b in zip(plain, steered, strict=True)) > 0.01
    patched = faststeer.patch(tiny_model)
    patched.steer(vector, 0.0, name="v")
    subject = Subject(patched, tiny_model, byte_tokenizer, batch_size=5)
    found = PairItems(tiny_model, byte_tokenizer, PAIRS).measure(subject, [{"v": 0.7}])
    expected = torch.tensor([steered, plain], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_prompts_score_the_log_of_the_ratio_of_masses(tiny_model, byte_tokenizer) -> None:
    items = [
        OpenPrompt("so", (" a", " bc"), (" d",)),
        Choice("which (", "A", "B"),
        HeldOut("and", " yes", " no"),
    ]
    prompts = [
        items[0],
        OpenPrompt("which (", ("A",), ("B",)),
        OpenPrompt("and", (" yes",), (" no",)),
    ]
    expected = set_scores(tiny_model, byte_tokenizer, prompts)
    patched = faststeer.patch(tiny_model)
    subject = Subject(patched, tiny_model, byte_tokenizer)
    objective = encoded(tiny_model, byte_tokenizer, items, None)
    assert isinstance(objective, PromptItems)
    [found] = objective.measure(subject, [])
    torch.testing.assert_close(
        found, expected.log_positive - expected.log_negative, atol=1e-5, rtol=0
    )


def test_a_function_is_called_under_each_setting(tiny_model, byte_tokenizer) -> None:
    def logits(model, tokenizer) -> torch.Tensor:
        return model(torch.tensor([[1, 2, 3]])).logits[0, -1, :6]

    vector = random_vector("v", layers=(1,), seed=3)
    patched = faststeer.patch(tiny_model)
    patched.steer(vector, 0.0, name="v")
    subject = Subject(patched, tiny_model, byte_tokenizer)
    found = ScoredItems(logits, [4, 1]).measure(subject, [{"v": 0.5}, {"v": -0.5}])
    with torch.inference_mode():
        for line, row in enumerate([{"v": 0.5}, {"v": -0.5}, {}]):
            with patched.rows([row]):
                own = logits(tiny_model, byte_tokenizer)[[4, 1]].double()
            torch.testing.assert_close(found[line], own)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("pair", "message"),
    [(("same", "same"), "pair 0: one text is the beginning"), (("long text", "long"), "beginning")],
)
def test_texts_that_do_not_differ_are_refused(tiny_model, byte_tokenizer, pair, message) -> None:
    with pytest.raises(ValueError, match=message):
        PairItems(tiny_model, byte_tokenizer, [pair])


def test_texts_beyond_the_context_are_refused_or_cut(make_tiny, byte_tokenizer) -> None:
    model = make_tiny(max_position_embeddings=8)
    with pytest.raises(ValueError, match="max_length=8 truncates"):
        PairItems(model, byte_tokenizer, [("a" * 12, "b" * 12)])
    assert PairItems(model, byte_tokenizer, [("a" * 12, "b" * 12)], max_length=8).count == 1


def test_items_of_several_kinds_are_refused(tiny_model, byte_tokenizer) -> None:
    with pytest.raises(TypeError, match=r"all pairs of texts.*'OpenPrompt', 'tuple'"):
        encoded(tiny_model, byte_tokenizer, [("a", "b"), OpenPrompt("a", ("b",), ("c",))], None)
    with pytest.raises(TypeError, match="'str'"):
        encoded(tiny_model, byte_tokenizer, ["ab"], None)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (3.0, TypeError, "returned a float"),
        (torch.zeros(2, 2), ValueError, "finite scores"),
        (torch.tensor([1.0, float("nan")]), ValueError, "finite scores"),
        (torch.zeros(0), ValueError, "finite scores"),
    ],
)
def test_what_a_function_may_return(tiny_model, returned, error, message) -> None:
    with pytest.raises(error, match=message):
        scored(lambda model, tokenizer: returned, tiny_model, None)
