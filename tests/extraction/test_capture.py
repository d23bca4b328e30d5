"""faststeer.capture: moments of a model's activations during its forward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from by_token import greedy, padded
from plain_hooks import random_vector
from residual_streams import SITES, residual_streams
from torch import Tensor

import faststeer
from faststeer.vectors.sites import Site

IDS, MASK = padded((3, 7, 5, 7))
BATCHES = [(IDS, MASK), (IDS.flip(0), MASK.flip(0)), (IDS[:1, -3:], None)]


def texts() -> list[list[int]]:
    """Return the token ids of every sequence, without padding."""
    return [
        row[torch.ones_like(row, dtype=torch.bool) if mask is None else mask[n].bool()].tolist()
        for ids, mask in BATCHES
        for n, row in enumerate(ids)
    ]


def stored(model: Any, site: str, chosen: slice) -> Any:
    """Return float64 activations ``[N, L, H]`` of the chosen tokens, each text run alone."""
    rows = [residual_streams(model, ids)[site][:, chosen] for ids in texts()]
    return torch.cat(rows, 1).transpose(0, 1).double().numpy()


def run(model: Any) -> None:
    with torch.no_grad():
        for ids, mask in BATCHES:
            model.model(input_ids=ids, attention_mask=mask)


def check(moments: dict[int, faststeer.Moments], rows: Any, within: float) -> None:
    for place, own in enumerate(moments.values()):
        assert own.count.tolist() == [len(rows)]
        deviation = rows[:, place].std(0)
        assert (np.abs(own.mean[0].numpy() - rows[:, place].mean(0)) <= within * deviation).all()
        np.testing.assert_allclose(own.variance[0].numpy(), rows[:, place].var(0), rtol=within)


CHOSEN: dict[str, tuple[Any, slice]] = {
    "all": ("all", slice(None)),
    "last": ("last", slice(-1, None)),
    "the one before": (range(-2, -1), slice(-2, -1)),
    "range": (range(1, 3), slice(1, 3)),
    "function": (lambda positions, lengths: positions >= lengths - 2, slice(-2, None)),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_moments_are_those_of_each_text_run_alone(make_tiny, name) -> None:
    model = make_tiny(dtype=torch.float64)
    positions, chosen = CHOSEN[name]
    for site in SITES:
        with faststeer.capture(model, site=site, positions=positions) as moments:
            run(model)
        assert list(moments) == [0, 1, 2, 3]
        check(moments, stored(model, site, chosen), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_the_float64_moments_of_the_same_activations(make_tiny, dtype) -> None:
    model, kept = make_tiny(dtype=dtype), []
    with faststeer.patch(model) as patched:
        for layer in range(4):
            table = patched.plan.tables[Site(layer, "resid_post")]
            table.readers.append(lambda hidden: kept.append(hidden.double()))
        with faststeer.capture(model) as moments:
            run(model)
    rows = torch.cat(
        [
            torch.stack(kept[4 * n : 4 * n + 4], 2)[
                torch.ones(ids.shape, dtype=torch.bool) if mask is None else mask.bool()
            ]
            for n, (ids, mask) in enumerate(BATCHES)
        ]
    )
    check(moments, rows.numpy(), 1e-6)


def test_float32_activations_use_the_kernels_and_several_captures_nest(
    tiny_model, make_tiny
) -> None:
    with faststeer.patch(tiny_model):
        with (
            faststeer.capture(tiny_model, layers=[1, 3]) as after,
            faststeer.capture(tiny_model, layers=2, site="resid_mid", positions="last") as middle,
        ):
            run(tiny_model)
        run(tiny_model)  # no longer counts
    check(after, stored(make_tiny(), "resid_post", slice(None))[:, [1, 3]], 1e-5)
    check(middle, stored(make_tiny(), "resid_mid", slice(-1, None))[:, [2]], 1e-5)
    assert type(tiny_model.model.layers[0]) is type(make_tiny().model.layers[0])


def test_generated_tokens_are_distinguished_from_the_prompt(tiny_model) -> None:
    tiny_model.generation_config.eos_token_id = None
    kinds = ("all", "prompt", "generated")
    with faststeer.patch(tiny_model):
        found: dict[str, Tensor] = {}
        for kind in kinds:
            with faststeer.capture(tiny_model, layers=0, positions=kind) as moments:
                greedy(tiny_model, IDS, MASK, max_new_tokens=4)
            found[kind] = moments[0]
    counts = [int(found[kind].count) for kind in kinds]
    assert counts == [22 + 4 * 3, 22, 4 * 3]  # the last token is never an input
    found["prompt"].merge(found["generated"])
    torch.testing.assert_close(found["prompt"].mean, found["all"].mean, rtol=0, atol=1e-5)


def test_answers_are_the_tokens_after_the_given_prompt_lengths(tiny_model) -> None:
    lengths = torch.tensor([1, 4, 2, 6])
    with faststeer.patch(tiny_model) as patched:
        patched.prompt_lengths = lengths
        with faststeer.capture(tiny_model, layers=1, positions="generated") as moments:
            tiny_model.model(IDS, attention_mask=MASK)
    assert int(moments[1].count) == int(MASK.sum() - lengths.sum())


def test_captured_activations_include_the_steering(tiny_model) -> None:
    vector = random_vector("v", [1])
    with faststeer.patch(tiny_model) as patched:
        with faststeer.capture(tiny_model, layers=1) as bare:
            run(tiny_model)
        patched.steer(vector, 2.0)
        with faststeer.capture(tiny_model, layers=1) as steered:
            run(tiny_model)
    moved = steered[1].mean[0] - bare[1].mean[0]
    torch.testing.assert_close(moved, 2.0 * vector.directions[1].double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(steered[1].variance, bare[1].variance, rtol=1e-4, atol=0)


def test_sequences_of_only_padding_are_left_out_and_reported(tiny_model) -> None:
    mask = MASK.clone()
    mask[2] = 0
    for positions in ("all", "last"):
        with (
            pytest.warns(faststeer.FaststeerWarning, match="1 of 4 sequences contained only"),
            faststeer.capture(tiny_model, layers=1, positions=positions) as moments,
            torch.no_grad(),
        ):
            tiny_model.model(IDS, attention_mask=mask)
        assert int(moments[1].count) == {"all": 17, "last": 3}[positions]


def test_a_failing_forward_leaves_no_reader_behind(tiny_model) -> None:
    patched = faststeer.patch(tiny_model)
    with pytest.raises(KeyboardInterrupt), faststeer.capture(tiny_model):
        raise KeyboardInterrupt
    assert not patched.plan.forward.watchers
    assert not any(table.readers for table in patched.plan.tables.values())


def test_invalid_captures_are_refused(tiny_model) -> None:
    for given, message in (
        ({"layers": 4}, "layer 4 is out of range: the model has 0 to 3"),
        ({"site": "mlp"}, "site 'mlp' is unknown"),
        ({"positions": "some"}, "'some'"),
    ):
        with pytest.raises(ValueError, match=message), faststeer.capture(tiny_model, **given):
            pass
    assert type(tiny_model.model.layers[0]).__mro__[1].__name__ != "PreNormLayer"
