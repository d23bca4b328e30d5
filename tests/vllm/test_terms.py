"""What a request may ask for, and the reasons with which anything else is refused."""

from __future__ import annotations

import json
import re

import pytest
from served import make_store

from faststeer import SteeringVector
from faststeer.vllm.request_checks import CHECKED_KEY, RequestChecks
from faststeer.vllm.terms import Term, parse_terms
from faststeer.vllm.vector_store import content_digest

STORE = make_store()


def test_what_is_left_out_is_what_the_vector_states() -> None:
    store = make_store()
    stated = store.vectors["three"].for_use(
        layers=[0, 3], coefficient=-2.0, mode="clamp", positions="generated"
    )
    store.put("three", stated)
    (term,) = parse_terms([{"vector": "three"}], store)
    assert term.coefficients == ((0, -2.0), (3, -2.0))
    assert term.mode == "clamp"
    assert str(term.positions) == "generated"
    (plain,) = parse_terms([{"vector": "one"}], store)
    assert plain.coefficients == ((1, 1.0),)
    assert plain.mode == "add"
    assert plain.positions is None


def test_a_json_string_means_the_same_as_the_list() -> None:
    given = [
        {"vector": "three", "coefficient": 2, "layers": {"0": 0.5, "3": -1}, "positions": "2:5"},
        {"vector": "mid", "mode": "project", "layers": 2, "keep_norm": True},
    ]
    terms = parse_terms(given, STORE)
    assert terms == parse_terms(json.dumps(given), STORE)
    assert terms[0].coefficients == ((0, 1.0), (3, -2.0))
    assert terms[1].coefficients == ((2, 1.0),)
    assert terms[1].site == "resid_mid"


def test_terms_survive_the_way_to_another_process() -> None:
    for positions in (
        "all",
        "prompt",
        "generated",
        "last",
        "from_last_prompt",
        "1:",
        "-3:0",
        "4:9",
        "first(5)",
    ):
        given = [{"vector": "three", "coefficient": 0.1, "mode": "clamp", "positions": positions}]
        (term,) = parse_terms(given, STORE)
        assert Term.from_wire(json.loads(json.dumps(term.to_wire()))) == term


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("[{", "not JSON"),
        ('"one"', "expected a list"),
        ("[" * 100_000, "not JSON"),
        ({"vector": "one"}, "expected a list"),
        (7, "expected a list"),
        (["one"], 'expected an object with "vector"'),
        ([{}], "vector None is unknown; this engine serves mid, one, three"),
        ([{"vector": "../one.safetensors"}], "is unknown; this engine serves"),
        ([{"vector": ["one"]}], "is unknown"),
        ([{"vector": "one", "coefficent": 1}], "coefficent is unknown; expected some of vector"),
        ([{"vector": "one", "coefficient": float("nan")}], "coefficient is nan"),
        ([{"vector": "one", "coefficient": 10**400}], "coefficient is inf"),
        ([{"vector": "one", "coefficient": 3e38, "layers": {"1": 2.0}}], "6e+38 times the vector"),
        ([{"vector": "one", "coefficient": 3.3e38}], "more than float32 can hold"),
        ([{"vector": "one", "coefficient": "2"}], "coefficient is a str"),
        ([{"vector": "one", "coefficient": True}], "coefficient is a bool"),
        ([{"vector": "one", "layers": 2}], "layer"),
        ([{"vector": "one", "layers": 99}], "layer 99 is out of range"),
        ([{"vector": "one", "layers": []}], "no layers were given"),
        ([{"vector": "one", "layers": ["x"]}], "expected numbers of layers"),
        ([{"vector": "one", "layers": 1.5}], "expected numbers of layers"),
        ([{"vector": "one", "layers": True}], "expected numbers of layers"),
        ([{"vector": "one", "layers": {"1": "a"}}], "factor of layer 1 is a str"),
        ([{"vector": "one", "mode": "multiply"}], "mode 'multiply' is unknown"),
        ([{"vector": "one", "mode": 3}], "mode is a int"),
        ([{"vector": "one", "positions": "middle"}], "positions is 'middle'; expected one of"),
        ([{"vector": "one", "positions": [0, 1]}], "a range as text"),
        ([{"vector": "one", "positions": "5:2"}], "positions is '5:2'"),
        ([{"vector": "one", "ceiling": -1, "floor": 1}], "the ceiling -1 is under the floor 1"),
        ([{"vector": "one", "ceiling": float("nan")}], "ceiling is nan; expected a finite number"),
        ([{"vector": "one", "floor": "3"}], "floor is a str; expected a number"),
        ([{"vector": "one", "floor": {"x": 3}}], "floor has 'x'; expected numbers of layers"),
        ([{"vector": "one", "floor": {"2": 3}}], "no direction for layer 2"),
        ([{"vector": "one", "mode": "cap"}], "a cap on 'one' needs a bound"),
        ([{"vector": "one", "mode": "add", "floor": 1}], "mode 'add' has no floor"),
        ([{"vector": "one", "floor": 1, "coefficient": 0.5}], "leave the coefficient at 1"),
        ([{"vector": "one", "positions": "first(0)"}], "markers and token ids are not available"),
        ([{"vector": "one", "positions": {"between": ["<", ">"]}}], "markers and token ids are no"),
        ([{"vector": "one", "when": {"above": 0}}], "when is not available in requests: condition"),
        ([{"vector": "one", "keep_norm": 1}], "keep_norm is 1; expected true or false"),
        ([{"vector": "one"}] * 257, "257 terms"),
    ],
)
def test_anything_else_is_refused_with_the_reason(given: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_terms(given, STORE)


def test_a_cap_is_a_term_per_bound_whose_coefficients_are_the_bounds() -> None:
    given = [{"vector": "three", "floor": -2, "ceiling": {"0": 1.5, "3": 2}, "keep_norm": True}]
    with pytest.raises(ValueError, match="ceiling names layer 0, and the layers to cap are"):
        parse_terms([given[0] | {"layers": 1}], STORE)
    floor, ceiling = parse_terms([given[0] | {"layers": [0, 3], "positions": "prompt"}], STORE)
    assert (floor.mode, floor.coefficients) == ("floor", ((0, -2.0), (3, -2.0)))
    assert (ceiling.mode, ceiling.coefficients) == ("ceiling", ((0, 1.5), (3, 2.0)))
    assert floor.keep_norm
    assert ceiling.keep_norm
    assert str(floor.positions) == str(ceiling.positions) == "prompt"
    store = make_store()
    store.put("three", store.vectors["three"].for_use(mode="add", coefficient=2.0, layers=[0]))
    [held] = parse_terms([{"vector": "three", "ceiling": 1.5, "layers": 0}], store)
    assert (held.mode, held.coefficients) == ("ceiling", ((0, 1.5),))
    stated = STORE.vectors["three"].for_use(mode="cap", ceiling={0: 1.5, 3: 2.0})
    store.put("three", stated)
    assert parse_terms([{"vector": "three", "keep_norm": True, "positions": "prompt"}], store) == [
        ceiling
    ]


def test_a_zero_cannot_be_projected_on() -> None:
    import torch

    store = make_store()
    store.put("zero", SteeringVector("zero", {1: torch.zeros(8)}))
    assert parse_terms([{"vector": "zero"}], store)
    with pytest.raises(ValueError, match="a zero cannot be normalised"):
        parse_terms([{"vector": "zero", "mode": "project"}], store)


def test_only_arguments_of_faststeer_are_looked_at() -> None:
    checks = RequestChecks(None, STORE)
    assert checks.checked(None, resumable=False) is None
    assert checks.checked({"other": 1}, resumable=False) is None
    found = checks.checked({"other": 1, "faststeer": [{"vector": "one"}]}, resumable=False)
    assert found is not None
    assert set(found) == {"other", CHECKED_KEY}
    with pytest.raises(ValueError, match="is not an argument of requests"):
        checks.checked({CHECKED_KEY: found[CHECKED_KEY]}, resumable=False)


def test_an_engine_without_vectors_refuses_requests_that_ask_for_them() -> None:
    with pytest.raises(
        ValueError, match="has no steering vectors: start it with FASTSTEER_VECTORS"
    ):
        RequestChecks(None, None).checked({"faststeer": [{"vector": "one"}]}, resumable=False)


def test_a_prompt_that_may_grow_takes_scopes_that_do_not_depend_on_it() -> None:
    checks = RequestChecks(None, STORE)
    assert checks.checked({"faststeer": [{"vector": "one"}]}, resumable=True)
    with pytest.raises(ValueError, match="may grow"):
        checks.checked({"faststeer": [{"vector": "one", "positions": "last"}]}, resumable=True)


def test_more_terms_than_fit_are_refused_where_they_meet(tmp_path) -> None:
    from faststeer.vllm.configuration import Configuration

    checks = RequestChecks(Configuration(tmp_path, terms=2), STORE)

    def room(*given: dict[str, object]) -> None:
        checks.require_room(checks.checked({"faststeer": list(given)}, resumable=False), 5)

    room({"vector": "one"}, {"vector": "three"})
    room({"vector": "one", "mode": "clamp", "positions": "prompt"}, {"vector": "mid"})
    # apart in time, or at other layers
    room(*[{"vector": "one", "positions": f"{n}:{n + 1}"} for n in range(9)])
    room({"vector": "one", "mode": "clamp"}, {"vector": "three", "layers": [0, 3]})
    with pytest.raises(
        ValueError, match="3 entries act on one token at resid_post of layer 1, and 2"
    ):
        room({"vector": "one", "mode": "clamp"}, {"vector": "three"})
    with pytest.raises(ValueError, match="4 entries"):
        room({"vector": "mid", "keep_norm": True}, {"vector": "mid", "keep_norm": True})


def test_positions_within_the_answer_are_refused_with_drafts() -> None:
    checks = RequestChecks(None, STORE)
    for positions in ("all", "prompt", "generated", "last", "0:3", "-2:"):
        given = checks.checked({"faststeer": [{"vector": "one", "positions": positions}]}, False)
        checks.require_known_positions(given, 5)
    given = checks.checked({"faststeer": [{"vector": "one", "positions": "0:9"}]}, False)
    with pytest.raises(ValueError, match="within the answer"):
        checks.require_known_positions(given, 5)


def test_digests_tell_contents_apart_and_nothing_else() -> None:
    vector = STORE.vectors["three"]
    renamed = SteeringVector("other", vector.directions, vector.site, {"note": 1})
    assert content_digest(renamed) == content_digest(vector)
    elsewhere = SteeringVector("three", vector.directions, "resid_mid")
    fewer = vector.select([0, 1])
    digests = {content_digest(own) for own in (vector, elsewhere, fewer, vector * 2.0)}
    assert len(digests) == 4
