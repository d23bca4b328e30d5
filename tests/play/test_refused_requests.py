"""What cannot be answered ends that request alone, in words."""

import pytest
from plain_hooks import random_vector
from single_answers import PROMPTS, SOME, V, ids_of, single

from faststeer.play import Request, RequestError, Sampling, Use


@pytest.mark.parametrize("coefficient", [float("nan"), float("inf"), -float("inf")])
def test_a_coefficient_that_is_not_finite_is_refused_alone(batcher, coefficient) -> None:
    with pytest.raises(ValueError, match=r"coefficient of 'v' is .*; expected a finite number"):
        batcher.submit(Request("A", [Use(V, coefficient)]))
    assert batcher.submit(Request("A", max_new_tokens=2)).result()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("A" * 1000, max_new_tokens=64), "the model holds 1024 together"),
        (Request("A", max_new_tokens=0), "expected at least 1"),
        (Request("A", [Use(V, 1.0, mode="push")]), "mode 'push' is unknown"),
        (Request("A", [Use(V, 1.0, positions="odd")]), "positions='odd' is unknown"),
        (Request("A", [Use(V, 1.0), Use(V, 2.0)]), "given twice"),
        (Request("A", [Use(V, 1.0, when=0.5)]), "expected a faststeer.when"),
    ],
)
def test_an_invalid_request_is_refused_in_words(batcher, request_, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        batcher.submit(request_)


def test_an_empty_prompt_is_refused(batcher, byte_tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(type(byte_tokenizer), "__call__", lambda *a, **k: {"input_ids": []})
    with pytest.raises(ValueError, match="the prompt is empty"):
        batcher.submit(Request(""))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (Use(random_vector("foreign", [0], hidden=32), 1.0), "hidden size 32"),
        (Use(V, 1.0, layers=(1,)), "no direction for layer 1"),
        (Use(V, 1e39), "float32"),
        (Use(V, 1.0, (0,), when=SOME), "too late"),
    ],
)
def test_what_only_steering_finds_out_ends_that_request_alone(
    batcher, plain, byte_tokenizer, use, message
) -> None:
    good = Request(PROMPTS[0], [Use(V, 2.0)], max_new_tokens=5)
    bad, other = batcher.submit(Request("A", [use])), batcher.submit(good)
    with pytest.raises(RequestError, match=message):
        bad.result()
    assert ids_of(other.result()) == single(plain, byte_tokenizer, good)


def test_steering_that_overflows_ends_its_own_request(batcher, plain, byte_tokenizer) -> None:
    good = Request(PROMPTS[0], [Use(V, 2.0)], max_new_tokens=5)
    places = ("all", "prompt", "last")  # which add up to more than float32 holds
    uses = [Use(V, 3.3e38, layers=(0,), positions=own) for own in places]
    bad = batcher.submit(Request("A", uses))
    other = batcher.submit(good)
    with pytest.raises(RequestError, match="are not numbers"):
        bad.result()
    assert ids_of(other.result()) == single(plain, byte_tokenizer, good)


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_no_temperature_is_refused(temperature) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature)


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_no_generator_takes_is_refused(seed) -> None:
    with pytest.raises(ValueError, match="seed"):
        Sampling(0.7, 1.0, seed)
