"""Extract a vector from contrast pairs, steer with it, and change its coefficient live.

    python examples/quickstart.py [MODEL]

MODEL is a hub name or a folder; the default is the small model of `faststeer demo`.
"""

import sys

import faststeer
from faststeer.models import continuations, load


def main(name: str) -> None:
    loaded = load(name)
    model, tokenizer = loaded.model, loaded.tokenizer
    pairs = faststeer.pairs(
        "The {persona} the guests wrote about the hotel:",
        positives=["delighted review", "warm praise", "happy memories"],
        negatives=["furious review", "bitter complaint", "awful memories"],
        suffixes=[" The room was", " The breakfast was", " The staff were"],
    )
    layer = model.config.num_hidden_layers * 2 // 3
    vector = faststeer.extract(model, tokenizer, pairs, name="praise", layers=layer)
    print(vector)

    prompt = ["I stayed there for a week and"]
    with faststeer.patch(model) as patched:
        praise = patched.steer(vector, coefficient=0.0)
        for coefficient in (-2.0, 0.0, 2.0):
            praise.coefficient = coefficient
            print(f"{coefficient:+.0f}:", *continuations(model, tokenizer, prompt, 24))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
