from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from residual_streams import SITES, residual_streams, row_error
from tiny import ByteTokenizer, MakeTiny
from torch import Tensor
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector
from faststeer.models.loading import Loaded

TEXTS = ["a", "some text", "a longer text, to be padded against", "", "ünï", "text " * 20]


def expected(model: Any, tokenizer: Any, texts: list[str], site: str, read_token: int) -> Tensor:
    streams = [residual_streams(model, tokenizer(text)["input_ids"])[site] for text in texts]
    return torch.stack([stream[:, read_token] for stream in streams])


def read(model: Any, tokenizer: Any, texts: Any = TEXTS, **options: Any) -> Tensor:
    return faststeer.activations(model, tokenizer, texts, progress=False, **options)


@pytest.mark.parametrize("site", SITES)
def test_activations_are_those_of_each_text_run_alone(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer, site: str
) -> None:
    model = make_tiny(dtype=torch.float64, attention_bias=True, mlp_bias=True)
    stock = expected(model, byte_tokenizer, TEXTS, site, -1)
    assert row_error(read(model, byte_tokenizer, site=site), stock) < 1e-6


def test_the_second_to_last_token_is_read_on_request(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    texts = [text for text in TEXTS if text]
    stock = expected(tiny_model, byte_tokenizer, texts, "resid_post", -2)
    assert row_error(read(tiny_model, byte_tokenizer, texts, read_token=-2), stock) < 1e-5


def test_activations_of_a_real_model_are_those_of_each_text_run_alone(
    demo: Loaded, prose: list[str]
) -> None:
    texts = [prose[0][:400], prose[1][:40], prose[2][:150]]
    streams = [residual_streams(demo.model, demo.tokenizer(t)["input_ids"]) for t in texts]
    for site in SITES:
        found = read(demo.model, demo.tokenizer, texts, site=site, layers=[0, 14, 29])
        stock = torch.stack([stream[site][[0, 14, 29], -1] for stream in streams])
        assert row_error(found, stock) < 1e-4, site


@pytest.mark.parametrize("site", SITES)
def test_activations_do_not_depend_on_batch_size(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str
) -> None:
    alone = read(tiny_model, byte_tokenizer, site=site, batch_size=1)
    for batch_size in (2, 4, 100):
        together = read(tiny_model, byte_tokenizer, site=site, batch_size=batch_size)
        assert row_error(together, alone) < 1e-5


def test_activations_do_not_depend_on_the_padding_token(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    without = read(tiny_model, byte_tokenizer)
    byte_tokenizer.pad_token_id = 300
    assert torch.equal(read(tiny_model, byte_tokenizer), without)


@pytest.mark.parametrize("site", SITES)
def test_activations_do_not_depend_on_the_model_being_patched(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str
) -> None:
    stock = read(tiny_model, byte_tokenizer, site=site)
    with faststeer.patch(tiny_model):
        assert row_error(read(tiny_model, byte_tokenizer, site=site), stock) < 1e-5


@pytest.mark.parametrize("site", SITES)
def test_a_patched_model_is_read_steered_and_unsteered_within_off(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str
) -> None:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    stock = read(tiny_model, byte_tokenizer, site=site)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(SteeringVector("v", {0: direction}, site), 3.0)
        steered = read(tiny_model, byte_tokenizer, site=site)
        with patched.off():
            bare = read(tiny_model, byte_tokenizer, site=site)
    assert row_error(steered[:, 0], stock[:, 0] + 3.0 * direction) < 1e-5
    assert row_error(steered[:, 1:], stock[:, 1:]) > 0.1  # the difference persists in later layers
    assert row_error(bare, stock) < 1e-5


def test_rows_are_in_the_order_of_the_texts_though_batches_are_sorted_by_length(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    texts = [f"{'x' * (number * 37 % 50)} {number}" for number in range(70)]
    one_by_one = torch.cat([read(tiny_model, byte_tokenizer, [text]) for text in texts])
    assert row_error(read(tiny_model, byte_tokenizer, texts, batch_size=2), one_by_one) < 1e-5


def test_only_the_chosen_layers_are_returned_in_ascending_order(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    every = read(tiny_model, byte_tokenizer)
    assert every.shape == (len(TEXTS), 4, 64)
    assert torch.equal(read(tiny_model, byte_tokenizer, layers=[3, 1]), every[:, [1, 3]])
    assert torch.equal(read(tiny_model, byte_tokenizer, layers=2), every[:, [2]])


def test_texts_are_cut_after_max_length_tokens(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    cut = read(tiny_model, byte_tokenizer, ["abcdef"], max_length=4)
    assert row_error(cut, read(tiny_model, byte_tokenizer, ["abc"])) < 1e-5


def test_special_tokens_are_omitted_on_request(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    found = read(tiny_model, byte_tokenizer, ["abc"], add_special_tokens=False)
    stock = residual_streams(tiny_model, list(b"abc"))["resid_post"][:, -1]
    assert row_error(found[0], stock) < 1e-5


def test_activations_are_float32_on_the_cpu_whatever_the_model_s_dtype(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer
) -> None:
    found = read(make_tiny(dtype=torch.bfloat16), byte_tokenizer)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert torch.equal(found, found.bfloat16().float())  # in the model's dtype


@pytest.mark.parametrize("name", ["GPT2", "Bloom"])
def test_decoders_of_unknown_families_can_be_read(byte_tokenizer: ByteTokenizer, name: str) -> None:
    """Bloom takes no position_ids."""
    config = getattr(transformers, f"{name}Config")(
        vocab_size=512, hidden_size=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(config).eval()
    texts = [text for text in TEXTS if text]
    with torch.no_grad():
        states = [
            model(torch.tensor([byte_tokenizer(text)["input_ids"]]), output_hidden_states=True)
            for text in texts
        ]
    for site, first in (("resid_pre", 0), ("resid_post", 1)):
        wanted = [torch.cat(each.hidden_states[first : first + 2])[:, -1] for each in states]
        found = read(model, byte_tokenizer, texts, site=site, layers=[0, 1])
        assert row_error(found, torch.stack(wanted)) < 1e-5
    pair = [("yes, and yes again", "yes, and no")]
    made = faststeer.extract(model, byte_tokenizer, pair, layers=1, progress=False)
    one, other = read(model, byte_tokenizer, pair[0], layers=1)[:, 0]
    assert row_error(made.directions[1], one - other) < 1e-4
    with pytest.raises(ValueError, match=f"resid_mid of a {name}Model cannot be read"):
        read(model, byte_tokenizer, site="resid_mid")
