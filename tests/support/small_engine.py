"""A random model of two layers, vectors for it, and an engine of vLLM that serves it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from running_engines import running
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import faststeer
from faststeer import SteeringVector

HIDDEN, LAYERS, WORDS = 64, 2, 96

# Read when vLLM is imported. One process, so that a test decides which step sees what.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def make_model(folder: Path) -> LlamaForCausalLM:
    """Save a model and a tokenizer of one token per word; return the model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # so that tokens differ, and the largest logit leads clearly
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return model


def make_vector(
    seed: int, layers: Sequence[int] = (0, 1), hidden: int = HIDDEN, name: str = "made"
) -> SteeringVector:
    """Return a random vector that is strong enough to change the tokens."""
    generator = torch.Generator().manual_seed(seed)
    directions = {layer: torch.randn(hidden, generator=generator) for layer in layers}
    return SteeringVector(name, directions)


def prompt(seed: int, length: int = 7) -> list[int]:
    """Return the tokens of a random prompt."""
    return torch.randint(
        0, WORDS, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def start_engine(model: Path, vectors: Path, capacity: int, **options: Any) -> Any:
    """Start an engine in this process that holds `capacity` vectors."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from vllm import LLM

    return LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        block_size=32,  # the least that the CPU's attention takes
        additional_config={"faststeer": {"vectors": str(vectors), "capacity": capacity}},
        **options,
    )


@dataclass
class Small:
    """A model in transformers and in a folder, and a folder with the vector "a"."""

    model: LlamaForCausalLM
    folder: Path
    vectors: Path

    def engine(self, capacity: int, **options: Any) -> AbstractContextManager[Any]:
        """Return an engine in this process that holds `capacity` vectors, while it is open."""
        return running(lambda: start_engine(self.folder, self.vectors, capacity, **options))


def make_small(folders: pytest.TempPathFactory, a: SteeringVector) -> Small:
    """Save a model, and `a` as the vector "a"."""
    folder, vectors = folders.mktemp("model"), folders.mktemp("vectors")
    a.save(vectors / "a.safetensors")
    return Small(make_model(folder), folder, vectors)


class Requests:
    """Requests of an engine that is stepped by hand; each answers greedily."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.finished: dict[str, Any] = {}
        self._count = 0

    def add(self, tokens: list[int], name: str | None, most: int = 8, **term: Any) -> str:
        """Add a request, steered with the vector of that name or not at all. Returns its id."""
        from vllm import SamplingParams

        steered = {"faststeer": [{"vector": name, **term}]} if name else None
        params = SamplingParams(
            temperature=0, max_tokens=most, ignore_eos=True, logprobs=5, extra_args=steered
        )
        self._count += 1
        request = f"r{self._count}"
        self.llm.llm_engine.add_request(request, {"prompt_token_ids": tokens}, params)
        return request

    def step(self, times: int = 1) -> None:
        """Run steps of the engine."""
        for _ in range(times):
            for output in self.llm.llm_engine.step():
                if output.finished:
                    self.finished[output.request_id] = output

    def finish(self) -> None:
        """Run until all requests have finished."""
        while self.llm.llm_engine.has_unfinished_requests():
            self.step()

    def tokens(self, request: str) -> list[int]:
        """Return the answer of a finished request."""
        return list(self.finished[request].outputs[0].token_ids)

    def logprobs(self, request: str) -> list[dict[int, float]]:
        """Return the log probabilities of a finished request's answer, as the engine gave them."""
        steps = self.finished[request].outputs[0].logprobs
        return [{token: own.logprob for token, own in step.items()} for step in steps]


def expected_tokens(
    model: LlamaForCausalLM, tokens: list[int], vector: SteeringVector | None, most: int = 8
) -> list[int]:
    """Return the answer of the model in transformers, steered by `faststeer.patch`."""
    with faststeer.patch(model) as patched:
        if vector is not None:
            patched.steer(vector, 1.0)
        ids = torch.tensor([tokens])
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False
        )
    return found[0, len(tokens) :].tolist()


# The contents that the tests give to names: "a" is A at the start.
A, B, C = (make_vector(seed) for seed in (1, 2, 3))


def answer(llm: Any, tokens: list[int], name: str | None) -> list[int]:
    """Return the greedy answer under the vector of that name; None is unsteered."""
    requests = Requests(llm)
    request = requests.add(tokens, name)
    requests.finish()
    return requests.tokens(request)
