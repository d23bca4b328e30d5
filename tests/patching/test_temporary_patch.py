"""Measurements leave a model in its previous state: stock, fused by `install`, or patched."""

from __future__ import annotations

import pytest
import torch
from patched_tiny import IDS
from plain_hooks import random_vector

import faststeer
from faststeer import diagnostics
from faststeer.models.patch_mark import MARK
from faststeer.patching.patch import temporarily_patched
from faststeer.patching.unclaimed import UnclaimedPatch


def captured(model, tokenizer) -> None:
    with faststeer.capture(model), torch.no_grad():
        model(IDS)


def calibrated(model, tokenizer) -> None:
    diagnostics.calibrate(model, tokenizer, random_vector("v", [1]), 0.1, texts=["a text"])


def failed(model, tokenizer) -> None:
    with pytest.raises(KeyError), temporarily_patched(model):
        raise KeyError


@pytest.mark.parametrize("use", [captured, calibrated, failed])
def test_a_model_of_each_kind_is_restored_after_a_measurement(
    make_tiny, byte_tokenizer, use
) -> None:
    stock = make_tiny()
    layer = type(stock.model.layers[0])
    use(stock, byte_tokenizer)
    assert type(stock.model.layers[0]) is layer
    assert MARK not in stock.model.__dict__

    faststeer.install()
    try:
        fused = make_tiny()
        use(fused, byte_tokenizer)
        assert isinstance(fused.model.__dict__[MARK], UnclaimedPatch)
        assert type(fused.model.layers[0]) is not layer
    finally:
        faststeer.uninstall()
    assert type(fused.model.layers[0]) is layer

    with faststeer.patch(stock) as patched:
        handle = patched.steer(random_vector("own", [0]))
        use(stock, byte_tokenizer)
        assert stock.model.__dict__[MARK] is patched
        assert handle.active
