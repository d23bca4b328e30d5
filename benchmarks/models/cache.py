"""Time of extracting a vector from the cache, on the demo's 40 pairs for sentiment.

    python benchmarks/models/cache.py [ROUNDS]

Medians over the rounds, each with an empty folder, in the process that has read the pairs; the file
cache of the system is warm.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict

import faststeer
from faststeer.data.shipped import Behaviour
from faststeer.models import load
from faststeer.utils.machine import machine_facts

CALLS = {
    "the model runs": {},
    "the same call again": {},
    "another method, pca_center": {"method": "pca_center"},
    "one layer": {"layers": [15]},
}


def main(rounds: int) -> None:
    """Print the median time of each call, and what it depends on."""
    warnings.simplefilter("ignore", faststeer.FaststeerWarning)
    demo = load("demo")
    pairs = Behaviour.shipped("sentiment").pairs
    faststeer.extract(demo.model, demo.tokenizer, pairs, progress=False)  # imports, measures BOS
    times = defaultdict(list)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, options in CALLS.items():
                start = time.perf_counter()
                faststeer.extract(
                    demo.model, demo.tokenizer, pairs, cache=folder, progress=False, **options
                )
                times[name].append(1000 * (time.perf_counter() - start))
    for name, found in times.items():
        print(f"{statistics.median(found):8.0f} ms  {name}")
    print(machine_facts())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
