"""The OpenAI server with the plugin, asked by the `openai` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from engine_server import served
from engines import Answer, Terms, assert_differs, assert_equal, directions, expected, save_all

import faststeer
from faststeer.models.loading import Loaded, demo_folder

VECTORS = {"one": directions("one", [11], 576, 20.0), "all": directions("all", range(30), 576, 4.0)}
STEERED: Terms = [{"vector": "one", "coefficient": 4.0}]
SETTINGS: dict[str, Terms | None] = {
    "unsteered": None,
    "all tokens": STEERED,
    "generated": [{"vector": "one", "coefficient": 4.0, "positions": "generated"}],
    "prompt": [{"vector": "all", "coefficient": 1.0, "positions": "prompt"}],
}
PROMPT = "The history of the sea is"
MESSAGES: Any = [{"role": "user", "content": "What is the sea?"}]
TOKENS = 8


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    base = tmp_path_factory.mktemp("server")
    (base / "vectors").mkdir()
    own = {"faststeer": {"vectors": str(save_all(VECTORS, base / "vectors"))}}
    with served(demo_folder(), base / "log", additional_config=own) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


def xargs(terms: Any) -> dict[str, Any]:
    """Return the body's part that steers: terms as JSON text."""
    if terms is None:
        return {}
    return {"vllm_xargs": {"faststeer": terms if isinstance(terms, str) else json.dumps(terms)}}


def body(terms: Any, **more: Any) -> dict[str, Any]:
    return {"extra_body": {"ignore_eos": True, "return_token_ids": True, **xargs(terms), **more}}


def complete(client: openai.OpenAI, terms: Any, **options: Any) -> Any:
    more = options.pop("body", {})
    settings = {"model": "model", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    return client.completions.create(**settings | options, logprobs=1, **body(terms, **more))


@pytest.fixture(scope="module")
def ids(demo: Loaded) -> list[int]:
    return demo.tokenizer(PROMPT)["input_ids"]


@pytest.fixture(scope="module")
def unsteered(demo: Loaded, ids: list[int]) -> Answer:
    return expected(demo.model, VECTORS, ids, None, TOKENS)


@pytest.mark.parametrize("case", SETTINGS)
def test_completion_equals_patch(
    case: str, client: openai.OpenAI, demo: Loaded, ids: list[int], unsteered: Answer
) -> None:
    [choice] = complete(client, SETTINGS[case]).choices
    wanted = expected(demo.model, VECTORS, ids, SETTINGS[case], TOKENS)
    if SETTINGS[case]:
        assert_differs(wanted, unsteered)
    assert_equal(Answer(choice.token_ids, choice.logprobs.token_logprobs), wanted)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_equals_patch(stream: bool, client: openai.OpenAI, demo: Loaded) -> None:
    template = demo.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    prompt = template["input_ids"] if hasattr(template, "keys") else template
    wanted = expected(demo.model, VECTORS, prompt, STEERED, TOKENS)
    assert_differs(wanted, expected(demo.model, VECTORS, prompt, None, TOKENS))
    settings: Any = {"model": "model", "messages": MESSAGES, "max_tokens": TOKENS}
    settings |= {"temperature": 0, "logprobs": True, "stream": stream, **body(STEERED)}
    answer = client.chat.completions.create(**settings)
    choices = [own for part in answer for own in part.choices] if stream else answer.choices
    tokens: list[int] = []
    logprobs: list[float] = []
    for choice in choices:
        tokens += getattr(choice, "token_ids", None) or []
        logprobs += [own.logprob for own in choice.logprobs.content] if choice.logprobs else []
    assert_equal(Answer(tokens, logprobs), wanted)


def test_streamed_samples_are_all_steered(
    client: openai.OpenAI, demo: Loaded, ids: list[int]
) -> None:
    stream = complete(client, STEERED, n=2, temperature=1.0, seed=3, stream=True)
    answers = [Answer([], []), Answer([], [])]
    for choice in (own for part in stream for own in part.choices):
        answers[choice.index].tokens.extend(choice.token_ids or [])
        answers[choice.index].logprobs.extend(choice.logprobs.token_logprobs)
    assert answers[0].tokens != answers[1].tokens
    with faststeer.patch(demo.model) as patched, torch.no_grad():
        for coefficient, compare in ((4.0, assert_equal), (0.0, assert_differs)):
            patched.steer(VECTORS["one"], coefficient, name="one")
            for own in answers:
                logits = demo.model(torch.tensor([ids + own.tokens])).logits[0, len(ids) - 1 : -1]
                rows = zip(logits.log_softmax(-1), own.tokens, strict=True)
                compare(own, Answer(own.tokens, [float(row[token]) for row, token in rows]))


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ([{"vector": "nobody"}], "vector 'nobody' is unknown; this engine serves all, one"),
        ([{"vector": "one", "layers": [12]}], "12"),
        ([{"vector": "one", "layers": ["x"]}], "'x'"),
        ([{"vector": "one", "mode": "rotate"}], "rotate"),
        ('[{"vector": "one", "coefficient": NaN}]', "nan"),
        ('[{"vector": "one", "coefficient": 1e999}]', "inf"),
        (STEERED * 9, "9 entries act on one token at resid_post of layer 11, and 8 fit"),
        ("one", "it is not JSON"),
        ("3", "expected a list"),
    ],
)
def test_wrong_terms_are_a_bad_request_with_the_reason(
    terms: Any, reason: str, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, terms)
    assert refused.value.status_code == 400
    assert reason in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="model", messages=MESSAGES, **body(terms))
    assert reason in refused.value.message


def test_beam_search_is_refused_only_with_steering(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not steer beam search"):
        complete(client, STEERED, n=2, body={"use_beam_search": True})
    with pytest.raises(openai.BadRequestError, match="does not steer beam search"):
        client.chat.completions.create(
            model="model", messages=MESSAGES, n=2, **body(STEERED, use_beam_search=True)
        )
    assert len(complete(client, None, n=2, body={"use_beam_search": True}).choices) == 2


def test_server_answers_after_all_of_it(
    client: openai.OpenAI, demo: Loaded, ids: list[int]
) -> None:
    [choice] = complete(client, STEERED).choices
    wanted = expected(demo.model, VECTORS, ids, STEERED, TOKENS)
    assert_equal(Answer(choice.token_ids, choice.logprobs.token_logprobs), wanted)
