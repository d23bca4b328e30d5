"""Statistics of an engine's forward passes against `faststeer.capture` and `faststeer.extract`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from tiny import MakeTiny

import faststeer
import faststeer.vllm
from faststeer import Moments, SteeringVector

pytest.importorskip("vllm")

from engine_captures import Prompts, assert_equal, distance, engine, expected
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError

from faststeer.vllm.captured_tokens import CAPTURE_KEY, CaptureRequest
from faststeer.vllm.engine_capture import EngineFacts, read_state

TINY_LAYERS = [0, 2, 3]
STEERING = [{"vector": "push", "coefficient": 1.5}]


@pytest.fixture(scope="module")
def tiny(make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = make_tiny(layers=4, hidden=128, family="Qwen2")
    folder = tmp_path_factory.mktemp("qwen2")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def push(tmp_path_factory: pytest.TempPathFactory) -> tuple[SteeringVector, Path]:
    """Return a vector for the tiny model at a captured layer, and the folder that holds it."""
    generator = torch.Generator().manual_seed(2)
    vector = SteeringVector("push", {2: 4 * torch.randn(128, generator=generator)})
    folder = tmp_path_factory.mktemp("vectors")
    vector.save(folder / "push.safetensors")
    return vector, folder


@pytest.fixture(scope="module")
def tiny_llm(tiny: tuple[Any, Path], push: tuple[SteeringVector, Path]) -> Iterator[LLM]:
    """Yield an engine whose KV cache is too small for eight requests of 100 tokens."""
    settings = {"vectors": str(push[1]), "capture": TINY_LAYERS}
    options = {"num_gpu_blocks_override": 20, "max_num_seqs": 8, "skip_tokenizer_init": True}
    with engine(tiny[1], settings, **options) as llm:
        yield llm


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 500, (n,), generator=generator).tolist() for n in lengths]


def as_prompts(prompts: Prompts) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": list(own)} for own in prompts]


def sampling(tokens: int, **options: Any) -> SamplingParams:
    settings = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "detokenize": False}
    return SamplingParams(**settings | options)


@contextmanager
def preemptions(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    stock, seen = scheduler._preempt_request, []

    def preempt(request: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(request.request_id)
        stock(request, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_preempt_request", preempt)
        yield seen


@pytest.mark.parametrize("positions", ["all", "last", slice(2, 40), range(-3, 0)])
def test_moments_of_prompts_are_those_of_transformers(
    tiny: tuple[Any, Path], tiny_llm: LLM, positions: Any
) -> None:
    prompts = prompts_of([3, 150, 70, 9, 33])  # of up to three chunks
    found = faststeer.vllm.capture(tiny_llm, prompts, positions=positions)
    assert_equal(found, expected(tiny[0], prompts, TINY_LAYERS, positions))


def test_a_capture_starts_without_the_tokens_of_the_one_before(
    tiny: tuple[Any, Path], tiny_llm: LLM
) -> None:
    faststeer.vllm.capture(tiny_llm, prompts_of([20, 90], seed=1))
    prompts = prompts_of([12])
    found = faststeer.vllm.capture(tiny_llm, prompts[0], layers=2)
    assert_equal(found, expected(tiny[0], prompts, [2]))


def test_what_preemption_computes_twice_counts_once(
    tiny: tuple[Any, Path], tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of([60, 50, 70, 40, 55, 65, 45, 61], seed=2)
    for positions in ("all", "generated"):
        with preemptions(tiny_llm, monkeypatch) as seen:
            found = faststeer.vllm.capture(
                tiny_llm, prompts, positions=positions, sampling_params=sampling(60)
            )
        assert len(seen) >= 3
        assert_equal(found, expected(tiny[0], prompts, TINY_LAYERS, positions, 60))


def test_cached_blocks_of_earlier_requests_are_not_read(
    tiny: tuple[Any, Path], tiny_llm: LLM
) -> None:
    [prefix] = prompts_of([128], seed=3)
    prompts = [prefix + end for end in prompts_of([5, 9, 17], seed=4)]
    tiny_llm.generate(as_prompts(prompts), sampling(1), use_tqdm=False)
    tiny_llm.collective_rpc("faststeer_capture_reset")
    params = [
        sampling(1, extra_args={CAPTURE_KEY: CaptureRequest(n, 0)}) for n in range(len(prompts))
    ]
    outputs = tiny_llm.generate(as_prompts(prompts), params, use_tqdm=False)
    cached = sum(own.num_cached_tokens for own in outputs)
    assert cached >= 3 * 96
    state = read_state(tiny_llm, EngineFacts.of(tiny_llm), 1)
    assert int(state[2].count) == sum(map(len, prompts)) - cached  # too few, where they are read
    found = faststeer.vllm.capture(tiny_llm, prompts)
    assert_equal(found, expected(tiny[0], prompts, TINY_LAYERS))


def test_a_count_that_is_not_that_of_the_texts_is_an_error(
    tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.request import Request

    prompts = prompts_of([128], seed=5)
    faststeer.vllm.capture(tiny_llm, prompts)
    monkeypatch.setattr(Request, "get_skip_reading_prefix_cache", lambda self: False)
    with pytest.raises(RuntimeError, match=r"layer 0: the engine counted \[\d+\] tokens.*\[128\]"):
        faststeer.vllm.capture(tiny_llm, prompts)


def test_ordinary_requests_beside_a_capture_do_not_count(
    tiny: tuple[Any, Path], push: tuple[SteeringVector, Path], tiny_llm: LLM
) -> None:
    mine, others = prompts_of([30, 75, 11], seed=6), prompts_of([41, 20, 66], seed=7)
    params, prompts = [], []
    for n, (own, other) in enumerate(zip(mine, others, strict=True)):
        asked = {CAPTURE_KEY: CaptureRequest(n, 0), "faststeer": STEERING}
        params.append(sampling(1, extra_args=asked, skip_reading_prefix_cache=True))
        params.append(sampling(12, extra_args={"faststeer": STEERING} if n else None))
        prompts += [own, other]
    tiny_llm.collective_rpc("faststeer_capture_reset")
    tiny_llm.generate(as_prompts(prompts), params, use_tqdm=False)
    facts = EngineFacts.of(tiny_llm)
    found = {}
    for layer, own in read_state(tiny_llm, facts, 1).items():
        found[layer] = Moments(128)
        found[layer].load_state_dict({"count": own.count, "mean": own.mean, "m2": own.m2})
    wanted = expected(tiny[0], mine, TINY_LAYERS, steered=push[0])
    assert_equal(found, wanted)  # the stream after steering, as a capture on transformers reads it
    unsteered = expected(tiny[0], mine, TINY_LAYERS)
    assert distance(unsteered[2].mean, wanted[2].mean) > 0.1
    assert_equal(faststeer.vllm.capture(tiny_llm, mine, steering=STEERING), wanted)


def test_wrong_uses_are_refused_in_words(tiny_llm: LLM) -> None:
    prompt = [1, 2, 3]
    for options, message in (
        ({"layers": 1}, r"captures layers \[0, 2, 3\], not \[1\]; start it with"),
        ({"layers": 9}, "layer 9"),
        ({"positions": "generated"}, "'generated' needs sampling_params"),
        ({"positions": lambda *_: True}, "expected a name, a range or a slice"),
        ({"sampling_params": sampling(4, n=2, temperature=1.0)}, "n=2; the prompt would count"),
        ({"sampling_params": SamplingParams(stop=["."])}, "give stop_token_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            faststeer.vllm.capture(tiny_llm, prompt, **options)
    with pytest.raises(ValueError, match="got no prompts"):
        faststeer.vllm.capture(tiny_llm, [])
    with pytest.raises(ValueError, match="an engine captures resid_post alone"):
        faststeer.vllm.extract(tiny_llm, [("a", "b")], site="resid_mid")
    asked = sampling(1, extra_args={CAPTURE_KEY: {"group": 0, "tokens": "all"}})
    with pytest.raises(VLLMValidationError, match="are not arguments of requests"):
        tiny_llm.generate(as_prompts([prompt]), asked, use_tqdm=False)


def test_an_engine_without_captured_layers_says_how_to_start_one(
    tiny: tuple[Any, Path], push: tuple[SteeringVector, Path]
) -> None:
    with engine(tiny[1], {"vectors": str(push[1])}, skip_tokenizer_init=True) as llm:
        with pytest.raises(ValueError, match=r"captures no statistics: start it with .*capture"):
            faststeer.vllm.capture(llm, [1, 2, 3])
        model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model()
        steered = [own for own in model.modules() if hasattr(own, "faststeer_counts")]
        assert [own.faststeer_counts for own in steered] == [False]  # so its graphs hold no call


def speculate(folder: Path, prompts: Prompts, results: Path) -> None:
    """Capture with speculative decoding, and save the moments. Runs in a process of its own."""
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    options = {"speculative_config": speculation, "skip_tokenizer_init": True}
    with engine(folder, {"capture": TINY_LAYERS}, **options) as llm:
        answers = llm.generate(as_prompts(prompts), sampling(20), use_tqdm=False)
        assert [len(own.outputs[0].token_ids) for own in answers] == [20, 20]
        for layer, own in faststeer.vllm.capture(llm, prompts).items():
            own.save(results / f"{layer}.safetensors")
        with pytest.raises(ValueError, match="cannot be captured with speculative decoding"):
            faststeer.vllm.capture(llm, prompts, sampling_params=sampling(4))


@pytest.mark.heavy
def test_under_speculation_prompts_are_right_and_answers_refused(
    tiny: tuple[Any, Path], tmp_path: Path
) -> None:
    # vLLM's drafts by n-grams import numba, beside which no second engine starts in a process.
    prompts = [[5, 6, 7, 8] * 12, prompts_of([30], seed=8)[0]]
    given = json.dumps([str(tiny[1]), prompts, str(tmp_path)])
    program = (
        "import importlib.util, json, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('captures', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "folder, prompts, results = json.loads(sys.argv[2])\n"
        "module.speculate(pathlib.Path(folder), prompts, pathlib.Path(results))\n"
    )
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    ran = subprocess.run(
        [sys.executable, "-c", program, __file__, given],
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = {layer: Moments.load(tmp_path / f"{layer}.safetensors") for layer in TINY_LAYERS}
    assert_equal(found, expected(tiny[0], prompts, TINY_LAYERS))


@pytest.mark.heavy
def test_a_compiled_model_counts_the_same(tiny: tuple[Any, Path]) -> None:
    prompts = prompts_of([3, 150, 70], seed=9)
    settings = {"capture": TINY_LAYERS}
    with engine(tiny[1], settings, enforce_eager=False, skip_tokenizer_init=True) as llm:
        for options, answer in (({}, 0), ({"sampling_params": sampling(9)}, 9)):
            found = faststeer.vllm.capture(llm, prompts, **options)
            assert_equal(found, expected(tiny[0], prompts, TINY_LAYERS, "all", answer))
