"""Parts of `faststeer conform`: distances, templates, and the forms of answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from faststeer.diagnostics.conform import Answer, BrokenError
from faststeer.diagnostics.conform.distance import Limits, distance
from faststeer.diagnostics.conform.http_answers import events, reply_of
from faststeer.diagnostics.conform.templates import Template, merged, settings_of


def answer(*logprobs: dict[str, float], tokens: str = "") -> Answer:
    chosen = tokens or "".join(max(own, key=lambda token: own[token]) for own in logprobs)
    return Answer(chosen, tuple(chosen), logprobs)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        (answer({"a": -1.0, "b": -2.0}), answer({"a": -1.0, "b": -2.0}), 0),
        (answer({"a": -1.0, "b": -2.0}), answer({"a": -1.5, "b": -2.25}), 0.5),
        # c is at most as likely as the least of the other's list, a is chosen
        (answer({"a": -1.0, "b": -2.0}), answer({"a": -1.0, "c": -1.5}), 0.5),
        # after another token, contexts differ, and nothing is compared
        (
            answer({"a": -1.0, "b": -1.1}, {"a": -1.0}),
            answer({"a": -1.1, "b": -1.0}, {"a": -9}),
            0.1,
        ),
        (answer({"a": -1.0}, {"a": -1.0}), answer({"a": -1.0}, {"a": -3.0}), 2),
        # the text of an incomplete character names several tokens
        (answer({"\ufffd": -1.0, "b": -2.0}), answer({"\ufffd": -7.0, "b": -2.0}), 0),
        (answer({"\ufffd": -1.0}, {"a": -1.0}), answer({"\ufffd": -1.0}, {"a": -5.0}), 0),
        (Answer("one"), Answer("one"), 0),
        (Answer("one"), Answer("two"), 1),
    ],
)
def test_distance(first: Answer, second: Answer, apart: float) -> None:
    assert distance(first, second) == pytest.approx(apart)
    assert distance(second, first) == pytest.approx(apart)


def test_a_sampled_token_outside_the_list_is_no_bound_of_others() -> None:
    greedy = answer({"a": -1.0, "b": -2.0, "c": -3.0})
    sampled = answer({"a": -1.0, "b": -2.0, "z": -9.0}, tokens="z")
    assert distance(greedy, sampled) == 0


def test_limits_grow_with_the_noise() -> None:
    assert Limits(0.0).same == 2e-3
    assert Limits(0.1).same == pytest.approx(0.3)
    assert Limits(0.1).visible == pytest.approx(1.5)


def test_templates_take_the_coefficient_as_a_number_within_text_too() -> None:
    template = Template.of('{"a": {"s": "x={coefficient}", "c": {coefficient}}}', "--steered")
    assert template.has_coefficient
    assert template.body(-2.5) == {"a": {"s": "x=-2.5", "c": -2.5}}


def test_a_nonce_is_another_one_for_each_request() -> None:
    template = Template.of('{"salt": "{nonce}"}', "--fresh")
    assert template.body(1.0) != template.body(1.0)


def test_an_address_is_a_setting() -> None:
    assert Template.of("http://127.0.0.1:1/", "--steered").address == "http://127.0.0.1:1"


def test_bodies_are_merged_within_objects() -> None:
    first: dict[str, Any] = {"a": {"x": 1, "y": 2}, "b": 1}
    assert merged(first, {"a": {"y": 3}, "b": {}}) == {"a": {"x": 1, "y": 3}, "b": {}}


def test_the_preset_of_the_plugin_makes_terms_of_names() -> None:
    settings = settings_of("faststeer", {"steered": "praise", "last_layer": '{"layers": [3]}'})
    terms = {
        kind: json.loads(own.body(0.5)["vllm_xargs"]["faststeer"]) for kind, own in settings.items()
    }
    assert terms["steered"] == [{"vector": "praise", "coefficient": 0.5}]
    assert terms["prompt"] == [{"vector": "praise", "positions": "prompt", "coefficient": 0.5}]
    assert terms["early"][0]["positions"] == "0:16"
    assert terms["last_layer"] == [{"layers": [3], "coefficient": 0.5}]
    assert terms["wrong"][0]["vector"] == "a vector that does not exist"


def test_a_last_layer_without_a_coefficient_is_refused_where_others_have_one() -> None:
    own = {"steered": '{"scale": {coefficient}}', "last_layer": '{"scale": 1}'}
    with pytest.raises(ValueError, match="--last-layer has no"):
        settings_of("vllm", own)
    own["last_layer"] = own["steered"]
    assert settings_of("vllm", own)["last_layer"].has_coefficient


def test_both_forms_of_log_probabilities_are_read() -> None:
    old = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": [{"a": -1.0}, {}]}
    listed = [{"token": "a", "logprob": -1.0}, {"token": "c", "logprob": -3.0}]
    new = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": listed}]}
    parts = [
        {"choices": [{"index": 1, "text": "ab", "logprobs": old}]},
        {"choices": [{"index": 0, "message": {"content": "a"}, "logprobs": new}]},
    ]
    reply = reply_of(parts, {})
    assert reply.answers[0] == Answer("a", ("a",), ({"a": -1.0, "c": -3.0},))
    assert reply.answers[1] == Answer("ab", ("a", "b"), ({"a": -1.0}, {"b": -2.0}))


@pytest.mark.parametrize("content", [{}, {"choices": []}, {"choices": [3]}, {"error": "no"}])
def test_answers_of_another_form_are_refused_in_words(content: Any) -> None:
    with pytest.raises(BrokenError):
        reply_of([content], {})


def test_events_end_with_done_and_have_to_be_json() -> None:
    assert list(events(["", ": comment", 'data: {"a": 1}', "data: [DONE]", "data: {"])) == [
        {"a": 1}
    ]
    with pytest.raises(BrokenError, match="not JSON"):
        list(events(["data: {"]))


def test_an_answer_is_cut_at_tokens() -> None:
    whole = answer({"a": -1.0}, {"b": -2.0}, {"c": math.log(0.5)})
    assert whole.first(2).after(1) == answer({"b": -2.0})
