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

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "demo.png"
BLUE, GREY = "#0072b2", "#7f7f7f"  # Okabe and Ito's blue, for the colour-blind


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(result["behaviours"]))
    for panel, behaviour in zip(panels, result["behaviours"], strict=True):
        effects = behaviour["effects"]
        unsteered = effects[0]["margin"] - effects[0]["shift"]
        x = [effect["coefficient"] for effect in effects]
        y = [effect["margin"] for effect in effects]
        panel.plot(x, y, color=BLUE, marker="o", linewidth=2.2, label=f"{behaviour['name']} vector")
        panel.fill_between(
            x,
            [unsteered - effect["random_shift"] for effect in effects],
            [unsteered + effect["random_shift"] for effect in effects],
            color=GREY,
            alpha=0.45,
            linewidth=0,
            label=f"{behaviour['random_directions']} random directions, mean |shift|",
        )
        panel.axhline(unsteered, color=GREY, linewidth=1, linestyle="--", label="unsteered")
        panel.set_title(
            f"{behaviour['name']}, layer {behaviour['layer']}: "
            f"{behaviour['advantage']:.1f} times random",
            fontsize=10,
        )
        panel.set_xlabel("coefficient")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("margin, nats")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def main() -> None:
    """Parse the arguments, measure where asked to, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure before drawing")
    if parser.parse_args().measure:
        RESULT.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    draw(json.loads(RESULT.read_text(encoding="utf-8")), PICTURE)


if __name__ == "__main__":
    main()
