"""Other families than LLaMA: biases, norms with a weight offset, layers that add themselves."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from engines import (
    Terms,
    ask,
    assert_differs,
    assert_equal,
    directions,
    expected,
    runner,
    save_all,
    tiny_engine,
    tokens_of,
)
from served_tiny import MakeServed
from tiny_families import MORE

from faststeer.utils.warnings import FaststeerWarning

FAMILIES = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Gemma3": MORE["Gemma3"] | {"head_dim": 32, "query_pre_attn_scalar": 32},
    "Granite": {
        "residual_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "attention_multiplier": 0.2,
    },
}
ADDS_ITSELF = {"Granite"}
SETTINGS: list[Terms] = [
    [{"vector": "one", "coefficient": 1.0}],
    [{"vector": "every", "coefficient": -0.5, "positions": "generated"}],
    [{"vector": "every", "mode": "project", "coefficient": 1.0}],
    [{"vector": "one", "mode": "clamp", "coefficient": 9.0, "positions": "prompt"}],
    [{"vector": "one", "coefficient": 1.0, "keep_norm": True}],
]


@pytest.mark.parametrize(
    "family",
    [
        own if own in ("Qwen2", "Gemma3") else pytest.param(own, marks=pytest.mark.heavy)
        for own in FAMILIES
    ],
)
def test_answers_of_a_family_equal_patch(family: str, serve_tiny: MakeServed) -> None:
    tiny = serve_tiny(family, **FAMILIES[family])
    adds_itself = family in ADDS_ITSELF
    warned = pytest.warns(FaststeerWarning, match="one more kernel at each of 4 layers")
    with (
        warned if adds_itself else nullcontext(),
        tiny_engine(tiny.folder, tiny.vectors_folder) as llm,
    ):
        found_sites = runner(llm).faststeer.found
        prompt = tokens_of(20)
        answers = ask(llm, [prompt] * len(SETTINGS), SETTINGS)
    kind = found_sites.outputs if adds_itself else found_sites.norms
    assert {site.layer for site in kind if site.kind == "resid_post"} == {0, 1, 2, 3}
    unsteered = expected(tiny.model, tiny.vectors, prompt, None)
    for found, terms in zip(answers, SETTINGS, strict=True):
        wanted = expected(tiny.model, tiny.vectors, prompt, terms)
        assert_differs(wanted, unsteered)
        assert_equal(found, wanted)


def test_site_that_a_family_lacks_is_refused(serve_tiny: MakeServed, tmp_path: Path) -> None:
    """Granite adds attention to the stream inside its layers, not in a norm."""
    tiny = serve_tiny("Granite")
    mid = {"mid": directions("mid", [2], 128, 8.0, "resid_mid")}
    with (
        pytest.raises(ValueError, match="can steer at resid_mid of layer 2"),
        tiny_engine(tiny.folder, save_all(mid, tmp_path)),
    ):
        pass


@pytest.mark.heavy
def test_family_whose_sums_are_not_found_is_refused(serve_tiny: MakeServed) -> None:
    """StableLM's layers add themselves, and return what they added to besides."""
    tiny = serve_tiny("StableLm")
    with (
        pytest.raises(ValueError, match=r"found no sum .* at resid_post of layer 0, resid_post of"),
        tiny_engine(tiny.folder, tiny.vectors_folder),
    ):
        pass
