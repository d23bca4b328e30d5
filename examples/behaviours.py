"""Steer two traits alone, by one combined vector, and each at its own layer at once.

    python examples/behaviours.py [MODEL]

A trait is how a text is continued, which even a small model has. This example asks too few prompts
for firm conclusions; `faststeer experiment behaviours` asks more, also of your own traits and of
question sets. Needs faststeer[experiments].
"""

import sys
import tempfile
from pathlib import Path

from rich.console import Console

from faststeer.data import Trait
from faststeer.data.shipped import prose_texts
from faststeer.experiments.traits import Protocol, several_traits
from faststeer.models import load


def main(name: str) -> None:
    loaded = load(name)
    protocol = Protocol.quick()
    with tempfile.TemporaryDirectory() as folder:
        result = several_traits(
            loaded.model,
            loaded.tokenizer,
            [Trait.shipped(trait) for trait in ("tense", "person")],
            prose_texts()[: protocol.texts],
            Path(folder),
            protocol=protocol,
            text_source="neutral prose",
            progress=False,
        )
    result.show(Console())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
