"""What cached activations are of: another model, text or way to read is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cached_runs import PAIRS, Runs, equal, extract
from tiny import MakeTiny
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector

SEED = torch.Generator().manual_seed(0)


def change_last_element(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.view(-1)[-1] += 1e-3


def change_data_in_place(model: Any) -> None:
    model.model.embed_tokens.weight.data[-1, -1] += 1e-3  # no version counter sees it


def exchange_rows(model: Any) -> None:
    weight = model.model.embed_tokens.weight.data
    weight[[400, 401]] = weight[[401, 400]].clone()


def change_configuration(model: Any) -> None:
    model.config.rms_norm_eps *= 2


def change_attribute(model: Any) -> None:
    model.model.layers[1].self_attn.scaling *= 2


def change_buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq *= 2


CHANGES = [
    change_last_element,
    change_data_in_place,
    exchange_rows,
    change_configuration,
    change_attribute,
    change_buffer,
    lambda model: model.to(torch.bfloat16),
    lambda model: setattr(model.config, "_attn_implementation", "eager"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_is_read_again(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs, change: Callable[[Any], None]
) -> None:
    extract(tiny_model, tmp_path)
    assert runs.of(lambda: extract(tiny_model, tmp_path)) == 0
    change(tiny_model)
    uncached = extract(tiny_model)
    found: list[SteeringVector] = []
    assert runs.of(lambda: found.append(extract(tiny_model, tmp_path))) > 0
    assert equal(found[0], uncached)


OTHERS: list[dict[str, Any]] = [
    {"pairs": [("is it 0? Yes", PAIRS[0][1]), *PAIRS[1:]]},
    {"pairs": [tuple(f"[user]{text}" for text in pair) for pair in PAIRS]},  # another template
    {"add_special_tokens": False},
    {"read_token": -2},
    {"read_token": "all"},
    {"site": "resid_mid"},
    {"keep_sinks": True},
    {"max_length": 5},
    {"batch_size": 4},
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
def test_other_texts_and_other_reading_are_read_again(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs, other: dict[str, Any]
) -> None:
    extract(tiny_model, tmp_path)
    pairs = other.get("pairs", PAIRS)
    if "max_length" in other:  # cut, no two texts of a pair differ
        other, pairs = other | {"max_length": 14}, PAIRS
    uncached = extract(tiny_model, **{"pairs": pairs} | other)
    found: list[SteeringVector] = []
    count = runs.of(lambda: found.append(extract(tiny_model, tmp_path, **{"pairs": pairs} | other)))
    assert count > 0
    assert equal(found[0], uncached)


def test_pairs_with_matched_endings_have_the_key_of_their_trimmed_texts(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs
) -> None:
    pairs = [(f"{n} is good, yes!", f"{n} is bad, yes.") for n in range(9)]
    uncached = extract(tiny_model, pairs=pairs, match_endings=True)
    extract(tiny_model, tmp_path, pairs)
    options: dict[str, Any] = {"cache": tmp_path, "pairs": pairs, "match_endings": True}
    assert runs.of(lambda: extract(tiny_model, **options)) > 0
    found: list[SteeringVector] = []
    assert runs.of(lambda: found.append(extract(tiny_model, **options))) == 0
    assert equal(found[0], uncached)


def test_steering_is_never_cached_and_within_off_the_unsteered_model_is_found(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs
) -> None:
    unsteered = extract(tiny_model, tmp_path)
    vector = SteeringVector("v", {1: torch.randn(64, generator=SEED)})
    with faststeer.patch(tiny_model) as patched:
        assert runs.of(lambda: extract(tiny_model, tmp_path)) == 0  # patched, and not steered
        patched.steer(vector, 5.0)
        steered = extract(tiny_model)
        for _ in range(2):
            with pytest.warns(
                faststeer.FaststeerWarning, match=r"not cached: the model is steered"
            ):
                assert equal(extract(tiny_model, tmp_path), steered)
        with patched.off():
            assert runs.of(lambda: extract(tiny_model, tmp_path)) == 0
            assert equal(extract(tiny_model, tmp_path), unsteered)
    assert not equal(steered, unsteered)


def test_a_capture_sees_the_model_run(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs
) -> None:
    extract(tiny_model, tmp_path)
    assert runs.of(lambda: extract(tiny_model, tmp_path)) == 0
    with (
        faststeer.capture(tiny_model, layers=[1]) as moments,
        pytest.warns(
            faststeer.FaststeerWarning, match="not cached: the model is read by a capture"
        ),
    ):
        assert runs.of(lambda: extract(tiny_model, tmp_path)) > 0
    assert int(moments[1].count) > 0


def test_hooks_of_other_code_are_named_and_not_cached(
    tiny_model: LlamaForCausalLM, tmp_path: Path, runs: Runs
) -> None:
    stock = extract(tiny_model, tmp_path)
    hook = tiny_model.model.layers[0].mlp.register_forward_hook(lambda *given: given[-1] + 1.0)
    with pytest.warns(faststeer.FaststeerWarning, match="not cached: .*mlp .* has a forward hook"):
        assert not equal(extract(tiny_model, tmp_path), stock)
    hook.remove()
    assert runs.of(lambda: extract(tiny_model, tmp_path)) == 0


def test_an_adapter_counts_while_it_is_enabled(tmp_path: Path, make_tiny: MakeTiny) -> None:
    peft = pytest.importorskip("peft")
    base = make_tiny()
    stock = extract(base, tmp_path)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config).eval()
    uncached = extract(model)
    for _ in range(2):
        assert equal(extract(model, tmp_path), uncached)
        with model.disable_adapter():
            off = extract(model, tmp_path)
        assert all(torch.equal(off.directions[n], stock.directions[n]) for n in stock.layers)
    assert not torch.equal(uncached.directions[3], stock.directions[3])
    model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] *= 2
    doubled = extract(model, tmp_path)
    assert not torch.equal(doubled.directions[3], uncached.directions[3])
