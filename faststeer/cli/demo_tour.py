"""Run the tour of `faststeer demo`: extract two vectors, show, measure, time and save them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from faststeer.cli import options
from faststeer.cli.demo_effects import (
    RANDOM_DIRECTIONS,
    Effect,
    advantage,
    measure_effects,
    random_directions,
)
from faststeer.data.shipped import SHIPPED, Behaviour
from faststeer.diagnostics.bench.phases import decode
from faststeer.diagnostics.bench.run import Settings
from faststeer.diagnostics.bench.timing import Samples
from faststeer.diagnostics.bench.variants import hooked_twin, steered_twin
from faststeer.extraction.extract import extract
from faststeer.models.inference import continuations, random_ids
from faststeer.models.loading import Loaded
from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.vectors.steering_vector import SteeringVector


def run(loaded: Loaded, output: Path, console: Console) -> None:
    """Run the tour, about a minute, and write the vectors into `output`, created if missing."""
    output.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for name in SHIPPED:
        behaviour = Behaviour.shipped(name)
        console.rule(f"{name}: {behaviour.description}", characters="─")
        with options.warnings_as_lines():
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
            f"extracted from {len(behaviour.pairs)} pairs, read and added at layer "
            f"{behaviour.layer}, norm {vector.norms()[behaviour.layer]:.1f}; saved to {path}\n",
            highlight=False,
            soft_wrap=True,
        )
        with patch(loaded.model) as patched:
            _show_generations(loaded, patched, behaviour, vector, console)
            randoms = random_directions(vector, RANDOM_DIRECTIONS)
            effects = measure_effects(loaded, patched, behaviour, vector, randoms)
        _show_effects(behaviour, effects, console)
    _show_cost(loaded, list(vectors.values()), console)
    first = next(iter(vectors))
    console.print(
        "\ntry it on your own prompt:\n"
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
    headings = (
        "coefficient",
        "margin",
        "shift",
        "random shift",
        "perplexity",
        "random perplexity",
    )
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
        f"of its norm (mean of {RANDOM_DIRECTIONS}); perplexity is measured on neutral prose\n",
        highlight=False,
        soft_wrap=True,
    )


def _show_cost(loaded: Loaded, vectors: list[SteeringVector], console: Console) -> None:
    console.rule("cost of steering", characters="─")
    settings = Settings(prompt_tokens=64, new_tokens=16, rounds=7)
    variants = {
        "stock, unsteered": loaded.model,
        "steered with both by plain hooks": hooked_twin(loaded.model, vectors),
        "steered with both by faststeer": steered_twin(loaded.model, vectors),
    }
    ids = random_ids(loaded.model, 1, settings.prompt_tokens)
    samples = decode(variants, ids, settings.new_tokens, settings.rounds, lambda _: None)
    _show_ratios(samples, console)


def _show_ratios(samples: Samples, console: Console) -> None:
    """Print the time of the first variant, and the others' ratios to it."""
    stock, *others = samples.seconds
    lines = {stock: f"{samples.median(stock) * 1e3:.2f} ms per token"}
    for name in others:
        ratio = samples.ratio(name, against=stock)
        lines[name] = f"{ratio}: {ratio.verdict}"
    for name, line in lines.items():
        console.print(f"{name:34} {line}", highlight=False, soft_wrap=True)
