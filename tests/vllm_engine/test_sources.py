"""Vectors of heads are served like others, and an ablation as an adapter, request by request."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from engines import Terms, ask, assert_differs, assert_equal, expected, tiny_engine, tokens_of
from served_tiny import MakeServed
from vllm.lora.request import LoRARequest

import faststeer
from faststeer import SteeringVector


def test_heads_and_the_adapter_of_an_ablation_are_served(
    serve_tiny: MakeServed, tmp_path: Path
) -> None:
    tiny = serve_tiny(tie_word_embeddings=True)
    generator = torch.Generator().manual_seed(5)
    chosen = {head: torch.randn(32, generator=generator) for head in [(1, 0), (1, 3), (2, 2)]}
    heads = SteeringVector.from_heads(tiny.model, chosen)
    heads.save(tiny.vectors_folder / "heads.safetensors")
    faststeer.to_lora(tiny.model, tiny.vectors["one"], output=tmp_path / "adapter")
    ablated = faststeer.bake(copy.deepcopy(tiny.model), tiny.vectors["one"], mode="ablate")

    prompt = tokens_of(20)
    terms: Terms = [{"vector": "heads", "coefficient": 1.5}]
    adapter = LoRARequest("without", 1, str(tmp_path / "adapter"))
    # Batches of their own: vLLM's CPU ops read the last adapter for tokens that have none.
    with tiny_engine(tiny.folder, tiny.vectors_folder, enable_lora=True, max_lora_rank=8) as llm:
        found = ask(llm, [prompt] * 2, [None, terms])
        found += ask(llm, [prompt], [None], lora_request=[adapter])
    wanted = [expected(tiny.model, {"heads": heads}, prompt, own) for own in (None, terms)]
    wanted.append(expected(ablated, {}, prompt, None))
    for at, (own, right) in enumerate(zip(found, wanted, strict=True)):
        assert_equal(own, right)
        for other in wanted[:at]:
            assert_differs(right, other)
