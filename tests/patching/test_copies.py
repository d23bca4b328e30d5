"""A patched model can be saved as a checkpoint but not copied."""

import copy
import io
import pickle

import pytest
import torch
from patched_tiny import VECTOR, close, expected_with_hooks, logits

import faststeer


def saved(model) -> None:
    torch.save(model, io.BytesIO())


@pytest.mark.parametrize("part", ["whole", "layer"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (copy.deepcopy, "cannot be copied.*unpatch.. it, copy, and patch.. both"),
        (pickle.dumps, "cannot be pickled.*save_pretrained or state_dict"),
        (saved, "cannot be pickled, nor saved whole by torch.save"),
    ],
)
def test_copies_and_pickles_of_a_patched_model_are_refused_until_it_is_unpatched(
    tiny_model, make, message, part
) -> None:
    expected, stock = expected_with_hooks(tiny_model), logits(tiny_model)
    what = tiny_model if part == "whole" else tiny_model.model.layers[1]
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        with pytest.raises(TypeError, match=message):
            make(what)
        with pytest.raises(TypeError, match=message):
            make(patched)
        assert close(logits(tiny_model), expected)
    make(what)
    assert torch.equal(logits(tiny_model), stock)


def test_save_pretrained_and_state_dict_of_a_patched_model_are_the_stock_ones(
    tiny_model, tmp_path
) -> None:
    stock, state = logits(tiny_model), copy.deepcopy(tiny_model.state_dict())
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        tiny_model.save_pretrained(tmp_path)
        file = io.BytesIO()
        torch.save(tiny_model.state_dict(), file)
    loaded = type(tiny_model).from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), stock)
    file.seek(0)
    found = torch.load(file, weights_only=True)
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
