"""Measure and draw the demo's effect: the vectors beside random directions of their norm.

    python benchmarks/docs/demo_effect.py              # draws docs/demo.png from the result
    python benchmarks/docs/demo_effect.py --measure    # measures first, in a minute or two

The result is `benchmarks/results/demo.json`, which also fills a table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from faststeer.utils.plot_labels import End, label_ends, settle
from faststeer.utils.plot_style import BLUE, GREY, as_png, figure_style, new_figure

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "demo.png"


def measured() -> dict[str, Any]:
    """Run the measurements of `faststeer demo` on both shipped behaviours."""
    import faststeer
    from faststeer.cli import demo_effects
    from faststeer.data.shipped import SHIPPED, Behaviour
    from faststeer.models import load

    loaded = load("demo")
    behaviours = []
    for name in SHIPPED:
        behaviour = Behaviour.shipped(name)
        vector = faststeer.extract(
            loaded.model,
            loaded.tokenizer,
            behaviour.pairs,
            name=name,
            layers=behaviour.layer,
            progress=False,
        )
        randoms = demo_effects.random_directions(vector, demo_effects.RANDOM_DIRECTIONS)
        with faststeer.patch(loaded.model) as patched:
            effects = demo_effects.measure_effects(loaded, patched, behaviour, vector, randoms)
        behaviours.append(
            {
                "name": name,
                "layer": behaviour.layer,
                "pairs": len(behaviour.pairs),
                "held_out": len(behaviour.held_out),
                "random_directions": len(randoms),
                "advantage": demo_effects.advantage(effects),
                "effects": [dataclasses.asdict(effect) for effect in effects],
            }
        )
    return {"model": "SmolLM2-135M-Instruct", "dtype": "float32", "behaviours": behaviours}


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the margins over the coefficient, one panel per behaviour, as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style():
        path.write_bytes(as_png(make_figure(result)))


def make_figure(result: dict[str, Any]) -> Any:
    """Return the figure; call inside `figure_style`."""
    behaviours = result["behaviours"]
    figure = new_figure(
        "Margin between positive and negative answers",
        2.1 * len(behaviours) + 0.4,
        f"{result['model']}, held-out prompts; nats; dotted: unsteered",
    )
    panels = figure.subplots(len(behaviours), 1, sharex=True, squeeze=False)[:, 0]
    for panel, behaviour in zip(panels, behaviours, strict=True):
        _panel(panel, behaviour)
    panels[-1].set_xlabel("coefficient")
    settle(figure)
    return figure


def _panel(panel: Any, behaviour: dict[str, Any]) -> None:
    effects = behaviour["effects"]
    unsteered = effects[0]["margin"] - effects[0]["shift"]
    x = [effect["coefficient"] for effect in effects]
    y = [effect["margin"] for effect in effects]
    low = [unsteered - effect["random_shift"] for effect in effects]
    high = [unsteered + effect["random_shift"] for effect in effects]
    panel.plot(x, y, color=BLUE, marker="o", linewidth=2)
    panel.fill_between(x, low, high, color=GREY, alpha=0.5, linewidth=0)
    panel.axhline(unsteered, color=GREY, linewidth=1, linestyle=":")
    panel.set_title(
        f"{behaviour['name']}, layer {behaviour['layer']}: "
        f"{behaviour['advantage']:.1f} times as far as random directions"
    )
    count = behaviour["random_directions"]
    label_ends(
        panel,
        [
            End(x[-1], y[-1], f"{behaviour['name']} vector", BLUE),
            End(x[-1], high[-1], f"{count} random\ndirections,\nmean |shift|", GREY),
        ],
    )


def main() -> None:
    """Parse the arguments, measure where asked to, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure before drawing")
    if parser.parse_args().measure:
        RESULT.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    draw(json.loads(RESULT.read_text(encoding="utf-8")), PICTURE)


if __name__ == "__main__":
    main()
