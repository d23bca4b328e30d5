"""Tuning whole: what the result says is what steering with it does."""

from __future__ import annotations

import math

import pytest
import torch
from plain_hooks import random_vector
from slow_scores import divergences, token_by_token
from tuned_items import OTHERS, PAIRS, PROMPTS, SIZES, TEXTS, steered_margins

import faststeer
from faststeer import FaststeerWarning, SteeringVector
from faststeer.data.trait_files import OpenPrompt
from faststeer.diagnostics.tuning import sources
from faststeer.diagnostics.tuning.objectives import PairItems
from faststeer.diagnostics.tuning.parts import halves
from faststeer.diagnostics.tuning.result import Tuned


@pytest.fixture
def vector() -> SteeringVector:
    return random_vector("v", layers=(0, 1, 2, 3), seed=1)


def test_the_result_says_what_the_stated_setting_does(
    tiny_model, make_tiny, byte_tokenizer, vector
) -> None:
    found = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, kl=0.02, seed=3, **SIZES)
    _, measured_on = halves(PROMPTS, 3)
    own = found.vector
    assert own.metadata["layers"] == [next(iter(found.chosen.steering["v"]))]
    moved = steered_margins(tiny_model, byte_tokenizer, [own], measured_on)
    effect = found.chosen.effects["v"]
    assert abs(effect.mean) > 0.01  # what follows would also hold of zeros
    assert float(moved.mean()) == pytest.approx(effect.mean, abs=1e-4)
    assert effect.interval[0] <= effect.mean <= effect.interval[1]
    texts = [text for n, text in enumerate(TEXTS) if n % 3]
    rows = [list(byte_tokenizer(text)["input_ids"])[:64] for text in texts]
    plain, steered = make_tiny(), tiny_model
    with faststeer.patch(steered) as patched:
        patched.steer(own)
        tokens = sum(len(row) - 1 for row in rows)
        kl = sum(divergences(plain, steered, rows)) / tokens
        after = token_by_token(steered, rows)
    before = token_by_token(plain, rows)
    surprise = [sum(one["surprise"] for one in scores) / tokens for scores in (before, after)]
    assert found.chosen.damage.kl == pytest.approx(kl, rel=1e-3)
    assert found.chosen.damage.perplexity == pytest.approx(
        math.exp(surprise[1] - surprise[0]), rel=1e-3
    )


@pytest.mark.parametrize(("kl", "opposite"), [(0.01, False), (0.05, True)])
def test_the_choice_keeps_to_the_budget_and_goes_the_way_that_is_asked(
    tiny_model, make_tiny, byte_tokenizer, vector, kl, opposite
) -> None:
    chosen_on = TEXTS[::3]
    found = faststeer.tune(
        tiny_model, byte_tokenizer, PROMPTS, vector, kl=kl, opposite=opposite, **SIZES
    )
    [(layer, coefficient)] = found.chosen.steering["v"].items()
    assert (coefficient < 0) == opposite
    rows = [list(byte_tokenizer(text)["input_ids"])[:64] for text in chosen_on]
    with faststeer.patch(tiny_model) as patched:
        patched.steer(vector, coefficient, layers=layer)
        tokens = sum(len(row) - 1 for row in rows)
        spent = sum(divergences(make_tiny(), tiny_model, rows)) / tokens
    assert 0.1 * kl <= spent <= 1.001 * kl


def test_the_layer_of_a_known_vector_is_found(tiny_model, byte_tokenizer) -> None:
    """Of three random directions and the gradient's own at layer 2, the last does most."""
    patched = faststeer.patch(tiny_model)
    learned = patched.learn(SteeringVector("zero", {2: torch.zeros(64)}), 1.0)
    logits = tiny_model(torch.tensor([list(byte_tokenizer("and then 3")["input_ids"])])).logits
    (logits[0, -1, ord(" ")] - logits[0, -1].logsumexp(-1)).backward()
    gradient = learned.directions["2"].grad
    learned.remove()
    patched.unpatch()
    prompts = [OpenPrompt(f"and then {n}", (" ",), ("c", "d", "e")) for n in range(12)]
    directions = random_vector("v", layers=(0, 1, 3), seed=5).directions
    vector = SteeringVector("v", {**directions, 2: gradient / gradient.norm()})
    found = faststeer.tune(
        tiny_model, byte_tokenizer, prompts, vector, layers="all", kl=0.02, **SIZES
    )
    assert list(found.chosen.steering["v"]) == [2]
    assert found.times_random("v") > 2


def test_several_vectors_share_a_budget(tiny_model, make_tiny, byte_tokenizer) -> None:
    vectors = {
        "v": random_vector("v", layers=(1, 2), seed=1),
        "w": random_vector("w", layers=(2, 3), seed=2),
    }
    items = {"v": PROMPTS, "w": OTHERS}
    found = faststeer.tune(tiny_model, byte_tokenizer, items, vectors, kl=0.05, **SIZES)
    assert [own.name for own in found.vectors] == ["v", "w"]
    assert all("together_with" in own.metadata["tuned"] for own in found.vectors)
    for name, prompts in items.items():
        _, measured_on = halves(prompts, 0)
        moved = steered_margins(tiny_model, byte_tokenizer, list(found.vectors), measured_on)
        assert float(moved.mean()) == pytest.approx(found.chosen.effects[name].mean, abs=1e-4)
    rows = [list(byte_tokenizer(text)["input_ids"])[:64] for text in TEXTS[::3]]
    with faststeer.patch(tiny_model) as patched:
        for own in found.vectors:
            patched.steer(own)
        tokens = sum(len(row) - 1 for row in rows)
        assert sum(divergences(make_tiny(), tiny_model, rows)) / tokens <= 0.05 * 1.001
    with pytest.raises(ValueError, match="2 vectors were tuned together"):
        _ = found.vector


def test_several_layers_of_one_vector(tiny_model, byte_tokenizer, vector) -> None:
    found = faststeer.tune(
        tiny_model, byte_tokenizer, PROMPTS, vector, layers="all", max_layers=2, kl=0.05, **SIZES
    )
    own = found.vector
    assert len(own.metadata["layers"]) == 2
    assert own.metadata["coefficient"] == 1.0
    moved = steered_margins(tiny_model, byte_tokenizer, [own], halves(PROMPTS, 0)[1])
    assert float(moved.mean()) == pytest.approx(found.chosen.effects["v"].mean, abs=1e-4)


def test_each_half_of_the_pairs_is_measured_under_the_vector_of_the_other_half(
    tiny_model, byte_tokenizer, monkeypatch
) -> None:
    made: list[tuple[list[tuple[str, str]], SteeringVector]] = []

    def noted(model, tokenizer, pairs, **options):
        vector = faststeer.extract(model, tokenizer, pairs, **options)
        made.append((list(pairs), vector))
        return vector

    monkeypatch.setattr(sources, "extract", noted)
    reader = sources.Reader(tiny_model, byte_tokenizer, {}, None, 0, 64, False)
    tuning = reader.tuning("v", None, PAIRS)
    by_vector = {id(vector): pairs for pairs, vector in made}
    first, second = halves(PAIRS, 0)
    assert by_vector[id(tuning.for_choosing)] == first
    assert by_vector[id(tuning.for_measuring)] == second
    assert sorted(by_vector[id(tuning.vector)]) == sorted(PAIRS)
    texts = [tuple(byte_tokenizer(t)["input_ids"]) for pair in first for t in pair]
    assert isinstance(tuning.measuring, PairItems)
    assert [tuple(row) for row in tuning.measuring.texts.rows] == texts


def test_a_vector_is_made_of_pairs(tiny_model, byte_tokenizer) -> None:
    found = faststeer.tune(tiny_model, byte_tokenizer, PAIRS, kl=0.05, layers="all", **SIZES)
    expected = faststeer.extract(tiny_model, byte_tokenizer, PAIRS, progress=False)
    layer = found.vector.metadata["layers"][0]
    torch.testing.assert_close(found.vector.directions[layer], expected.directions[layer])
    assert found.vector.metadata["method"] == "mean_difference"
    assert found.units == {"vector": "nats per token"}


def test_a_function_of_ones_own(tiny_model, byte_tokenizer, vector) -> None:
    def exclaims(model, tokenizer) -> torch.Tensor:
        ids = torch.tensor([list(tokenizer(f"so {n}")["input_ids"]) for n in range(6)])
        return model(ids).logits[:, -1].log_softmax(-1)[:, ord("!")]

    found = faststeer.tune(tiny_model, byte_tokenizer, exclaims, vector, kl=0.05, **SIZES)
    chosen = found.vector
    with torch.inference_mode():
        before = exclaims(tiny_model, byte_tokenizer)
        with faststeer.patch(tiny_model) as patched:
            patched.steer(chosen)
            moved = exclaims(tiny_model, byte_tokenizer) - before
    _, measured_on = halves(range(6), 0)
    expected = float(moved[measured_on].mean())
    assert abs(expected) > 1e-3
    assert found.chosen.effects["v"].mean == pytest.approx(expected, abs=1e-4)
    assert found.items == {"v": "3 items of exclaims"}


def test_a_vector_of_other_positions_has_no_gradients_and_is_measured(
    tiny_model, byte_tokenizer, vector
) -> None:
    last = vector.for_use(positions="last")
    with pytest.warns(FaststeerWarning, match="neutral texts hardly change.*positions last"):
        found = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, last, kl=0.01, **SIZES)
    assert found.chosen.dose <= 1.0001
    moved = steered_margins(tiny_model, byte_tokenizer, [found.vector], halves(PROMPTS, 0)[1])
    assert float(moved.mean()) == pytest.approx(found.chosen.effects["v"].mean, abs=1e-4)
    everywhere = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, kl=0.01, **SIZES)
    assert found.chosen.steering != everywhere.chosen.steering


def test_equal_seeds_give_equal_results_and_nothing_stays_on_the_model(
    tiny_model, byte_tokenizer, vector
) -> None:
    ids = torch.arange(8)[None]
    before = tiny_model(ids).logits
    one, two = (
        faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, seed=5, **SIZES)
        for _ in range(2)
    )
    assert one.to_records() == two.to_records()
    assert not isinstance(tiny_model.model.layers[0].forward.__self__, faststeer.Patched)
    assert torch.equal(tiny_model(ids).logits, before)
    patched = faststeer.patch(tiny_model)
    handle = patched.steer(vector, 3.0, layers=1, name="mine")
    beside = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, seed=5, **SIZES)
    assert [own.name for own in patched.handles] == ["mine"]
    assert handle.coefficient == 3.0
    assert beside.chosen.effects["v"].mean == pytest.approx(one.chosen.effects["v"].mean, abs=1e-5)


def test_records_text_and_picture(tiny_model, byte_tokenizer, vector, tmp_path) -> None:
    found = faststeer.tune(tiny_model, byte_tokenizer, PROMPTS, vector, **SIZES)
    kinds = [row["kind"] for row in found.to_records()]
    assert kinds.count("chosen") == 1
    assert kinds.count("front") == 5
    assert kinds.count("random") == 3
    assert kinds.count("other layer") == 1
    factors = [own.factor for own in found.of_kind("front", "chosen")]
    assert factors == sorted(factors)
    assert "times random directions'" in repr(found)
    assert "KL at most 0.1 nats" in repr(found)
    assert isinstance(found, Tuned)
    found.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    path = tmp_path / "v.safetensors"
    found.vector.save(path)
    loaded = SteeringVector.load(path)
    assert loaded.metadata["tuned"]["effect"] == found.chosen.effects["v"].mean
    assert loaded.metadata["layers"] == found.vector.metadata["layers"]
