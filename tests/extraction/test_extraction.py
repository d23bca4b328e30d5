from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from places import ROOT, SUPPORT
from residual_streams import SITES, row_error
from tiny import ByteTokenizer, MakeTiny
from torch import nn
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector
from faststeer.models.fingerprint import fingerprint

PAIRS = [(f"yes {'a' * (n % 7)}", f"no {'b' * (n % 5)} {n}") for n in range(30)]


def extract(model: Any, tokenizer: Any, *pairs: Any, **options: Any) -> SteeringVector:
    return faststeer.extract(model, tokenizer, *pairs, progress=False, **options)


def stacked(vector: SteeringVector) -> torch.Tensor:
    return torch.stack([vector.directions[layer] for layer in vector.layers])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("read_token", [-1, -2])
def test_a_vector_is_the_difference_of_the_mean_activations(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str, read_token: int
) -> None:
    options: dict[str, Any] = {"site": site, "read_token": read_token, "progress": False}
    means = [
        faststeer.activations(tiny_model, byte_tokenizer, texts, **options).double().mean(0)
        for texts in zip(*PAIRS, strict=True)
    ]
    vector = extract(tiny_model, byte_tokenizer, PAIRS, site=site, read_token=read_token)
    assert vector.site == site
    assert vector.layers == [0, 1, 2, 3]
    assert row_error(stacked(vector), means[0] - means[1]) < 1e-6


def test_two_sets_of_texts_give_the_vector_of_their_pairs(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    positive, negative = zip(*PAIRS, strict=True)
    paired = extract(tiny_model, byte_tokenizer, PAIRS)
    of_sets = extract(tiny_model, byte_tokenizer, positive=positive, negative=iter(negative))
    assert row_error(stacked(of_sets), stacked(paired)) < 1e-5


def test_sets_of_unequal_size_have_equal_weight(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    once = extract(tiny_model, byte_tokenizer, positive=["a"], negative=["b"])
    often = extract(tiny_model, byte_tokenizer, positive=["a"] * 9, negative=["b"] * 2)
    assert row_error(stacked(often), stacked(once)) < 1e-5


def test_swapping_the_sides_negates_the_vector(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    there = extract(tiny_model, byte_tokenizer, PAIRS)
    back = extract(tiny_model, byte_tokenizer, [(b, a) for a, b in PAIRS])
    assert row_error(stacked(-back), stacked(there)) < 1e-5


def test_a_vector_states_how_it_was_made(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    tiny_model.config._name_or_path = "tiny"
    vector = extract(tiny_model, byte_tokenizer, PAIRS, name="yes-no", read_token=-2)
    assert vector.name == "yes-no"
    assert vector.metadata == {
        "model": "tiny",
        "fingerprint": fingerprint(tiny_model.model),
        "hidden_size": 64,
        "num_layers": 4,
        "method": "mean_difference",
        "read_token": -2,
        "positives": 30,
        "negatives": 30,
        "pairs": 30,
        "faststeer": faststeer.__version__,
    }
    of_sets = extract(tiny_model, byte_tokenizer, positive=["a"] * 3, negative=["b"])
    assert (of_sets.metadata["positives"], of_sets.metadata["negatives"]) == (3, 1)
    assert "pairs" not in of_sets.metadata


def test_the_same_extraction_gives_the_same_bits(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    first, second = (stacked(extract(tiny_model, byte_tokenizer, PAIRS)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("site", "ran"),
    [
        ("resid_pre", ["attention 0", "mlp 0", "attention 1", "mlp 1"]),
        ("resid_mid", ["attention 0", "mlp 0", "attention 1", "mlp 1", "attention 2"]),
        ("resid_post", ["attention 0", "mlp 0", "attention 1", "mlp 1", "attention 2", "mlp 2"]),
    ],
)
def test_nothing_runs_after_the_last_layer_that_is_read(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str, ran: list[str]
) -> None:
    calls: list[str] = []

    def watch(module: nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda *_: calls.append(name))

    for number, layer in enumerate(tiny_model.model.layers):
        watch(layer.self_attn, f"attention {number}")
        watch(layer.mlp, f"mlp {number}")
    watch(tiny_model.model.norm, "final norm")
    watch(tiny_model.lm_head, "logits")
    extract(tiny_model, byte_tokenizer, PAIRS[:2], layers=[2, 0], site=site)
    assert calls == ran


def test_the_final_norm_and_the_logits_are_never_computed(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    for module in (tiny_model.model.norm, tiny_model.lm_head):
        module.register_forward_pre_hook(lambda *_: pytest.fail("computed"))
    extract(tiny_model, byte_tokenizer, PAIRS[:2])


def test_pairs_are_consumed_from_a_stream_as_needed(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    given = 0

    def stream() -> Iterator[tuple[str, str]]:
        nonlocal given
        for pair in PAIRS * 4:
            given += 1
            yield pair

    given_at_forward: list[int] = []
    tiny_model.model.register_forward_pre_hook(lambda *_: given_at_forward.append(given))
    vector = extract(tiny_model, byte_tokenizer, stream(), batch_size=2)
    assert given_at_forward[0] <= 16
    assert given == vector.metadata["pairs"] == 120


def state(model: nn.Module) -> list[Any]:
    """Return all state that an extraction might leave on a module."""
    return [
        (
            *(name, type(module), module.training, sorted(module.__dict__)),
            *(dict(module._forward_hooks), dict(module._forward_pre_hooks)),
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("patched", [False, True])
def test_an_extraction_leaves_the_model_unchanged(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, patched: bool
) -> None:
    tiny_model.train()
    tiny_model.model.layers[1].eval()  # as when only the other layers are trained
    if patched:
        faststeer.patch(tiny_model)
    before = state(tiny_model)
    extract(tiny_model, byte_tokenizer, PAIRS, layers=[0, 2])
    assert state(tiny_model) == before
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


@pytest.mark.parametrize("reason", [RuntimeError, KeyboardInterrupt])
def test_an_extraction_that_fails_midway_leaves_the_model_unchanged(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, reason: type[BaseException]
) -> None:
    forwards = 0

    def fail(*_: Any) -> None:
        nonlocal forwards
        forwards += 1
        if forwards == 3:
            raise reason

    tiny_model.train()
    tiny_model.model.layers[2].register_forward_pre_hook(fail)
    before = state(tiny_model)
    with pytest.raises(reason):
        extract(tiny_model, byte_tokenizer, PAIRS)
    assert forwards == 3
    assert state(tiny_model) == before
    assert torch.is_grad_enabled()


def test_an_extraction_records_nothing_for_a_backward_pass(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    recorded: list[bool] = []
    tiny_model.model.layers[1].register_forward_pre_hook(
        lambda module, args: recorded.append(args[0].requires_grad)
    )
    extract(tiny_model.train(), byte_tokenizer, PAIRS[:2])
    assert recorded == [False]


def test_dropout_of_a_model_in_training_mode_does_not_affect_the_vector(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer
) -> None:
    model = make_tiny(attention_dropout=0.5)
    calm = stacked(extract(model, byte_tokenizer, PAIRS))
    assert torch.equal(stacked(extract(model.train(), byte_tokenizer, PAIRS)), calm)


MEMORY = """
import resource
from tiny import ByteTokenizer, make_tiny_model
import faststeer

model = make_tiny_model(layers=8, hidden=1024, head_dim=8, intermediate_size=16)

def peak_after(pairs):
    stream = ((f"yes {n}", f"no {n}") for n in range(pairs))
    faststeer.extract(model, ByteTokenizer(), stream, batch_size=64, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(peak_after(512), peak_after(2048))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    settings = {"PYTHONPATH": f"{SUPPORT}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | settings
    )
    few, many = map(int, done.stdout.split())
    kept = 2 * 1536 * 8 * 1024 * 4 // 1024  # KiB; storing the activations would take 98,304
    assert many - few < kept / 10
