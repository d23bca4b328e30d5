"""The LoRA of an ablation, loaded by PEFT, does what `Patched.ablate` does."""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from baking import BIASED, IDS, near
from plain_hooks import random_vector
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_families import MORE
from torch import Tensor, nn
from unknown_decoders import make

import faststeer
from faststeer import SteeringVector
from faststeer.cli import main

peft = pytest.importorskip("peft")

GOOD = random_vector("v", [1, 2]) * 3.0
DENSE = ["Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3", "Phi3", "Gemma"]
CONFIGS: list[tuple[str, dict[str, Any]]] = [(name, MORE[name]) for name in DENSE]
CONFIGS.append(("Llama", {"tie_word_embeddings": True}))


def logits(model: Any, ids: Tensor = IDS, **how: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids, **how).logits
    return found


def ablated(model: Any, vector: SteeringVector, layer: int, ids: Tensor = IDS) -> Tensor:
    with faststeer.patch(model) as patched:
        patched.ablate(vector, layer=layer)
        return logits(model, ids)


def adapted(model: nn.Module, folder: Path) -> Any:
    """Return a copy of the model with the adapter, not merged."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def merged(model: nn.Module, folder: Path) -> Any:
    """Return a copy of the model with the adapter merged; its head keeps its own weight."""
    own: Any = copy.deepcopy(model)
    own.lm_head.weight = nn.Parameter(own.lm_head.weight.detach().clone())
    return peft.PeftModel.from_pretrained(own, folder).merge_and_unload().eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("family", "config"), CONFIGS, ids=str)
def test_it_gives_the_logits_of_ablate_merged_or_not(make_tiny, tmp_path, family, config) -> None:
    model = make_tiny(family=family, **config)
    idle, before = logits(model), copy.deepcopy(model.state_dict())
    expected = ablated(model, GOOD, 2)
    folder = tmp_path / "adapter"
    assert faststeer.to_lora(model, GOOD, 2, output=folder) == folder
    assert (expected - idle).abs().max() > 0.1
    assert all(torch.equal(model.state_dict()[key], own) for key, own in before.items())
    found = adapted(model, folder)
    assert near(logits(found), expected)
    assert torch.equal(found.get_output_embeddings().weight, model.lm_head.weight)
    # Twice as far: PEFT rounds the product before it adds it, and rounds the sum.
    difference = (logits(merged(model, folder)) - expected).abs().max()
    assert difference < 4e-6 * max(1, expected.abs().max())
    with found.disable_adapter():
        assert torch.equal(logits(found), idle)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_request_of_a_batch_has_it_or_not(make_tiny, tmp_path) -> None:
    model = make_tiny(tie_word_embeddings=True)
    faststeer.to_lora(model, GOOD, 1, output=tmp_path / "adapter")
    found = logits(
        adapted(model, tmp_path / "adapter"), adapter_names=["default", "__base__", "default"]
    )
    expected, idle = ablated(model, GOOD, 1), logits(model)
    assert near(found[[0, 2]], expected[[0, 2]])
    assert near(found[1], idle[1])
    assert not near(found[1], expected[1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_smollm2_the_logits_agree_to_a_ten_thousandth(demo, tmp_path, figure) -> None:
    ids = demo.tokenizer("The hotel was quiet, and the food", return_tensors="pt").input_ids
    vector = random_vector("v", [15], demo.model.config.hidden_size)
    idle, expected = logits(demo.model, ids), ablated(demo.model, vector, 15, ids)
    faststeer.to_lora(demo.model, vector, output=tmp_path / "adapter")
    scale = expected.norm()
    assert (expected - idle).norm() > 0.01 * scale
    for name, model in (("unmerged", adapted), ("merged", merged)):
        error = float((logits(model(demo.model, tmp_path / "adapter"), ids) - expected).norm())
        figure(f"LoRA of an ablation on SmolLM2, {name}: relative error {error / scale:.1e}")
        assert error < 1e-4 * scale


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_another_fraction_is_the_one_of_bake(make_tiny, tmp_path) -> None:
    model = make_tiny(tie_word_embeddings=True)
    faststeer.to_lora(model, GOOD, 2, 0.6, output=tmp_path / "adapter")
    baked = faststeer.bake(copy.deepcopy(model), GOOD, 0.6, 2, mode="ablate")
    found = logits(adapted(model, tmp_path / "adapter"))
    assert near(found, logits(baked))
    assert not near(found, ablated(model, GOOD, 2))


def test_without_the_embedding_layers_alone_are_adapted(tiny_model, tmp_path) -> None:
    unit = nn.functional.normalize(GOOD[2], dim=0)
    writers = [layer.self_attn.o_proj for layer in tiny_model.model.layers]
    writers += [layer.mlp.down_proj for layer in tiny_model.model.layers]
    hooks = [
        own.register_forward_hook(lambda m, a, out: out - (out @ unit)[..., None] * unit)
        for own in writers
    ]
    expected = logits(tiny_model)
    for hook in hooks:
        hook.remove()
    faststeer.to_lora(tiny_model, GOOD, 2, output=tmp_path / "adapter", embedding=False)
    assert near(logits(adapted(tiny_model, tmp_path / "adapter")), expected)
    assert not near(expected, ablated(tiny_model, GOOD, 2))


def test_the_files_are_peft_s_of_rank_one(make_tiny, tmp_path) -> None:
    model = make_tiny(torch.bfloat16)
    model.config._name_or_path = "org/model"
    faststeer.to_lora(model, GOOD, 2, output=tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["bias"]) == (1, 1, "none")
    assert config["target_modules"] == ["down_proj", "embed_tokens", "o_proj"]
    assert config["base_model_name_or_path"] == "org/model"
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    assert len(tensors) == 2 * (1 + 2 * 4)
    first = "base_model.model.model.layers.0.mlp.down_proj.lora_"
    unit = nn.functional.normalize(GOOD[2].double(), dim=0)
    weight = model.model.layers[0].mlp.down_proj.weight.double()
    assert torch.equal(tensors[f"{first}A.weight"], (unit @ weight).float()[None])
    assert torch.equal(tensors[f"{first}B.weight"], -unit.float()[:, None])
    assert tensors["base_model.model.model.embed_tokens.lora_embedding_A"].shape == (1, 512)
    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
    assert (facts["vector"], facts["layer"], facts["fraction"]) == ("v", "2", "1.0")


def biased(flag: str) -> dict[str, Any]:
    return {flag: BIASED[flag]}


MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("Llama", biased("attention_bias"), r"layers\.0\.self_attn\.o_proj has a bias, which a LoRA"),
    ("Llama", biased("mlp_bias"), r"layers\.0\.mlp\.down_proj has a bias, which a LoRA does not"),
    ("Mixtral", MORE["Mixtral"], r"model\.layers\.0 has experts, which engines adapt in ways"),
    ("Qwen3Moe", MORE["Qwen3Moe"], r"model\.layers\.0 has experts"),
    ("Gemma2", MORE["Gemma2"], "in a Gemma2ForCausalLM a norm follows what attention and the MLP"),
    ("Gemma3", MORE["Gemma3"], "in a Gemma3ForCausalLM a norm follows"),
]


@pytest.mark.parametrize(("family", "config", "message"), MODELS, ids=lambda own: str(own)[:30])
def test_what_no_lora_does_exactly_is_refused(make_tiny, tmp_path, family, config, message) -> None:
    model = make_tiny(family=family, **config)
    with pytest.raises(ValueError, match=message):
        faststeer.to_lora(model, GOOD, 2, output=tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


ARGUMENTS: list[tuple[type[Exception], tuple[Any, ...], dict[str, Any], str]] = [
    (ValueError, (random_vector("w", [1], 63),), {}, "hidden size 63, but the model's is 64"),
    (ValueError, (GOOD,), {}, r"'v' has layers \[1, 2\]; say which with layer="),
    (ValueError, (GOOD, 3), {}, r"no direction for layer 3; it has \[1, 2\]"),
    (ValueError, (GOOD * 0.0, 1), {}, "the direction is zero; there is none to ablate"),
    (ValueError, (GOOD, 1, math.nan), {}, "fraction of 'v' is nan; expected a finite number"),
    (TypeError, (GOOD, 1, "all"), {}, "fraction of 'v' is a str; expected a number"),
    (TypeError, ("v", 1), {}, r"to_lora\(\) got a str; expected a SteeringVector"),
    (TypeError, (GOOD,), {"layers": 1}, "unexpected keyword argument 'layers'; did you mean layer"),
]


@pytest.mark.parametrize(
    ("kind", "given", "named", "message"), ARGUMENTS, ids=lambda o: str(o)[:20]
)
def test_bad_arguments_are_refused(tiny_model, tmp_path, kind, given, named, message) -> None:
    with pytest.raises(kind, match=message):
        faststeer.to_lora(tiny_model, *given, output=tmp_path / "adapter", **named)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_known_or_not_plain_is_refused(tiny_model, tmp_path) -> None:
    folder = tmp_path / "adapter"
    with pytest.raises(ValueError, match=r"to_lora\(\) does not know the weights of a GPT2LMHead"):
        faststeer.to_lora(make("GPT2"), GOOD, 1, output=folder)
    with pytest.raises(TypeError, match=r"to_lora\(\) got a str; expected a LlamaForCausalLM"):
        faststeer.to_lora("model", GOOD, 1, output=folder)
    (folder / "full").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        faststeer.to_lora(tiny_model, GOOD, 1, output=folder)
    with faststeer.patch(tiny_model), pytest.raises(ValueError, match="the model is patched"):
        faststeer.to_lora(tiny_model, GOOD, 1, output=tmp_path / "other")


@pytest.mark.parametrize(("more", "code"), [("--layer 2", 0), ("--layers 1,2", 2), ("", 2)])
def test_the_command_writes_the_adapter(
    tiny_folder, tmp_path, monkeypatch, capsys, more, code
) -> None:
    file, output = tmp_path / "v.safetensors", tmp_path / "out"
    GOOD.save(file)
    given = f"to-lora {file} --model {tiny_folder} --output {output} --no-embedding {more}"
    monkeypatch.setattr(sys, "argv", ["faststeer", *given.split()])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert (left.value.code or 0) == code
    if code:
        assert "error: " in capsys.readouterr().err
        assert not output.exists()
        return
    assert "v taken out, fraction 1" in capsys.readouterr().out
    assert len(load_file(output / "adapter_model.safetensors")) == 16
