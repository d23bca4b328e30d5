"""Masses of sets of continuations: those of every continuation alone, and of all that there are."""

from __future__ import annotations

import math
import re

import pytest
import torch
from plain_hooks import hooked, random_vector
from slow_scores import logits_of

import faststeer
from faststeer.data.trait_files import SHIPPED_TRAITS, OpenPrompt, Trait
from faststeer.evaluate.continuation_sets import SetScores, set_scores, set_scores_by_setting

PROMPTS = [
    OpenPrompt(
        "So it is" + ", and so on" * (n % 5) + str(n * n),
        (" a", " bc", " bd", "x" * (1 + n % 3)),
        (" e", " fgh", " fgi", "y"),
    )
    for n in range(50)
]


def masses_alone(model, tokenizer, prompts: list[OpenPrompt]) -> torch.Tensor:
    """Return each set's log-mass ``[2, N]``, with one forward pass per continuation."""
    found = []
    for own in prompts:
        before = len(tokenizer(own.prompt)["input_ids"])
        for texts in own[1:]:
            logs = []
            for text in texts:
                ids = list(tokenizer(own.prompt + text)["input_ids"])
                logprobs = logits_of(model, ids).log_softmax(-1)
                logs.append(sum(logprobs[at - 1, ids[at]] for at in range(before, len(ids))))
            found.append(torch.stack(logs).logsumexp(0))
    return torch.stack(found).view(-1, 2).T


def require_same(found: SetScores, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.log_positive, expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.log_negative, expected[1], atol=1e-4, rtol=0)
    masses = expected.exp()
    shares = masses[0] / masses.sum(0)
    torch.testing.assert_close(found.by_prompt, shares, atol=1e-5, rtol=0)
    assert found.probability == pytest.approx(float(shares.mean()), abs=1e-5)
    assert found.mass == pytest.approx(float(masses.sum(0).mean()), abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_fifty_scores_equal_those_of_each_continuation_alone(
    tiny_model, byte_tokenizer, side, batch_size
) -> None:
    byte_tokenizer.padding_side = side
    expected = masses_alone(tiny_model, byte_tokenizer, PROMPTS)
    found = set_scores(tiny_model, byte_tokenizer, PROMPTS, batch_size=batch_size)
    require_same(found, expected)
    assert float(found.by_prompt.std()) > 0.01


@pytest.mark.parametrize("family", ["Qwen2", "Gemma2", "Mistral", "StableLm"])
def test_other_families_score_alike(make_tiny, byte_tokenizer, family) -> None:
    model = make_tiny(family=family)
    expected = masses_alone(model, byte_tokenizer, PROMPTS[:6])
    require_same(set_scores(model, byte_tokenizer, PROMPTS[:6]), expected)


@pytest.mark.thorough
def test_fifty_prompts_of_the_shipped_traits_on_the_real_model(demo) -> None:
    prompts = [own for name in SHIPPED_TRAITS for own in Trait.shipped(name).test[::4]][:50]
    assert len(prompts) == 50
    several = sum(
        len(demo.tokenizer(text)["input_ids"]) > 1
        for own in prompts
        for side in own[1:]
        for text in side
    )
    assert several > 100
    expected = masses_alone(demo.model, demo.tokenizer, prompts)
    require_same(set_scores(demo.model, demo.tokenizer, prompts), expected)


def test_all_continuations_of_two_tokens_are_enumerated(make_tiny, byte_tokenizer) -> None:
    """Over all second tokens the mass is that of the first; over all first ones, it is 1."""
    model = make_tiny(vocab_size=128)
    byte_tokenizer.bos_token_id = 127
    letters = [chr(code) for code in range(128)]
    first = OpenPrompt("it is", ("a",), ("b",))
    second = OpenPrompt(
        "it is", tuple("a" + one for one in letters), tuple("b" + one for one in letters)
    )
    whole = OpenPrompt("it is", tuple(letters[:60]), tuple(letters[60:]))
    found = set_scores(model, byte_tokenizer, [first, second, whole])
    masses = torch.stack([found.log_positive, found.log_negative]).exp()
    torch.testing.assert_close(masses[:, 0], masses[:, 1], atol=1e-7, rtol=1e-5)
    assert float(masses[:, 2].sum()) == pytest.approx(1, abs=1e-6)
    assert 0 < float(masses[0, 0]) < 1


def test_settings_in_one_batch_score_as_one_at_a_time(make_tiny, byte_tokenizer) -> None:
    model, plain = make_tiny(), make_tiny()
    vector = random_vector("v", range(4))
    settings = [{"v": {1: 2.0}}, {}, {"v": {1: -2.0}}, {"v": {0: 1.0, 3: 5.0}}]
    with faststeer.patch(model) as patched:
        patched.steer(vector, 0.0)
        unsteered, steered = set_scores_by_setting(
            patched, model, byte_tokenizer, PROMPTS[:9], settings, batch_size=4, at_once=3
        )
    expected = masses_alone(plain, byte_tokenizer, PROMPTS[:9])
    require_same(unsteered, expected)
    require_same(steered[1], expected)
    for setting, found in zip(settings, steered, strict=True):
        steering = [(vector, c, [layer]) for layer, c in setting.get("v", {}).items()]
        with hooked(plain.model, steering):
            own = masses_alone(plain, byte_tokenizer, PROMPTS[:9])
        require_same(found, own)
        assert (not setting) == bool(torch.allclose(own, expected, atol=1e-3))


MISTAKES = [
    ([], "got no prompts; at least one is needed"),
    ([OpenPrompt("it is", (), ("b",))], "prompt 0, 'it is': a set has no continuations"),
    ([OpenPrompt("it is", ("",), ("b",))], "continuation '' changes the tokens of the prompt, or"),
    (
        [PROMPTS[0], OpenPrompt("it is", (" sea", " city"), (" town", " seaside"))],
        "prompt 1, 'it is': the continuation ' seaside' begins with another one, ' sea', and its "
        "probability would count twice",
    ),
    ([OpenPrompt("it is", (" a", " b"), (" a",))], "continuation ' a' begins with another one"),
    ([OpenPrompt("x" * 1020, (" abcd",), (" b",))], "more tokens than the model's context, 1024"),
]


@pytest.mark.parametrize(("prompts", "message"), MISTAKES, ids=[m[1][:20] for m in MISTAKES])
def test_prompts_that_cannot_be_scored_are_refused(
    tiny_model, byte_tokenizer, prompts, message
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        set_scores(tiny_model, byte_tokenizer, prompts)


def test_a_continuation_that_merges_with_its_prompt_is_refused(demo) -> None:
    prompts = [OpenPrompt("They went to the ", ("sea",), ("city",))]
    with pytest.raises(ValueError, match="'sea' changes the tokens of the prompt, or adds none"):
        set_scores(demo.model, demo.tokenizer, prompts)


def test_scores_survive_a_file() -> None:
    scores = SetScores(
        torch.tensor([-1.5, -math.inf]).double(), torch.tensor([-0.5, -2.0]).double()
    )
    again = SetScores.from_items(scores.items())
    assert (
        again.items()
        == scores.items()
        == {
            "log_positive": [-1.5, None],
            "log_negative": [-0.5, -2.0],
        }
    )
