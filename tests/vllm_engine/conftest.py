"""Settings of vLLM, and the tiny models. `make vllm-test` makes the environment that has vLLM."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from places import ROOT
from served_tiny import MakeServed, Tiny
from tiny import MakeTiny

if TYPE_CHECKING:
    from small_engine import Small

# Not the folder tests/vllm, which a path without vLLM leads to.
FOUND = importlib.util.find_spec("vllm")
if FOUND is None or FOUND.origin is None:
    collect_ignore_glob = ["test_*.py"]

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
# Read by vLLM when it is imported.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the test's process
    "VLLM_CPU_KVCACHE_SPACE": "1",  # gigabytes
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, CORES[:2])),
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CACHE_ROOT": str(ROOT / "build" / "vllm-cache"),
    "TOKENIZERS_PARALLELISM": "false",
}


@pytest.fixture(scope="session")
def serve_tiny(tmp_path_factory: pytest.TempPathFactory, make_tiny: MakeTiny) -> MakeServed:
    """Return a function that saves a tiny model of a family with vectors for its layers."""
    from engines import directions, save_all

    def serve(family: str = "Llama", layers: int = 4, norm: float = 8.0, **config: object) -> Tiny:
        # Heads of 32 are the smallest that the CPU's attention takes.
        model = make_tiny(layers=layers, hidden=128, family=family, **config)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        vectors = {
            "one": directions("one", [1], 128, norm, seed=1),
            "every": directions("every", range(layers), 128, norm, seed=2),
            "other": directions("other", [1], 128, norm, seed=3),
        }
        return Tiny(model, folder, vectors, save_all(vectors, tmp_path_factory.mktemp("vectors")))

    return serve


@pytest.fixture(scope="session")
def tiny_llama(serve_tiny: MakeServed) -> Tiny:
    return serve_tiny()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    from small_engine import A, make_small

    return make_small(tmp_path_factory, A)


@pytest.fixture(scope="module")
def shared(small: Small) -> Iterator[Any]:
    with small.engine(2) as llm:
        yield llm


@pytest.fixture
def two(shared: Any) -> Iterator[Any]:
    """An engine with two places that serves A as "a"."""
    from small_engine import A, Requests

    from faststeer.vllm import add_vector, remove_vector, vectors

    yield shared
    Requests(shared).finish()
    for name in set(vectors(shared)) - {"a"}:
        remove_vector(shared, name)
    add_vector(shared, "a", A)
    shared.reset_prefix_cache()
