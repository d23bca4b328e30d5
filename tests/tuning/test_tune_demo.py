"""Tuning on the real model: the demo's vector, and pairs that differ in more than was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run, write_pairs
from mismatched_pairs import PAIRS

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.data.shipped import Behaviour, prose_texts
from faststeer.data.trait_files import OpenPrompt, Trait
from faststeer.evaluate import perplexity, set_scores, token_scores_by_setting
from faststeer.models.loading import Loaded
from faststeer.vectors.random import random_like

NEUTRAL = prose_texts()[20:32]  # that tune does not see


def margin(loaded: Loaded, prompts: list[OpenPrompt]) -> float:
    found = set_scores(loaded.model, loaded.tokenizer, prompts)
    return float((found.log_positive - found.log_negative).mean())


def test_the_setting_found_does_at_least_as_much_as_the_demos_at_no_more_damage(
    demo: Loaded, figure
) -> None:
    behaviour = Behaviour.shipped("sentiment")
    prompts = [
        OpenPrompt(own.prompt, (own.positive,), (own.negative,)) for own in behaviour.held_out
    ]
    vector = faststeer.extract(
        demo.model, demo.tokenizer, behaviour.pairs, name="sentiment", progress=False
    )

    def kl(patched: faststeer.Patched, row: dict) -> float:
        _, [scores] = token_scores_by_setting(
            patched, demo.model, demo.tokenizer, NEUTRAL, [row], max_length=64
        )
        return scores.kl

    before = margin(demo, prompts)
    with faststeer.patch(demo.model) as patched:
        patched.steer(vector, 1.0, layers=behaviour.layer)
        spent, reached = kl(patched, {"sentiment": 1.0}), margin(demo, prompts) - before
    one, two = (
        faststeer.tune(
            demo.model,
            demo.tokenizer,
            behaviour,
            vector,
            kl=0.95 * spent,  # of other texts: the same damage there differs by a few per cent
            layers=range(18, 26),  # fewer, so that two runs take less time
            randoms=2,
            tried=2,
            seed=seed,
        )
        for seed in (0, 1)
    )
    with faststeer.patch(demo.model) as patched:
        own = one.vector
        patched.steer(own)
        tuned = margin(demo, prompts) - before
        damage = kl(patched, {"sentiment": own.metadata["coefficient"]})
    figure(f"tune: {tuned:.2f} nats at KL {damage:.3f}, the demo's {reached:.2f} at {spent:.3f}")
    assert reached > 1
    assert tuned >= 0.98 * reached
    assert damage <= 1.02 * spent
    (low, high), (other_low, other_high) = (
        own.chosen.effects["sentiment"].interval for own in (one, two)
    )
    assert low > 0
    assert max(low, other_low) < min(high, other_high)


@pytest.mark.thorough
def test_twenty_mismatched_pairs_end_in_a_setting_that_can_be_trusted(
    demo: Loaded, tmp_path: Path, figure
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    named = diagnostics.confounds(demo.model, demo.tokenizer, PAIRS)
    assert any("'.' in 20 of 20 texts, negatives in 0 of 20" in own for own in named)
    file = tmp_path / "formal.safetensors"
    printed = run(
        *("tune", "--model", "demo", "--pairs", pairs, "--match-endings", "--output", file),
        *("--figure", tmp_path / "front.png"),
    )
    assert "formal" in printed
    assert (tmp_path / "front.png").stat().st_size > 10_000
    vector = SteeringVector.load(file)
    prompts = list(Trait.shipped("formality").test)
    model, tokenizer = demo.model, demo.tokenizer
    before, prose = margin(demo, prompts), perplexity(model, tokenizer, NEUTRAL)
    with faststeer.patch(model) as patched:
        patched.steer(vector)
        moved = margin(demo, prompts) - before
        ratio = perplexity(model, tokenizer, NEUTRAL) / prose
        by_chance = []
        for seed in range(4):
            patched.clear()
            patched.steer(random_like(vector, seed), vector.metadata["coefficient"],
                          layers=vector.metadata["layers"])  # fmt: skip
            by_chance.append(abs(margin(demo, prompts) - before))
    times = moved / (sum(by_chance) / len(by_chance))
    figure(f"tuned of twenty pairs: {times:.1f} times random, perplexity {ratio:.2f} times")
    assert times >= 8
    assert ratio <= 1.25
    assert vector.metadata["tuned"]["interval"][0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one source"),
        (["--pairs", "x.jsonl", "--trait", "tense"], "give one source"),
        (["--trait", "no-such.json"], "no-such.json"),
        (["--objective", "nothing"], "expected module:function"),
        (["--objective", "no_such_module:f"], "there is no module 'no_such_module'"),
        (["--objective", "json:no_such"], "json has no function 'no_such'"),
        (["--trait", "tense", "--kl", "0"], "kl is 0"),
    ],
)
def test_options_that_fit_nothing_are_refused(
    tiny_folder: Path, tmp_path: Path, arguments, message
) -> None:
    given = ["tune", "--model", tiny_folder, "--output", tmp_path / "v.safetensors", *arguments]
    with pytest.raises(AssertionError, match=message):
        run(*given)
