"""A forward pass resumed at a site equals the whole forward of every family, with less work."""

from __future__ import annotations

import pytest
import torch
from plain_hooks import random_vector
from tiny_families import MORE

import faststeer
from faststeer.data.batches import Batch
from faststeer.evaluate.setting_runs import CurrentSteering, ManySettings
from faststeer.vectors.sites import Site

IDS = torch.randint(1, 512, (3, 9), generator=torch.Generator().manual_seed(2))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0
BATCH = Batch(IDS, MASK)


def steered(model, site: str = "resid_post") -> faststeer.Patched:
    patched = faststeer.patch(model)
    patched.steer(random_vector("v", range(4), site=site))
    patched.steer(random_vector("w", range(4), seed=5))
    return patched


def alone(patched, setting) -> torch.Tensor:
    with patched.rows([setting]):
        [(_, hidden)] = CurrentSteering(patched.decoder).run(BATCH, BATCH.real)
    return hidden[0]


def shared(patched, settings, **how) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    found = {}
    for indices, hidden in ManySettings(patched, settings, **how).run(BATCH, BATCH.real):
        found |= dict(zip(indices, hidden.expand(len(indices), -1, -1), strict=True))
    return found.pop(len(settings)), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("site", ["resid_mid", "resid_post"])
@pytest.mark.parametrize("family", MORE)
def test_one_setting_has_the_exact_bits_of_a_whole_forward(make_tiny, family, site, dtype) -> None:
    model = make_tiny(family=family, dtype=dtype, **MORE[family])
    with steered(model, site) as patched:
        settings = [{"v": {layer: 2.0}} for layer in range(4)] + [{"v": {1: 1.0}, "w": {2: -1.0}}]
        unsteered, found = shared(patched, settings, at_once=1)
        assert torch.equal(unsteered, alone(patched, {}))
        for number, setting in enumerate(settings):
            assert torch.equal(found[number], alone(patched, setting))
            assert not torch.equal(found[number], unsteered)


@pytest.mark.parametrize("family", MORE)
def test_settings_that_share_a_forward_do_not_mix(make_tiny, family) -> None:
    with steered(make_tiny(family=family, **MORE[family])) as patched:
        settings = [{"v": {1: c}} for c in (1.0, -2.0, 3.0)] + [{"w": 0.5}, {}, {"v": {3: 0.0}}]
        unsteered, found = shared(patched, settings, at_once=2)
        for number, setting in enumerate(settings):
            torch.testing.assert_close(found[number], alone(patched, setting))
        assert torch.equal(found[4], unsteered)
        assert torch.equal(found[5], unsteered)


def test_layers_below_the_first_steered_one_run_once_per_text(tiny_model) -> None:
    seen = [0] * 4
    with steered(tiny_model) as patched:
        for number, layer in enumerate(tiny_model.model.layers):

            def count(module, args, kwargs, number=number) -> None:
                seen[number] += len(kwargs["hidden_states"])

            layer.self_attn.register_forward_pre_hook(count, with_kwargs=True)
        settings = [{"v": {1: c}} for c in (1.0, 2.0, 3.0)] + [{"v": {2: 1.0}}]
        shared(patched, settings, at_once=2)
    assert seen == [3, 3, 3 * 4, 3 * 5]


def test_steering_before_the_first_layer_runs_all_of_it(tiny_model) -> None:
    with steered(tiny_model, "resid_pre") as patched:
        _, found = shared(patched, [{"v": {0: 1.0}}, {"v": {0: 2.0}}])
        for number, c in enumerate((1.0, 2.0)):
            torch.testing.assert_close(found[number], alone(patched, {"v": {0: c}}))


def test_positions_modes_and_conditions_count_as_in_a_whole_forward(tiny_model) -> None:
    vector = random_vector("v", range(4))
    with faststeer.patch(tiny_model) as patched:
        patched.steer(vector, name="last", positions="last", layers=2)
        patched.steer(vector, name="clamp", mode="clamp", layers=1)
        gate = faststeer.when(vector, layer=1, above=0.0)
        patched.steer(vector, name="if", when=gate, layers=3)
        settings = [{"last": 3.0}, {"clamp": 0.0}, {"if": 2.0}, {"last": 1.0, "if": 1.0}]
        unsteered, found = shared(patched, settings)
        for number, setting in enumerate(settings):
            expected = alone(patched, setting)
            torch.testing.assert_close(found[number], expected)
            assert not torch.equal(expected, unsteered)


def test_a_decoder_of_an_unknown_family_runs_whole(make_tiny) -> None:
    with pytest.warns(faststeer.FaststeerWarning):
        patched = faststeer.patch(make_tiny(family="Olmo2"))
    patched.steer(random_vector("v", range(4)))
    _, found = shared(patched, [{"v": {2: 1.0}}, {"v": {2: -1.0}}])
    for number, c in enumerate((1.0, -1.0)):
        torch.testing.assert_close(found[number], alone(patched, {"v": {2: c}}))
    patched.unpatch()


def test_nothing_remains_on_the_model_even_after_an_error(tiny_model) -> None:
    with steered(tiny_model) as patched:
        expected = alone(patched, {"v": {2: 1.0}})
        runner = ManySettings(patched, [{"v": {1: 1.0}}])
        inputs = (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))  # of another hidden size
        wrong = pytest.raises(ValueError, match="weight has shape")
        with wrong, runner.layer_reuse.start_at(Site(1, "resid_post"), inputs):
            alone(patched, {})
        assert torch.equal(alone(patched, {"v": {2: 1.0}}), expected)
        assert not any({"through"} & layer.__dict__.keys() for layer in tiny_model.model.layers)
