"""`faststeer demo`: two vectors made, seen at work, measured and saved, in about a minute."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.bench.phases import decode
from faststeer.bench.run import Settings
from faststeer.bench.variants import hooked_twin, steered_twin
from faststeer.data.shipped import SHIPPED, Behaviour, neutral_texts
from faststeer.evaluate.likelihood import continuation_logprobs, perplexity
from faststeer.extraction.extract import extract
from faststeer.models.inference import continuations, random_ids
from faststeer.models.loading import Loaded
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

RANDOM_DIRECTIONS = 4
NEUTRAL_TEXTS = 4


@dataclass(frozen=True)
class Effect:
    """What a coefficient does. Margins in nats; `random_shift` is the mean of |shift|."""

    coefficient: float
    margin: float
    shift: float
    random_shift: float
    perplexity: float
    random_perplexity: float


def held_out_margin(loaded: Loaded, behaviour: Behaviour) -> float:
    """Return the mean of log p(positive) - log p(negative) over held-out prompts, in nats."""
    items = [(held.prompt, held.positive) for held in behaviour.held_out]
    items += [(held.prompt, held.negative) for held in behaviour.held_out]
    logprobs = continuation_logprobs(loaded.model, loaded.tokenizer, items, batch_size=len(items))
    positive, negative = logprobs.chunk(2)
    return float((positive - negative).mean())


def measure(
    loaded: Loaded,
    patched: Patched,
    behaviour: Behaviour,
    vector: SteeringVector,
    randoms: Sequence[SteeringVector],
) -> list[Effect]:
    """The effect on held-out prompts at each coefficient, beside random directions of its norm."""
    neutral = neutral_texts()[:NEUTRAL_TEXTS]

    def margin(steering: SteeringVector, coefficient: float) -> float:
        patched.clear()
        patched.steer(steering, coefficient)
        return held_out_margin(loaded, behaviour)

    unsteered = margin(vector, 0.0)
    effects = []
    for coefficient in behaviour.coefficients:
        shifts = [abs(margin(one, coefficient) - unsteered) for one in randoms]
        random_perplexity = perplexity(loaded.model, loaded.tokenizer, neutral)
        found = margin(vector, coefficient)
        effects.append(
            Effect(
                coefficient=coefficient,
                margin=found,
                shift=found - unsteered,
                random_shift=statistics.mean(shifts),
                perplexity=perplexity(loaded.model, loaded.tokenizer, neutral),
                random_perplexity=random_perplexity,
            )
        )
    patched.clear()
    return effects


def advantage(effects: Sequence[Effect]) -> float:
    """How many times as far as random directions the vector moves the margin, over all rows."""
    moved = sum(abs(effect.shift) for effect in effects)
    return moved / sum(effect.random_shift for effect in effects)


def norm_matched(vector: SteeringVector, count: int) -> list[SteeringVector]:
    """Random directions of the vector's norm at each of its layers."""
    return [
        random_vector(f"random {seed}", vector.norms(), vector.hidden_size, seed)
        for seed in range(count)
    ]


def run(loaded: Loaded, output: Path, console: Console) -> None:
    """Print everything, and write the vectors into `output`, made if it is not there."""
    output.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for name in SHIPPED:
        behaviour = Behaviour.shipped(name)
        console.rule(f"{name}: {behaviour.description}", characters="─")
        vector = extract(
            loaded.model,
            loaded.tokenizer,
            behaviour.pairs,
            name=name,
            layers=behaviour.layer,
            progress=console.is_terminal,
        )
        vectors[name] = vector
        path = output / f"{name}.safetensors"
        vector.save(path)
        console.print(
            f"made from {len(behaviour.pairs)} pairs, read and added at layer {behaviour.layer}, "
            f"norm {vector.norms()[behaviour.layer]:.1f}; saved to {path}\n",
            highlight=False,
            soft_wrap=True,
        )
        with patch(loaded.model) as patched:
            _show_generations(loaded, patched, behaviour, vector, console)
            randoms = norm_matched(vector, RANDOM_DIRECTIONS)
            effects = measure(loaded, patched, behaviour, vector, randoms)
        _show_effects(behaviour, effects, console)
    _show_cost(loaded, list(vectors.values()), console)
    first = next(iter(vectors))
    console.print(
        "\ntry it on a prompt of your own:\n"
        f"  faststeer generate --model demo --steer {output / first}.safetensors:coefficient=1.5 "
        '--prompt "The food at this hotel was"',
        highlight=False,
        soft_wrap=True,
    )


def _show_generations(
    loaded: Loaded,
    patched: Patched,
    behaviour: Behaviour,
    vector: SteeringVector,
    console: Console,
) -> None:
    handle = patched.steer(vector)
    columns: list[list[str]] = []
    for coefficient in behaviour.generate_coefficients:
        handle.coefficient = coefficient
        columns.append(continuations(loaded.model, loaded.tokenizer, behaviour.prompts, 24))
    patched.clear()
    table = Table(title="greedy continuations", show_lines=True)
    table.add_column("prompt", ratio=2)
    for coefficient in behaviour.generate_coefficients:
        table.add_column(f"coefficient {coefficient:+g}" if coefficient else "unsteered", ratio=3)
    for prompt, *texts in zip(behaviour.prompts, *columns, strict=True):
        table.add_row(Text(prompt), *(Text(" ".join(text.split())) for text in texts))
    console.print(table)


def _show_effects(behaviour: Behaviour, effects: list[Effect], console: Console) -> None:
    title = f"{len(behaviour.held_out)} held-out prompts: log p(positive) - log p(negative)"
    table = Table(title=title)
    headings = ("coefficient", "margin", "shift", "random's shift", "perplexity", "random's")
    for heading in headings:
        table.add_column(heading, justify="right")
    for effect in effects:
        table.add_row(
            f"{effect.coefficient:+g}",
            f"{effect.margin:+.2f}",
            f"{effect.shift:+.2f}",
            f"{effect.random_shift:.2f}",
            f"{effect.perplexity:.1f}",
            f"{effect.random_perplexity:.1f}",
        )
    console.print(table)
    console.print(
        f"the vector moves the margin {advantage(effects):.1f} times as far as a random direction "
        f"of its norm (mean of {RANDOM_DIRECTIONS}); perplexity is of neutral prose\n",
        highlight=False,
        soft_wrap=True,
    )


def _show_cost(loaded: Loaded, vectors: list[SteeringVector], console: Console) -> None:
    console.rule("what it costs", characters="─")
    settings = Settings(prompt_tokens=64, new_tokens=16, rounds=7)
    variants = {
        "stock, unsteered": loaded.model,
        "steered with both by plain hooks": hooked_twin(loaded.model, vectors),
        "steered with both by faststeer": steered_twin(loaded.model, vectors),
    }
    ids = random_ids(loaded.model, 1, settings.prompt_tokens)
    samples = decode(variants, ids, settings.new_tokens, settings.rounds, lambda _: None)
    stock = next(iter(variants))
    for name in variants:
        ratio = samples.speedup(stock, over=name)
        console.print(
            f"{name:34} {samples.median(name) * 1e3:6.2f} ms a token, {ratio:.2f} times stock",
            highlight=False,
        )
