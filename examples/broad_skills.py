"""Steer a model away from Python and measure the cost to its English: one layer, half a minute.

    python examples/broad_skills.py [MODEL]

MODEL is a hub name or a folder; the default is the small model of `faststeer demo`. Code comes from
Python's standard library, prose from the documentation of installed packages. For all layers,
baselines and intervals, and for your own code and texts, use `faststeer experiment broad-skills`.
"""

import sys

import faststeer
from faststeer.evaluate import token_scores_by_setting
from faststeer.experiments.broad_skills import (
    PYTHON_ONLY,
    TEXT,
    code_sources,
    draw_sets,
    text_sources,
)
from faststeer.models import load

LENGTH = 64


def main(name: str) -> None:
    loaded = load(name)
    model, tokenizer = loaded.model, loaded.tokenizer
    sets = draw_sets(
        code_sources([]), text_sources([]), tokenizer, documents=12, max_length=LENGTH, seed=0
    )
    layer = model.config.num_hidden_layers // 2
    vector = faststeer.extract(
        model,
        tokenizer,
        positive=sets.train_of(TEXT),
        negative=sets.train_of(PYTHON_ONLY),
        name="prose",
        layers=layer,
        max_length=LENGTH,
    )
    coefficients = (1.0, 1.5, 2.0)
    settings = [{"prose": coefficient} for coefficient in coefficients]
    with faststeer.patch(model) as patched:
        patched.steer(vector)
        for skill in (PYTHON_ONLY, TEXT):
            unsteered, steered = token_scores_by_setting(
                patched, model, tokenizer, sets.held_out_of(skill), settings, max_length=LENGTH
            )
            kept = [f"{scores.accuracy / unsteered.accuracy:.0%}" for scores in steered]
            print(f"{skill}: accuracy {unsteered.accuracy:.1%}; share kept at layer {layer}:")
            for coefficient, share in zip(coefficients, kept, strict=True):
                print(f"  coefficient {coefficient:g}: {share}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
