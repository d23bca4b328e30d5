"""Models of users' own classes are left as they want by install(), or stay stock with a warning."""

from typing import Any

import pytest
import torch
import transformers
from patched_tiny import IDS, VECTOR, close
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import faststeer

pytestmark = pytest.mark.usefixtures("undone")


class OwnLayer(LlamaDecoderLayer):
    """Layer of a user-defined model."""


class OwnModel(transformers.LlamaModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for index in range(config.num_hidden_layers):
            self.layers[index] = OwnLayer(config, index)
        self.post_init()


class OwnDecoder(transformers.LlamaModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layers = self.layers[:2]


def test_models_that_change_themselves_after_post_init_are_left_as_they_want(plain) -> None:
    faststeer.install()
    own = OwnModel(plain.config)
    assert {type(layer) for layer in own.layers} == {OwnLayer}
    with pytest.raises(ValueError, match="OwnLayer; only the stock LlamaDecoderLayer"):
        faststeer.patch(own)
    shorter = OwnDecoder(plain.config).eval()
    patched = faststeer.patch(shorter)
    assert patched.num_layers == 2
    with torch.no_grad():
        stock = shorter(IDS).last_hidden_state
        patched.steer(VECTOR.select([1]), 2.0)
        assert not close(shorter(IDS).last_hidden_state, stock)


def test_a_class_that_cannot_be_fused_is_created_with_a_warning(plain, monkeypatch) -> None:
    faststeer.install()
    monkeypatch.setattr(transformers.models.llama.modeling_llama, "LlamaDecoderLayer", OwnLayer)
    with pytest.warns(faststeer.FaststeerWarning, match="a LlamaModel stays stock: layer 0 is a"):
        model = transformers.LlamaModel(plain.config)
    assert type(model.layers[0]) is OwnLayer
