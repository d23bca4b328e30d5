"""LoRA adapters beside steering: each request has its own adapter and its own terms."""

from __future__ import annotations

from pathlib import Path

import torch
from engines import Terms, ask, assert_differs, assert_equal, expected, tiny_engine, tokens_of
from peft import LoraConfig, PeftModel, get_peft_model
from served_tiny import MakeServed
from transformers import AutoModelForCausalLM
from vllm.lora.request import LoRARequest


def test_adapter_and_steering_act_together(serve_tiny: MakeServed, tmp_path: Path) -> None:
    tiny = serve_tiny()
    stock = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32)
    made = get_peft_model(stock, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    made.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(stock, tmp_path).merge_and_unload().eval()

    prompt = tokens_of(20)
    steered: Terms = [{"vector": "every", "coefficient": 0.5}]
    adapter = LoRARequest("adapter", 1, str(tmp_path))
    # Those with and those without an adapter in batches of their own: in one batch vLLM's CPU ops
    # read the last adapter for tokens that have none, steered or not.
    with tiny_engine(tiny.folder, tiny.vectors_folder, enable_lora=True, max_lora_rank=8) as llm:
        both = [[prompt] * 2, [None, steered]]
        found = [*ask(llm, *both), *ask(llm, *both, lora_request=[adapter] * 2)]
    wanted = [
        expected(model, tiny.vectors, prompt, terms)
        for model in (tiny.model, merged)
        for terms in (None, steered)
    ]
    for at, (own, right) in enumerate(zip(found, wanted, strict=True)):
        assert_equal(own, right)
        for other in wanted[:at]:
            assert_differs(right, other)
