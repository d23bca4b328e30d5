"""The demo's vectors have a far larger effect than random directions of their norm."""

import pytest

import faststeer
from faststeer.cli import demo_effects
from faststeer.data.shipped import SHIPPED, Behaviour, neutral_texts


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_vector_moves_the_margin_at_least_3_times_as_far_as_random(
    demo, figure, name
) -> None:
    behaviour = Behaviour.shipped(name)
    vector = faststeer.extract(
        demo.model,
        demo.tokenizer,
        behaviour.pairs,
        name=name,
        layers=behaviour.layer,
        progress=False,
    )
    randoms = demo_effects.random_directions(vector, demo_effects.RANDOM_DIRECTIONS)
    with faststeer.patch(demo.model) as patched:
        effects = demo_effects.measure_effects(demo, patched, behaviour, vector, randoms)
    figure(f"demo, {name}: {demo_effects.advantage(effects):.1f} times a random direction")
    assert demo_effects.advantage(effects) >= 3
    for effect in effects:
        assert abs(effect.shift) >= 3 * effect.random_shift
    margins = [effect.margin for effect in effects]
    assert margins == sorted(margins)
    assert len(set(margins)) == len(behaviour.coefficients)


@pytest.mark.parametrize("name", SHIPPED)
def test_held_out_prompts_are_not_among_the_pairs(name) -> None:
    behaviour = Behaviour.shipped(name)
    texts = {text for pair in behaviour.pairs for text in pair}
    assert len(texts) == 2 * len(behaviour.pairs) >= 48
    for held in behaviour.held_out:
        assert not any(held.prompt in text for text in texts)
    assert len(behaviour.held_out) >= 12
    assert not set(neutral_texts()) & texts
