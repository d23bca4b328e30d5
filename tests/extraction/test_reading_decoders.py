"""Activations and vectors of any decoder are those of each text alone, unaffected by padding.

Compared with states that plain hooks store, of one text per forward pass and without padding.
"""

from __future__ import annotations

import pytest
import torch
from read_texts import CLOSE, TEXTS, read
from residual_streams import row_error
from tiny import ByteTokenizer
from torch import Tensor
from unusual_decoders import BUILDABLE, SMALL, stored_states, strange

import faststeer
from faststeer.models.text_calls import decoder_of

PAIRS = [("I love it", "I hate it, and more"), ("so good", "bad"), ("yes, it is", "no")]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


@pytest.mark.parametrize("name", BUILDABLE)
def test_the_last_token_of_padded_texts_is_that_of_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    alone = [stored_states(model, byte_tokenizer(text)["input_ids"]) for text in TEXTS]
    last = torch.stack([states[:, -1] for states in alone])
    before = torch.stack([states[:, -2] for states in alone])
    assert row_error(before, last) > 0.1  # another token would be detected
    assert row_error(read(model, byte_tokenizer), last) < CLOSE


@pytest.mark.parametrize("name", ["RobertaForCausalLM", "BartForCausalLM"])
def test_adding_position_ids_or_left_padding_would_be_wrong(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    ids = byte_tokenizer("some text")["input_ids"]
    right = stored_states(model, ids)[-1]
    decoder = decoder_of(model)
    with torch.no_grad():
        if name.startswith("Roberta"):
            given = {"input_ids": torch.tensor([ids]), "position_ids": torch.arange(len(ids))[None]}
        else:
            mask = torch.tensor([[0, 0] + [1] * len(ids)])
            given = {"input_ids": torch.tensor([[1, 1, *ids]]), "attention_mask": mask}
        wrong: Tensor = decoder(**given).last_hidden_state[0, -len(ids) :]
        own: Tensor = decoder(torch.tensor([ids])).last_hidden_state[0]
    assert row_error(wrong, own) > 0.05
    assert row_error(read(model, byte_tokenizer, ["some text", "a"])[0, -1], right[-1]) < CLOSE


@pytest.mark.parametrize("name", SMALL)
def test_several_tokens_and_the_second_to_last_are_those_of_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    alone = [stored_states(model, byte_tokenizer(text)["input_ids"]) for text in TEXTS]
    for read_token, expected in (
        (-2, [states[:, -2] for states in alone]),
        ("all", [states.mean(1) for states in alone]),
        (range(1, 3), [states[:, 1:3].mean(1) for states in alone]),
    ):
        found = read(model, byte_tokenizer, read_token=read_token)
        assert row_error(found, torch.stack(expected)) < CLOSE, read_token


@pytest.mark.parametrize("name", SMALL)
def test_a_vector_is_the_mean_difference_of_the_states_of_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    sides = [
        torch.stack(
            [stored_states(model, byte_tokenizer(pair[side])["input_ids"])[:, -1] for pair in PAIRS]
        )
        for side in (0, 1)
    ]
    expected = (sides[0] - sides[1]).mean(0)
    vector = faststeer.extract(model, byte_tokenizer, PAIRS, progress=False)
    found = torch.stack([vector.directions[layer] for layer in vector.layers])
    assert row_error(found, expected) < 1e-4


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("Rwkv")])
def test_steering_of_some_tokens_is_read_as_in_each_text_alone(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    vector = faststeer.SteeringVector("v", {0: torch.ones(64)})
    stock = read(model, byte_tokenizer, layers=[1, 2])
    with faststeer.patch(model) as patched:
        if patched.signature.unknown:  # RecurrentGemma of transformers 4.57
            with pytest.raises(ValueError, match="is known to carry its past"):
                patched.steer(vector, 2.0, positions=range(-2, 0))
            return
        patched.steer(vector, 2.0, positions=range(-2, 0))
        alone = torch.cat([read(model, byte_tokenizer, [text], layers=[1, 2]) for text in TEXTS])
        found = read(model, byte_tokenizer, layers=[1, 2])
    assert row_error(stock, alone) > 0.05
    assert row_error(found, alone) < CLOSE


@pytest.mark.parametrize("name", SMALL)
def test_the_input_of_a_layer_is_the_output_of_the_previous_one(
    name: str, byte_tokenizer: ByteTokenizer
) -> None:
    model = strange(name)
    after = read(model, byte_tokenizer, layers=[0, 1])
    before = read(model, byte_tokenizer, layers=[1, 2], site="resid_pre")
    assert torch.equal(before, after)


def test_texts_and_tokens_of_equal_number_are_not_confused_in_xlnet(
    byte_tokenizer: ByteTokenizer,
) -> None:
    model = strange("XLNetLMHeadModel")
    texts = ["abc", "xyz", "123", "pqr"]  # four tokens each: [T, B, H] is [4, 4, H]
    alone = [stored_states(model, byte_tokenizer(text)["input_ids"]) for text in texts]
    last = torch.stack([states[:, -1] for states in alone])
    assert row_error(torch.stack(list(alone[-1].unbind(1))), last) > 0.1
    assert row_error(read(model, byte_tokenizer, texts), last) < CLOSE
