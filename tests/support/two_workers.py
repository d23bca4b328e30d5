"""A program: an engine in a process of its own with two workers, whose vectors are changed.

It prints one JSON object: the answers, and why a vector was refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from small_engine import Requests, make_vector, prompt, start_engine

from faststeer.vllm import NoPlaceError, add_vector, remove_vector, vectors


def main(model: Path, served: Path) -> None:
    """Replace "a" while a request runs, fill the places, and free one."""
    llm = start_engine(model, served, 2, tensor_parallel_size=2)
    requests = Requests(llm)
    # Long ones: this engine, in a process of its own, does not wait for steps to be asked for.
    ids = {"old": requests.add(prompt(0), "a", most=200)}
    requests.step(3)
    add_vector(llm, "a", make_vector(2))
    ids["new"] = requests.add(prompt(0), "a", most=200)
    requests.step()
    refused = ""
    try:
        add_vector(llm, "b", make_vector(3))
    except NoPlaceError as error:
        refused = str(error)
    requests.finish()
    add_vector(llm, "b", make_vector(3))
    remove_vector(llm, "a")
    ids["later"] = requests.add(prompt(0), "b", most=200)
    requests.finish()
    answers = {name: requests.tokens(own) for name, own in ids.items()}
    print(json.dumps({"answers": answers, "refused": refused, "names": list(vectors(llm))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
