"""Activations that overflow are refused by layer, site and dtype, whatever their use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import ByteTokenizer, MakeTiny

import faststeer
from faststeer import diagnostics
from faststeer.extraction.methods import METHODS

TEXTS = ["some text", "a longer text", "and a third one"]
PAIRS = [("I love it", "I hate it"), ("so good", "so bad"), ("yes", "no")]
MESSAGE = "resid_post of layer 2 is infinite or NaN in float16, first at "
MEND = "load the model in bfloat16 or float32, or read layers below"

Make = Callable[[str], Any]


@pytest.fixture(params=["Llama", "Gemma3"])
def overflowing(request: pytest.FixtureRequest, make_tiny: MakeTiny) -> Any:
    """Return a model that adds more at layer 2 than float16 can hold."""
    more = {"head_dim": 16} if request.param == "Gemma3" else {}
    model = make_tiny(dtype=torch.float16, family=request.param, **more)
    layer = model.model.layers[2]
    with torch.no_grad():
        layer.mlp.down_proj.weight.fill_(60000.0)
        if request.param == "Gemma3":
            layer.post_feedforward_layernorm.weight.fill_(60000.0)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_refuses_activations_that_overflow(
    method: str, overflowing: Any, byte_tokenizer: ByteTokenizer
) -> None:
    given: dict[str, Any] = {"pairs": PAIRS}
    if not METHODS[method].takes_pairs:
        given = {"positive": TEXTS, "negative": TEXTS[::-1]}
    options: dict[str, Any] = {"method": method, "progress": False}
    with pytest.raises(ValueError, match=re.escape(MESSAGE)) as caught:
        faststeer.extract(overflowing, byte_tokenizer, **given, **options)
    assert MEND in str(caught.value)
    below = faststeer.extract(overflowing, byte_tokenizer, **given, **options, layers=[0, 1])
    assert all(own.isfinite().all() for own in below.directions.values())


@pytest.mark.parametrize("read_token", [-1, "all"])
def test_activations_that_overflow_are_refused_with_the_text(
    read_token: Any, overflowing: Any, byte_tokenizer: ByteTokenizer
) -> None:
    with pytest.raises(ValueError, match=re.escape(MESSAGE) + "text [012]: "):
        faststeer.activations(
            overflowing, byte_tokenizer, TEXTS, read_token=read_token, progress=False
        )


def test_functions_that_read_every_token_refuse_activations_that_overflow(
    overflowing: Any, byte_tokenizer: ByteTokenizer
) -> None:
    vector = faststeer.SteeringVector("v", {2: torch.ones(64)})
    for call in (
        lambda: faststeer.act_add(
            overflowing, byte_tokenizer, "Love", "Hate", layer=2, site="resid_post"
        ),
        lambda: diagnostics.residual_norms(overflowing, byte_tokenizer, TEXTS),
        lambda: diagnostics.project_tokens(overflowing, byte_tokenizer, vector, TEXTS),
        lambda: diagnostics.separability(
            overflowing, byte_tokenizer, vector, PAIRS, progress=False
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(MESSAGE)):
            call()


def test_steering_that_overflows_is_refused_and_the_unsteered_model_is_not(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer
) -> None:
    model = make_tiny(dtype=torch.float16)
    strong = faststeer.SteeringVector("v", {1: torch.full((64,), 60000.0)})
    with faststeer.patch(model) as patched:
        patched.steer(strong, 2.0)
        with pytest.raises(ValueError, match="resid_post of layer 1 is infinite or NaN in float16"):
            faststeer.activations(model, byte_tokenizer, TEXTS, progress=False)
        with patched.off():
            found = faststeer.activations(model, byte_tokenizer, TEXTS, progress=False)
    assert found.isfinite().all()
