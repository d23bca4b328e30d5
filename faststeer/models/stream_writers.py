"""Which weights of a causal model write into its residual stream, and which biases it can have.

What is not in these tables is refused: a weight that is not known to write may write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

FLAGS = ("attention_bias", "mlp_bias")  # of configurations


@dataclass(frozen=True)
class StreamWriters:
    """The projections in a family's layers; the last of either kind writes into the stream.

    `flags`: those of `FLAGS` that its configuration has and its layers follow. `normed`: a norm
    stands between what is written and the stream. `scaled`: embeddings are multiplied by a number.
    """

    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    flags: tuple[str, ...] = ()
    normed: bool = False
    scaled: bool = False

    def of_flag(self, flag: str) -> tuple[str, ...]:
        """Return the paths in a layer of the projections whose biases come with a flag."""
        if flag == "attention_bias":
            return tuple(f"self_attn.{name}" for name in self.attention)
        return tuple(f"mlp.{name}" for name in self.mlp)

    def projections(self, layer: nn.Module) -> list[str]:
        """Return the paths in a layer of all projections, of experts only those that write."""
        found = _experts(layer)
        if found is not None and isinstance(found[1], nn.ModuleList):
            written = [path.removesuffix(".weight") for path, _ in _of_experts(*found)]
            return [*self.of_flag("attention_bias"), *written]
        dense = self.of_flag("mlp_bias") if found is None else ()
        return [*self.of_flag("attention_bias"), *dense]

    def has_experts(self, layer: nn.Module) -> bool:
        """Return whether a layer's MLP is a mixture of experts."""
        return _experts(layer) is not None

    def biased(self, layer: nn.Module) -> list[str]:
        """Return the paths in a layer of the projections that write, where they have a bias."""
        last = [self.of_flag("attention_bias")[-1]]
        last += self.of_flag("mlp_bias")[-1:] if _experts(layer) is None else ()
        return [path for path in last if _linear(layer, path).bias is not None]

    def weights(self, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights ``[H, inputs]`` that write into the stream, with paths in the layer.

        Raises:
            ValueError: experts whose weights are not known.
        """
        attention = self.of_flag("attention_bias")[-1]
        yield f"{attention}.weight", _linear(layer, attention).weight
        found = _experts(layer)
        if found is None:
            path = self.of_flag("mlp_bias")[-1]
            yield f"{path}.weight", _linear(layer, path).weight
        else:
            yield from _of_experts(*found)


_CAUSAL = {
    "llama.modeling_llama.LlamaForCausalLM": StreamWriters(flags=FLAGS),
    "mistral.modeling_mistral.MistralForCausalLM": StreamWriters(),
    "qwen2.modeling_qwen2.Qwen2ForCausalLM": StreamWriters(),
    "qwen3.modeling_qwen3.Qwen3ForCausalLM": StreamWriters(flags=FLAGS[:1]),
    "smollm3.modeling_smollm3.SmolLM3ForCausalLM": StreamWriters(flags=FLAGS),
    "phi3.modeling_phi3.Phi3ForCausalLM": StreamWriters(
        ("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj")
    ),
    "mixtral.modeling_mixtral.MixtralForCausalLM": StreamWriters(),
    "qwen3_moe.modeling_qwen3_moe.Qwen3MoeForCausalLM": StreamWriters(flags=FLAGS[:1]),
    "gemma.modeling_gemma.GemmaForCausalLM": StreamWriters(flags=FLAGS[:1], scaled=True),
    "gemma2.modeling_gemma2.Gemma2ForCausalLM": StreamWriters(normed=True, scaled=True),
    "gemma3.modeling_gemma3.Gemma3ForCausalLM": StreamWriters(normed=True, scaled=True),
}


def stream_writers(model: nn.Module) -> StreamWriters | None:
    """Return what writes into the stream of a causal model of exactly a known class."""
    kind = type(model)
    path = f"{kind.__module__}.{kind.__qualname__}"
    return _CAUSAL.get(path.removeprefix("transformers.models."))


def known_causal_models() -> str:
    """Return the names of the known classes, as text."""
    return ", ".join(path.rpartition(".")[-1] for path in _CAUSAL)


def embedding_scale(model: Any) -> float:
    """Return what a model of a known class multiplies its embeddings by."""
    writers = stream_writers(model)
    if writers is None or not writers.scaled:
        return 1.0
    embedding: Any = model.model.embed_tokens
    scale: Tensor | None = embedding._buffers.get("embed_scale")
    if scale is None:  # of transformers 4, in whose Gemma the decoder multiplies
        scale = embedding.weight.new_tensor(model.config.hidden_size**0.5)
    return float(scale.to(embedding.weight.dtype))


def _experts(layer: nn.Module) -> tuple[str, nn.Module] | None:
    """Return the experts of a layer and their path in it; None where its MLP is dense."""
    for path in ("mlp", "block_sparse_moe"):  # the second: Mixtral's of transformers 4
        block = layer._modules.get(path)
        experts = None if block is None else block._modules.get("experts")
        if experts is not None:
            return f"{path}.experts", experts
    return None


def _of_experts(path: str, experts: nn.Module) -> Iterator[tuple[str, Tensor]]:
    packed = experts._parameters.get("down_proj")
    if packed is not None and packed.dim() == 3:
        for number in range(len(packed)):
            yield f"{path}.down_proj[{number}]", packed[number]
        return
    if not isinstance(experts, nn.ModuleList):
        raise ValueError(
            f"{path} is a {type(experts).__name__} whose weights are not known: it has no "
            "down_proj [experts, H, inputs]"
        )
    for number, expert in enumerate(experts):  # of transformers 4
        name = "w2" if "w2" in expert._modules else "down_proj"
        yield f"{path}.{number}.{name}.weight", _linear(expert, name).weight


def _linear(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)
