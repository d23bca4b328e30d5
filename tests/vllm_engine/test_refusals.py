"""A wrong request is refused with the reason, and the engine continues to answer others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from engines import Answer, ask, sampling, tiny_engine, tokens_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served_tiny import Tiny
from vllm import LLM
from vllm.exceptions import VLLMValidationError

from faststeer.vllm.request_checks import CHECKED_KEY
from faststeer.vllm.terms import Term, parse_terms
from faststeer.vllm.v032 import install

PROMPT = tokens_of(20)


def one(**more: Any) -> list[dict[str, Any]]:
    return [{"vector": "one", **more}]


# What is asked for, and what the reason has to name.
WRONG: dict[str, tuple[Any, str]] = {
    "unknown vector": ([{"vector": "nobody"}], "serves every, one, other"),
    "a path": ([{"vector": "../vectors/one.safetensors"}], "is unknown"),
    "no vector": ([{"coefficient": 1.0}], "vector None is unknown"),
    "layer of the model that the vector lacks": (one(layers=[2]), "2"),
    "layer beyond the model": (one(layers=[400]), "400"),
    "negative layer": (one(layers=[-1]), "-1"),
    "layer as a fraction": (one(layers=[1.5]), "1.5"),
    "layer as a boolean": (one(layers=[True]), "True"),
    "unknown mode": (one(mode="rotate"), "rotate"),
    "mode as a number": (one(mode=3), "expected a string"),
    "coefficient not a number": (one(coefficient=float("nan")), "nan"),
    "infinite coefficient": (one(coefficient=float("inf")), "inf"),
    "coefficient as text": (one(coefficient="large"), "coefficient"),
    "coefficient as a list": (one(coefficient=[1]), "coefficient"),
    "coefficient beyond float32": (one(coefficient=1e39), "float32"),
    "coefficient beyond float64": (
        f'[{{"vector": "one", "coefficient": 1{"0" * 400}}}]',
        "coefficient",
    ),
    "unknown scope": (one(positions="sometimes"), "sometimes"),
    "scope as a number": (one(positions=3), "3"),
    "empty range": (one(positions="5:5"), "5:5"),
    "kept norm as a number": (one(keep_norm=1), "true or false"),
    "unknown key": (one(strength=1), "strength is unknown"),
    "not JSON": ("[{", "not JSON"),
    "deep JSON": ("[" * 100_000, "not JSON"),
    "JSON of another kind": ('"one"', "expected a list"),
    "object": ({"vector": "one"}, "expected a list"),
    "number": (3, "expected a list"),
    "nothing": (None, "expected a list"),
    "list of names": (["one"], "expected an object"),
    "list of 257": (one() * 257, "at most 256"),
    "more than fit": (one() * 9, "9 entries act on one token at resid_post of layer 1"),
    "more clamps than fit": (one(mode="clamp") * 5, "10 entries"),
    "more kept norms than fit": (one(keep_norm=True) * 8, "and 8 fit"),
}


@pytest.fixture(scope="module")
def llm(tiny_llama: Tiny) -> Iterator[LLM]:
    options = {"enable_prefix_caching": False}
    with tiny_engine(tiny_llama.folder, tiny_llama.vectors_folder, **options) as started:
        yield started


@pytest.fixture(scope="module")
def before(llm: LLM) -> Answer:
    return ask(llm, [PROMPT], [one()])[0]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request_is_refused_and_others_are_answered(
    case: str, llm: LLM, before: Answer
) -> None:
    asked, reason = WRONG[case]
    params = sampling(extra_args={"faststeer": asked})
    with pytest.raises(VLLMValidationError, match=r"^faststeer: ") as refused:
        llm.generate([{"prompt_token_ids": PROMPT}], params, use_tqdm=False)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert ask(llm, [PROMPT], [one()])[0] == before


def test_as_many_terms_as_fit_are_answered(llm: LLM, before: Answer) -> None:
    eighths = one(coefficient=0.125) * 8
    [found] = ask(llm, [PROMPT], [eighths])
    assert found.tokens == before.tokens
    separate = [*one(positions="prompt") * 8, *one(positions="generated") * 8]
    assert len(ask(llm, [PROMPT], [separate])[0].tokens) == 8


def test_wrong_request_among_right_ones_leaves_none_behind(llm: LLM, before: Answer) -> None:
    params = [sampling(one()), sampling(one(mode="rotate"))]
    with pytest.raises(VLLMValidationError, match="rotate"):
        llm.generate([{"prompt_token_ids": PROMPT}] * 2, params, use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()
    assert ask(llm, [PROMPT], [one()])[0] == before


def test_json_text_is_read_as_the_list(llm: LLM, before: Answer) -> None:
    params = sampling(extra_args={"faststeer": json.dumps(one())})
    [output] = llm.generate([{"prompt_token_ids": PROMPT}], params, use_tqdm=False)
    assert list(output.outputs[0].token_ids) == before.tokens


def test_request_cannot_bring_terms_that_were_not_checked(llm: LLM) -> None:
    params = sampling(extra_args={CHECKED_KEY: [["0" * 32, "resid_post", [[1, 1.0]]]]})
    with pytest.raises(VLLMValidationError, match="is not an argument of requests"):
        llm.generate([{"prompt_token_ids": PROMPT}], params, use_tqdm=False)


KEYS = st.sampled_from(["vector", "coefficient", "layers", "mode", "positions", "keep_norm", "x"])
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["one", "every", "add", "clamp", "all", "0:5", "-3:0", ":", "1e400", 10**500]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=6)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
TERMS = st.lists(
    st.fixed_dictionaries(
        {"vector": st.just("every")},
        optional=dict.fromkeys(("coefficient", "layers", "mode", "positions", "keep_norm"), ODD),
    ),
    max_size=3,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=ODD | TERMS)
def test_any_value_is_terms_or_a_reason(asked: object, llm: LLM) -> None:
    store = llm.llm_engine.input_processor.faststeer.store
    reasons: list[str] = []
    for given_value in (asked, json.dumps(asked)):
        try:
            terms = parse_terms(given_value, store)
        except ValueError as error:
            reasons.append(str(error))
            continue
        sent = json.loads(json.dumps([own.to_wire() for own in terms]))
        assert [Term.from_wire(own) for own in sent] == terms
    assert all(reasons)


def test_private_names_with_other_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_SIGNATURES", [(len, "self other")])
    with pytest.raises(RuntimeError, match="with the parameters self other, and this one has obj"):
        install.install.__wrapped__()  # once more: it is done once per process
