"""Quantised models are steered as by plain hooks: only the residual stream is changed."""

import warnings
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from counting import CountsFused
from plain_hooks import hooked, random_vector
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import faststeer

IDS = torch.randint(1, 500, (2, 9), generator=torch.Generator().manual_seed(5))


class Packed(nn.Module):
    """Linear layer in bitsandbytes' format: two 4-bit numbers per byte, a scale per output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 7
        numbers = (linear.weight.detach() / scale).round().to(torch.int8) + 8
        pairs = numbers.to(torch.uint8).view(-1, 2)
        packed = (pairs[:, :1] << 4) | pairs[:, 1:]
        self.weight = nn.Parameter(packed, requires_grad=False)  # [out * in / 2, 1]
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.cat([self.weight >> 4, self.weight & 15], 1)
        numbers = pairs.view(self.scale.shape[0], -1).to(x.dtype) - 8
        return nn.functional.linear(x, numbers * self.scale)


def packed(model: LlamaForCausalLM, folder: Path) -> Any:
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, Packed(child))
    return model


def from_gguf(model: LlamaForCausalLM, folder: Path) -> Any:
    """Return a model loaded from GGUF by transformers, with unpacked 8-bit blocks."""
    config = model.config
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        renamed = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        if weight.dim() == 1:
            writer.add_tensor(renamed, weight.numpy())
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(renamed, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf")


def by_torchao(model: LlamaForCausalLM, folder: Path) -> Any:
    quantize_(model, Int8WeightOnlyConfig())
    return model


def by_torch(model: LlamaForCausalLM, folder: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # deprecated in torch
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


# Tolerances of the logits. torch's own method also rounds activations to 8 bits, where a difference
# in the last bit can become a whole step; steering moves these logits by 2.
WITHIN = {packed: 1e-5, from_gguf: 1e-5, by_torchao: 1e-5, by_torch: 0.1}
WEIGHTS_ALONE = [packed, from_gguf, by_torchao]


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(IDS).logits
    return found


@pytest.fixture
def quantised(request: pytest.FixtureRequest, tiny_model: LlamaForCausalLM, tmp_path: Path) -> Any:
    before = logits(tiny_model)
    made = request.param(tiny_model, tmp_path).eval()
    assert not torch.allclose(logits(made), before, atol=1e-3)
    return made


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
@pytest.mark.parametrize(("quantised", "within"), WITHIN.items(), indirect=["quantised"])
def test_a_quantised_model_is_steered_as_by_plain_hooks_and_fused(quantised, within, site) -> None:
    vector = random_vector("v", range(4), site=site)
    stock = logits(quantised)
    with hooked(quantised.model, [(vector, 1.5, range(4))]):
        expected = logits(quantised)
    assert float((expected - stock).abs().max()) > 1
    with faststeer.patch(quantised) as patched:
        torch.testing.assert_close(logits(quantised), stock, rtol=0, atol=within)
        patched.steer(vector, 1.5)
        with CountsFused() as calls:
            steered = logits(quantised)
    torch.testing.assert_close(steered, expected, rtol=0, atol=within)
    assert calls.count == 8  # both adds of each of four layers
    assert torch.equal(logits(quantised), stock)


@pytest.mark.parametrize("quantised", WEIGHTS_ALONE, indirect=True)
def test_a_quantised_model_is_steered_per_sequence_while_it_generates(quantised) -> None:
    vector = random_vector("v", [1, 2])
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    options["pad_token_id"] = 0
    alone = []
    for row, dose in enumerate((3.0, -3.0)):
        with hooked(quantised.model, [(vector, dose, [1, 2])]):
            alone.append(quantised.generate(IDS[row : row + 1], **options))
    with faststeer.patch(quantised) as patched:
        patched.steer(vector, 0.0)
        with patched.rows([{"v": 3.0}, {"v": -3.0}]):
            together = quantised.generate(IDS, **options)
    assert torch.equal(together, torch.cat(alone))
