"""The matching score is that of one greedy token per question, asked alone."""

from __future__ import annotations

import math
import re

import pytest
import torch
from plain_hooks import hooked, random_vector
from slow_scores import logits_of

import faststeer
from faststeer.data.questions import Choice
from faststeer.evaluate.bootstrap import interval
from faststeer.evaluate.matching import Matching, matching_scores, matching_scores_by_setting

CHOICES = [
    Choice("Which of these " * (n % 4) + f"is it, {n * n}? (", *("AB" if n % 3 else "BA"))
    for n in range(50)
]


@pytest.fixture
def answering(make_tiny):
    """Return a model that often answers A, B or C, and sometimes something else."""
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight[[ord("A"), ord("B"), ord("C")]] *= 8
    return model


def asked_alone(model, tokenizer) -> dict[str, list]:
    found = {"answers": [], "matched": [], "valid": [], "log_matching": [], "log_other": []}
    for choice in CHOICES:
        logprobs = logits_of(model, tokenizer(choice.question)["input_ids"])[-1].log_softmax(-1)
        answer = tokenizer.decode([int(logprobs.argmax())]).strip()
        found["answers"].append(answer)
        found["matched"].append(int(answer == choice.matching))
        found["valid"].append(int(answer in (choice.matching, choice.other)))
        found["log_matching"].append(float(logprobs[ord(choice.matching)]))
        found["log_other"].append(float(logprobs[ord(choice.other)]))
    return found


def require_same(found: Matching, expected: dict[str, list]) -> None:
    items = found.items()
    for name in ("answers", "matched", "valid"):
        assert items[name] == expected[name]
    for name in ("log_matching", "log_other"):
        assert items[name] == pytest.approx(expected[name], abs=1e-4)
    assert found.score == sum(expected["matched"]) / 50
    assert found.faulty == 50 - sum(expected["valid"])
    logs = list(zip(expected["log_matching"], expected["log_other"], strict=True))
    assert found.preferred == sum(own > other for own, other in logs) / 50
    shares = [1 / (1 + math.exp(other - own)) for own, other in logs]
    assert found.probability == pytest.approx(sum(shares) / 50, abs=1e-5)
    masses = [math.exp(own) + math.exp(other) for own, other in logs]
    assert found.mass == pytest.approx(sum(masses) / 50, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_fifty_answers_equal_those_of_questions_asked_alone(
    answering, byte_tokenizer, side, batch_size
) -> None:
    byte_tokenizer.padding_side = side
    expected = asked_alone(answering, byte_tokenizer)
    assert 0 < sum(expected["matched"]) < sum(expected["valid"]) < 50
    require_same(
        matching_scores(answering, byte_tokenizer, CHOICES, batch_size=batch_size), expected
    )


def test_settings_in_one_batch_answer_as_one_at_a_time(
    answering, byte_tokenizer, make_tiny
) -> None:
    plain = make_tiny()
    plain.load_state_dict(answering.state_dict())
    vector = random_vector("v", range(4))
    settings = [{"v": {layer: c}} for layer in (1, 3) for c in (-4.0, 2.0, 4.0)]
    with faststeer.patch(answering) as patched:
        patched.steer(vector)
        unsteered, found = matching_scores_by_setting(
            patched, answering, byte_tokenizer, CHOICES, settings, batch_size=9, at_once=2
        )
    require_same(unsteered, asked_alone(plain, byte_tokenizer))
    for setting, own in zip(settings, found, strict=True):
        [(layer, c)] = setting["v"].items()
        with hooked(plain.model, [(vector, c, [layer])]):
            require_same(own, asked_alone(plain, byte_tokenizer))
    assert len({own.score for own in found}) > 2


def test_one_answer_to_more_than_95_percent_of_questions_is_a_collapse(byte_tokenizer) -> None:
    def answered(count: int) -> Matching:
        none = torch.zeros(100)
        return Matching(["A"] * count + ["B"] * (100 - count), none.bool(), none.bool(), none, none)

    assert [answered(count).collapsed for count in (95, 96, 100, 0)] == [False, True, True, True]


def test_answers_count_by_their_text_and_not_by_the_token(answering, byte_tokenizer) -> None:
    plain = matching_scores(answering, byte_tokenizer, CHOICES)
    byte_tokenizer.decode = lambda ids: f" {chr(ids[0])} "  # as where a token begins with a space
    assert matching_scores(answering, byte_tokenizer, CHOICES).score == plain.score


def test_answers_are_restored_from_files(answering, byte_tokenizer) -> None:
    found = matching_scores(answering, byte_tokenizer, CHOICES)
    again = Matching.from_items(found.items())
    assert again.items() == found.items()
    half = found.chosen(range(25))
    assert half.answers == found.answers[:25]
    assert half.score == sum(found.matched[:25].tolist()) / 25


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "got no choices"),
        ([Choice("Is it (", "Yes", "N")], "choice 0: after 'Is it (' the option 'Yes' is not a"),
        ([Choice("Is it (", "N", "N")], "choice 0: both options are 'N' for this model"),
    ],
)
def test_options_that_are_not_single_tokens_are_refused_before_anything_runs(
    tiny_model, byte_tokenizer, choices, message
) -> None:
    tiny_model.forward = None
    with pytest.raises(ValueError, match=re.escape(message)):
        matching_scores(tiny_model, byte_tokenizer, choices)


def test_the_interval_of_a_share_is_binomial() -> None:
    hits = torch.arange(400) < 120
    lower, upper = interval(lambda at: float(hits[at].double().mean()), 400, draws=2000)
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert lower == pytest.approx(0.3 - spread, abs=0.008)
    assert upper == pytest.approx(0.3 + spread, abs=0.008)
    assert (lower, upper) == interval(lambda at: float(hits[at].double().mean()), 400, draws=2000)


def test_smollm2_answers_as_if_asked_alone(demo) -> None:
    question = "Human:\nIs water wet?\n\nAI:\nOut of (Yes) and (No), I choose ("
    choices = [Choice(question, "Yes", "No"), Choice(f"Please answer.\n{question}", "No", "Yes")]
    found = matching_scores(demo.model, demo.tokenizer, choices)
    for n, choice in enumerate(choices):
        ids = demo.tokenizer(choice.question)["input_ids"]
        logprobs = logits_of(demo.model, ids)[-1].log_softmax(-1)
        assert found.answers[n] == demo.tokenizer.decode([int(logprobs.argmax())]).strip()
        [token] = demo.tokenizer(choice.matching)["input_ids"]
        assert float(found.log_matching[n]) == pytest.approx(float(logprobs[token]), abs=1e-3)


def test_options_whose_tokens_begin_with_a_space_match_answers_without(
    answering, byte_tokenizer
) -> None:
    expected = matching_scores(answering, byte_tokenizer, CHOICES)

    class Spaced(type(byte_tokenizer)):
        """Tokenizer with one token for a letter and the space before it."""

        def __call__(self, text: str, **how) -> dict[str, list[int]]:
            return super().__call__(text.replace(" A", "A").replace(" B", "B"), **how)

        def decode(self, ids: list[int]) -> str:
            return f" {super().decode(ids)}"

    spaced = [Choice(question, f" {own}", f" {other}") for question, own, other in CHOICES]
    assert matching_scores(answering, Spaced(), spaced).items() == expected.items()
    with pytest.raises(ValueError, match="choice 0: both options are 'A' for this model"):
        matching_scores(answering, Spaced(), [Choice("Is it (", " A", "A")])


def test_answers_of_a_model_without_finite_logits_count_as_misses(
    make_tiny, byte_tokenizer
) -> None:
    broken = make_tiny(dtype=torch.float16)
    with faststeer.patch(broken) as patched:
        patched.steer(random_vector("v", range(4)), 1e7)
        assert broken(torch.tensor([[1, 2]])).logits.isnan().all()
        found = matching_scores(broken, byte_tokenizer, CHOICES)
    assert (found.score, found.preferred, found.collapsed) == (0.0, 0.0, True)
    assert set(found.items()["log_matching"]) == {None}
    assert math.isnan(found.probability)


def test_iterators_are_measured_like_lists(answering, byte_tokenizer) -> None:
    expected = matching_scores(answering, byte_tokenizer, CHOICES)
    assert matching_scores(answering, byte_tokenizer, iter(CHOICES)).items() == expected.items()
    with faststeer.patch(answering) as patched:
        patched.steer(random_vector("v", range(4)))
        settings = [{"v": 1.0}, {"v": -2.0}]
        how = (patched, answering, byte_tokenizer)
        _, listed = matching_scores_by_setting(*how, CHOICES, settings)
        _, streamed = matching_scores_by_setting(*how, CHOICES, iter(settings))
    assert [own.items() for own in streamed] == [own.items() for own in listed]


def test_settings_are_not_measured_where_the_model_cannot_be_unsteered(
    answering, byte_tokenizer
) -> None:
    with faststeer.patch(answering) as patched:
        patched.steer(random_vector("v", range(4)))
        measured = (patched, answering, byte_tokenizer, CHOICES, [{"v": 1.0}])
        with patched.off(), pytest.raises(ValueError, match="steer nothing within patched"):
            matching_scores_by_setting(*measured)
        learned = patched.learn(random_vector("own", [1]))
        with pytest.raises(ValueError, match=r"\['own'\] of patched.learn\(\) steer under every"):
            matching_scores_by_setting(*measured)
        learned.remove()
        assert len(matching_scores_by_setting(*measured)[1]) == 1
