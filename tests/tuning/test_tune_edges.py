"""Tuning at its edges: what it refuses, what it warns of, and what must not change it."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from plain_hooks import random_vector
from renamed_arguments import enable_checkpointing
from tuned_items import OTHERS, PROMPTS, SIZES, steered_margins

import faststeer
from faststeer import FaststeerWarning, SteeringVector
from faststeer.data.trait_files import OpenPrompt
from faststeer.diagnostics.tuning.parts import halves


@pytest.fixture
def vector() -> SteeringVector:
    return random_vector("v", layers=(0, 1, 2, 3), seed=1)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"items": PROMPTS[:3]}, ValueError, "got 3 items to tune on; at least 4"),
        ({"items": "text"}, TypeError, "items are a str"),
        ({"items": 3}, TypeError, "items are a int"),
        ({"items": PROMPTS, "vector": None}, ValueError, "give one for prompts"),
        ({"items": lambda m, t: None, "vector": None}, ValueError, "makes no vector"),
        ({"items": {"a": PROMPTS}}, TypeError, r"vector= is expected to be \{name: vector\}"),
        ({"vector": [1]}, TypeError, "vector is a list"),
        ({"texts": ["one", "two"]}, ValueError, "2 texts; at least 4"),
        ({"kl": -1.0}, ValueError, "kl is -1; expected"),
        ({"tried": 0}, ValueError, "tried is 0"),
        ({"layers": 9}, ValueError, "layer 9"),
        ({"layer": 2}, TypeError, "layers"),
        ({"vector": random_vector("p", (1,)).for_use(mode="project")}, ValueError, "'project'"),
        ({"vector": random_vector("p", (1,), hidden=32)}, ValueError, "hidden size"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused(
    tiny_model, byte_tokenizer, vector, changed, error, message
) -> None:
    given = {"items": PROMPTS, "vector": vector, **SIZES, **changed}
    with pytest.raises(error, match=message):
        faststeer.tune(tiny_model, byte_tokenizer, **given)
    assert not hasattr(tiny_model.model.layers[0], "residual_stream")


def test_vectors_of_one_name_are_told_apart_by_the_names_of_their_items(
    tiny_model, byte_tokenizer
) -> None:
    vectors = {key: random_vector("same", layers=(1, 2), seed=n) for n, key in enumerate("ab")}
    items = {"a": PROMPTS, "b": OTHERS}
    found = faststeer.tune(tiny_model, byte_tokenizer, items, vectors, kl=0.05, **SIZES)
    assert [own.name for own in found.vectors] == ["a", "b"]
    for name, prompts in items.items():
        moved = steered_margins(
            tiny_model, byte_tokenizer, list(found.vectors), halves(prompts, 0)[1]
        )
        assert float(moved.mean()) == pytest.approx(found.chosen.effects[name].mean, abs=1e-4)


@pytest.mark.parametrize("disabled", [torch.no_grad, torch.inference_mode])
def test_what_the_caller_set_does_not_matter_and_stays(
    make_tiny, byte_tokenizer, vector, disabled
) -> None:
    plain = faststeer.tune(make_tiny(), byte_tokenizer, PROMPTS, vector, **SIZES)
    model = make_tiny(attention_dropout=0.5).train()
    model.model.layers[1].eval()
    enable_checkpointing(model, {})
    with disabled():
        found = faststeer.tune(model, byte_tokenizer, PROMPTS, vector, **SIZES)
    assert found.to_records() == plain.to_records()
    assert model.training
    assert not model.model.layers[1].training


def test_random_directions_that_do_nothing_are_no_error(tiny_model, byte_tokenizer, vector) -> None:
    def constant(model, tokenizer) -> torch.Tensor:
        return torch.ones(6)

    with pytest.warns(FaststeerWarning, match="cannot be told from none"):
        found = faststeer.tune(tiny_model, byte_tokenizer, constant, vector, **SIZES)
    assert math.isinf(found.times_random("v"))


def test_an_effect_against_what_was_asked_is_said(tiny_model, byte_tokenizer) -> None:
    prompts = [OpenPrompt(f"so {n}", (" a",), (" b",)) for n in range(12)]
    for seed in range(6):
        vector = random_vector("v", layers=(1, 2), seed=seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = faststeer.tune(tiny_model, byte_tokenizer, prompts, vector, kl=0.001, **SIZES)
        said = "\n".join(str(own.message) for own in caught)
        low, high = found.chosen.effects["v"].interval
        assert ("cannot be told from none" in said) == (low <= 0 <= high)
        assert ("the opposite of what is asked" in said) == (high < 0)


def test_scores_that_break_at_strong_settings_are_not_chosen(
    tiny_model, byte_tokenizer, vector
) -> None:
    with torch.inference_mode():
        before = tiny_model(torch.tensor([[1, 2, 3]])).logits[0, -1, :8]

    def breaks(model, tokenizer) -> torch.Tensor:
        logits = model(torch.tensor([[1, 2, 3]])).logits[0, -1, :8]
        far = (logits - before).abs().max() > most
        return torch.where(far, torch.nan, logits)

    most = 1.0
    found = faststeer.tune(tiny_model, byte_tokenizer, breaks, vector, kl=0.2, **SIZES)
    assert math.isfinite(found.chosen.effects["v"].mean)
    assert any(math.isnan(own.effects["v"].mean) for own in found.trials)
    most = 1e-6
    with pytest.raises(ValueError, match="not finite at any setting of the budget"):
        faststeer.tune(tiny_model, byte_tokenizer, breaks, vector, kl=0.2, **SIZES)


def test_a_direction_of_zeros_beside_others(tiny_model, byte_tokenizer) -> None:
    directions = {n: torch.zeros(64) for n in (0, 1, 3)} | random_vector("v", (2,)).directions
    vector = SteeringVector("v", directions)
    sizes = {**SIZES, "tried": 4}
    found = faststeer.tune(
        tiny_model, byte_tokenizer, PROMPTS, vector, layers="all", max_layers=2, **sizes
    )
    assert math.isfinite(found.chosen.effects["v"].mean)
    assert len(found.vector.metadata["layers"]) == 2


def test_equal_items_are_in_one_half() -> None:
    first, second = halves([*PROMPTS, *PROMPTS], 0)
    assert not {own.prompt for own in first} & {own.prompt for own in second}
    assert len(first) + len(second) == len(PROMPTS)


def test_generated_tokens_are_measured_at_all_with_one_warning(
    tiny_model, byte_tokenizer, vector
) -> None:
    generated = vector.for_use(positions="generated")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, generated, **SIZES)
    messages = [str(own.message) for own in caught if "generated" in str(own.message)]
    assert len(messages) == 1
    assert "measured at all tokens" in messages[0]
    assert found.vector.metadata["positions"] == "generated"
    everywhere = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, **SIZES)
    assert found.to_records() == everywhere.to_records()


def test_other_steering_that_would_disturb_is_refused(tiny_model, byte_tokenizer, vector) -> None:
    patched = faststeer.patch(tiny_model)
    with patched.off(), pytest.raises(ValueError, match=r"within patched\.off\(\)"):
        faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, **SIZES)
    patched.steer(vector, name="mine")
    with patched.rows([{}]), pytest.raises(ValueError, match=r"outside of patched\.rows\(\)"):
        faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, **SIZES)
    learned = patched.learn(vector, name="trained")
    with pytest.raises(ValueError, match=r"\['trained'\] of patched.learn\(\)"):
        faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, **SIZES)
    learned.remove()
