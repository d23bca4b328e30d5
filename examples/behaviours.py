"""Steer two behaviours alone, by one combined vector, and at two layers at once.

    python examples/behaviours.py DATA [MODEL]

DATA is a folder with agreeableness.json and anti_immigration.json, such as the one that `faststeer
data fetch behaviours` prints. This example asks too few questions for firm conclusions; `faststeer
experiment behaviours` asks more.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from faststeer.data.shipped import neutral_texts
from faststeer.experiments.several_behaviours import Protocol, read_behaviours, several_behaviours
from faststeer.models import load


def main(data: str, name: str) -> None:
    loaded = load(name)
    protocol = replace(Protocol.quick(), train=32)
    questions = read_behaviours(["agreeableness", "anti_immigration"], data, protocol, seed=13)
    with tempfile.TemporaryDirectory() as folder:
        result = several_behaviours(
            loaded.model,
            loaded.tokenizer,
            questions,
            neutral_texts()[: protocol.texts],
            Path(folder),
            protocol=protocol,
            text_source="neutral prose",
            progress=False,
        )
    result.show(Console())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "demo")
