"""vLLM's engine inside the test's process, and what it and transformers answer.

The engine core and its worker run in this process, so that the batches are the same in every run
and a test reaches the tables, the scheduler and the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from running_engines import running
from transformers import PreTrainedModel
from vllm import LLM, SamplingParams

import faststeer
from faststeer import SteeringVector

Terms = list[dict[str, Any]]
Vectors = Mapping[str, SteeringVector]

BLOCK = 32  # tokens per block of the prefix cache, the fewest that the CPU's attention takes


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, their logprobs, and how many tokens of the prompt were cached."""

    tokens: list[int]
    logprobs: list[float]
    cached: int = 0


@contextmanager
def engine(folder: Path, vectors: Path | None, **options: Any) -> Iterator[LLM]:
    """Start an engine, and shut it down afterwards. `vectors`: their folder."""
    additional = dict(options.pop("additional_config", {}))
    if vectors is not None:
        additional["faststeer"] = {"vectors": str(vectors), **options.pop("faststeer", {})}
    settings: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 64,
        "block_size": BLOCK,
        "additional_config": additional,
    }
    with running(lambda: LLM(model=str(folder), **settings | options)) as llm:
        yield llm


@contextmanager
def tiny_engine(folder: Path, vectors: Path | None, **options: Any) -> Iterator[LLM]:
    """Start an engine of a tiny model, which has no tokenizer: prompts are numbers."""
    with engine(folder, vectors, skip_tokenizer_init=True, **options) as llm:
        yield llm


def runner(llm: LLM) -> Any:
    """Return the worker's model runner, whose `faststeer` has the tables."""
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner


def core(llm: LLM) -> Any:
    """Return the engine core, which has the scheduler."""
    return llm.llm_engine.engine_core.engine_core


def sampling(terms: Terms | None = None, tokens: int = 8, **options: Any) -> SamplingParams:
    """Return parameters of a greedy answer of exactly that many tokens."""
    extra = {} if terms is None else {"extra_args": {"faststeer": terms}}
    settings: dict[str, Any] = {
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
        **extra,
    }
    return SamplingParams(**settings | options)


def ask(
    llm: LLM,
    prompts: Sequence[Sequence[int]],
    terms: Sequence[Terms | None],
    tokens: int = 8,
    **options: Any,
) -> list[Answer]:
    """Return the answers to prompts of token ids, all in one batch, each with its own terms."""
    params = [sampling(own, tokens) for own in terms]
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    outputs = llm.generate(asked, params, use_tqdm=False, **options)
    return [answer_of(own.outputs[0], own.num_cached_tokens or 0) for own in outputs]


def answer_of(completion: Any, cached: int = 0) -> Answer:
    """Return a completion of vLLM as an `Answer`."""
    tokens = list(completion.token_ids)
    pairs = zip(tokens, completion.logprobs, strict=True)
    return Answer(tokens, [found[token].logprob for token, found in pairs], cached)


def expected(
    model: PreTrainedModel,
    vectors: Vectors,
    prompt: Sequence[int],
    terms: Terms | None,
    tokens: int = 8,
) -> Answer:
    """Return the greedy answer of `faststeer.patch` on transformers."""
    ids = torch.tensor([list(prompt)])
    with faststeer.patch(model) as patched:
        for at, own in enumerate(terms or []):
            term = dict(own)
            if ":" in str(term.get("positions")):
                start, stop = term["positions"].split(":")
                term["positions"] = range(int(start), int(stop))
            if isinstance(term.get("layers"), dict):
                term["layers"] = {int(own): factor for own, factor in term["layers"].items()}
            vector = vectors[term.pop("vector")]
            if "floor" in term or "ceiling" in term:
                patched.cap(vector, name=str(at), **term)
            else:
                patched.steer(vector, term.pop("coefficient", None), name=str(at), **term)
        with torch.no_grad():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
            )
    found = made.sequences[0, ids.shape[1] :].tolist()
    logprobs = torch.stack(made.logits)[:, 0].float().log_softmax(-1)
    return Answer(found, [float(own[token]) for own, token in zip(logprobs, found, strict=True)])


def assert_equal(found: Answer, wanted: Answer, bound: float = 1e-4) -> None:
    """Compare tokens, and their logprobs to within `bound`."""
    assert found.tokens == wanted.tokens
    assert distance(found, wanted) < bound


def assert_differs(one: Answer, other: Answer, least: float = 0.01) -> None:
    """Require that a comparison by `assert_equal` would tell the two apart, by far."""
    assert one.tokens != other.tokens or distance(one, other) > least


def distance(one: Answer, other: Answer) -> float:
    """Return the largest difference of logprobs while the tokens agree."""
    pairs = zip(one.logprobs, other.logprobs, strict=True)
    same = next(
        (
            at
            for at, pair in enumerate(zip(one.tokens, other.tokens, strict=True))
            if pair[0] != pair[1]
        ),
        len(one.tokens) - 1,
    )
    return max(abs(a - b) for a, b in list(pairs)[: same + 1])


def directions(
    name: str,
    layers: Sequence[int],
    hidden: int,
    norm: float,
    site: str = "resid_post",
    seed: int = 1,
) -> SteeringVector:
    """Return a random vector whose directions have that norm."""
    generator = torch.Generator().manual_seed(seed)
    unit: Callable[..., torch.Tensor] = torch.nn.functional.normalize
    return SteeringVector(
        name,
        {own: unit(torch.randn(hidden, generator=generator), dim=0) * norm for own in layers},
        site,
    )


def save_all(vectors: Vectors, folder: Path) -> Path:
    """Save each vector under its name; returns the folder."""
    for name, vector in vectors.items():
        vector.save(folder / f"{name}.safetensors")
    return folder


def tokens_of(length: int, seed: int = 0, vocabulary: int = 512) -> list[int]:
    """Return a random prompt for a tiny model."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(1, vocabulary, (length,), generator=generator).tolist()
