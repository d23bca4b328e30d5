"""The benchmark of the backward pass compares equal gradients."""

import backward
import pytest
import torch

import faststeer
from faststeer import ops
from faststeer.diagnostics.bench.variants import vectors_on_all_layers


@pytest.mark.parametrize("learned", [True, False])
def test_the_formulas_give_the_kernels_gradients(
    monkeypatch: pytest.MonkeyPatch, learned: bool
) -> None:
    monkeypatch.setattr(backward, "HIDDEN", 64)
    given = backward.inputs(rows=12, settings=4)
    found = []
    for forward in (ops.steer_add_rms_norm, backward.norm_by_formulas):
        torch.manual_seed(1)  # of the gradients
        calls = backward.calls_of(given, forward, learned)
        found.append([call() for call in calls.values()])
    for one, other in zip(*found, strict=True):
        for gradient, expected in zip(one, other, strict=True):
            assert float(expected.abs().max()) > 0
            torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=2e-2)


def test_a_model_trains_through_the_formulas_too(tiny_model, monkeypatch) -> None:
    ids, used = torch.randint(0, 500, (2, 8)), []
    monkeypatch.setattr(
        backward,
        "entry_formulas",
        lambda *a, own=backward.entry_formulas: used.append(1) or own(*a),
    )
    with faststeer.patch(tiny_model.requires_grad_(False)) as patched:
        learned = patched.learn(vectors_on_all_layers(tiny_model, 1)[0], 1.0)
        gradients = []
        for formulas in (False, True):
            learned.zero_grad()
            if formulas:
                with backward.formulas_in_models():
                    tiny_model(ids, labels=ids, use_cache=False).loss.backward()
            else:
                tiny_model(ids, labels=ids, use_cache=False).loss.backward()
                assert not used
            gradients.append([p.grad.clone() for p in learned.parameters()])
    assert used
    assert ops.steer_add is not backward.add_by_formulas
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
