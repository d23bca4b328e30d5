"""Adding vectors without an engine: leases of requests, and what happens when workers answer."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from served import HIDDEN, LAYERS, make_store

from faststeer import SteeringVector
from faststeer.vllm.configuration import Configuration
from faststeer.vllm.leases import LeasedTerms
from faststeer.vllm.request_checks import CHECKED_KEY, RequestChecks
from faststeer.vllm.serving import Addition, NoPlaceError, described
from faststeer.vllm.vector_store import VectorStore


def make_checks() -> tuple[RequestChecks, VectorStore]:
    store = make_store()
    return RequestChecks(Configuration(folder=None), store), store


def ones(*layers: int, hidden: int = HIDDEN, site: str = "resid_post") -> SteeringVector:
    return SteeringVector("ones", {layer: torch.ones(hidden) for layer in layers}, site)


def test_a_replaced_content_is_needed_while_terms_that_use_it_exist() -> None:
    checks, store = make_checks()
    digest = store.digests["one"]
    checked = checks.checked({"faststeer": [{"vector": "one"}]}, False)
    assert checked is not None
    store.put("one", ones(1))
    assert digest not in store.digests.values()
    assert digest in store.needed()
    del checked
    assert digest not in store.needed()


def test_a_copy_is_leased_for_as_long_as_it_exists() -> None:
    checks, store = make_checks()
    digest = store.digests["one"]
    checked = checks.checked({"faststeer": [{"vector": "one"}]}, False)
    copied = copy.deepcopy(checked)
    assert copied is not None
    checks.lease(copied)
    store.put("one", ones(1))
    del checked
    assert digest in store.needed()
    del copied
    assert digest not in store.needed()
    with pytest.raises(TypeError, match="expected LeasedTerms"):
        checks.lease({CHECKED_KEY: []})


def test_leased_terms_are_sent_as_a_list() -> None:
    terms = LeasedTerms([["digest", "resid_post", [[1, 2.0]], "add", False, "all"]])
    assert json.loads(json.dumps(terms)) == list(terms)


def test_the_store_names_a_vector_only_when_all_workers_have_it() -> None:
    store = make_store()
    before = described(store)
    addition = Addition(store, "new", ones(1))
    digest, content, needed = addition.message()
    assert SteeringVector.from_bytes(content)[1].tolist() == [1.0] * HIDDEN
    assert set(needed) == set(store.digests.values())
    assert described(store) == before
    assert not addition.settle(["", "all places are in use"])  # asks once more
    with pytest.raises(NoPlaceError, match="'new' has no place: all places are in use"):
        addition.settle(["", "all places are in use"])
    assert described(store) == before
    assert addition.settle(["", ""])
    assert store.digests["new"] == digest


def test_vectors_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    store = make_store()
    before = described(store)
    for vector, reason in (
        (ones(1, hidden=HIDDEN + 1), "hidden size 9, but the model's is 8"),
        (ones(LAYERS), "layer 4 is out of range, the model has 0 to 3"),
        (ones(0, site="resid_pre"), "does not steer"),
    ):
        with pytest.raises(ValueError, match=reason):
            Addition(store, "new", vector)
    assert described(store) == before


def test_norms_that_float32_cannot_square_are_described() -> None:
    store = make_store()
    store.put("large", SteeringVector("large", {1: torch.full((HIDDEN,), 1e38)}))
    assert described(store)["large"]["norms"] == [pytest.approx(1e38 * HIDDEN**0.5)]
