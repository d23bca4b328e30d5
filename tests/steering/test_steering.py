"""A steered model equals one with hooks that add the same vectors, and follows its handles."""

import math
import warnings

import pytest
import torch
from plain_hooks import hooked, random_vector
from renamed_arguments import past, past_of

import faststeer

IDS = torch.randint(0, 512, (3, 9), generator=torch.Generator().manual_seed(1))


def logits(model, **kwargs):
    with torch.inference_mode():
        return model(IDS, **kwargs).logits


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
@pytest.mark.parametrize("grad", [False, True])
def test_steering_equals_a_hook_that_adds_the_vector(tiny_model, site, grad) -> None:
    vector = random_vector("v", range(4), site=site)
    other = random_vector("w", [1, 3], seed=1)
    with torch.set_grad_enabled(grad):
        with hooked(tiny_model.model, [(vector, -1.5, [0, 2]), (other, 3.0, [3])]):
            expected = tiny_model(IDS).logits
        with faststeer.patch(tiny_model) as patched:
            idle = tiny_model(IDS).logits
            patched.steer(vector, -1.5, layers=[0, 2])
            patched.steer(other, 3.0, layers=3)
            found = tiny_model(IDS).logits
    effect = (expected - idle).abs().max()
    assert (found - expected).abs().max() < 2e-6 * max(1, expected.abs().max())
    assert effect > 1000 * (found - expected).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_steering_is_at_least_as_accurate_as_a_hook(make_tiny, dtype) -> None:
    vector = random_vector("v", range(4))
    errors = {"hook": [], "faststeer": []}
    for seed in range(8):
        model = make_tiny(dtype, seed=seed)
        exact_model = make_tiny(torch.float32, seed=seed)
        exact_model.load_state_dict(model.state_dict())
        with hooked(exact_model.model, [(vector, 2.0, range(4))]):
            exact = logits(exact_model)
        with hooked(model.model, [(vector, 2.0, range(4))]):
            errors["hook"].append((logits(model) - exact).square().mean().sqrt().log())
        with faststeer.patch(model) as patched:
            patched.steer(vector, 2.0)
            errors["faststeer"].append((logits(model) - exact).square().mean().sqrt().log())
    mean = {name: torch.stack(found).mean() for name, found in errors.items()}
    assert mean["faststeer"] <= mean["hook"]


def test_vectors_at_one_site_add_up(tiny_model) -> None:
    one, two = random_vector("one", [1, 2]), random_vector("two", [2, 3], seed=1)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(one * 2.0 - two / 2.0, name="sum")
        expected = logits(tiny_model)
        patched.clear()
        patched.steer(one, 2.0)
        patched.steer(two, -0.5)
        torch.testing.assert_close(logits(tiny_model), expected, rtol=0, atol=2e-6)


def test_resid_pre_of_a_layer_is_resid_post_of_the_previous_one(tiny_model) -> None:
    post = random_vector("v", [1])
    pre = faststeer.SteeringVector("v", {2: post.directions[1]}, "resid_pre")
    with faststeer.patch(tiny_model) as patched:
        patched.steer(post)
        expected = logits(tiny_model)
        patched.clear()
        patched.steer(pre)
        assert torch.equal(logits(tiny_model), expected)


def test_layers_take_a_number_several_or_factors(tiny_model) -> None:
    vector = random_vector("v", range(4))
    with faststeer.patch(tiny_model) as patched:
        patched.steer(vector, 2.0, layers={1: 0.5, 3: -1.0})
        by_factor = logits(tiny_model)
        assert patched["v"].layers == [1, 3]
        patched.clear()
        patched.steer(vector, 1.0, layers=1, name="a")
        patched.steer(vector, -2.0, layers=[3], name="b")
        assert torch.equal(logits(tiny_model), by_factor)
        patched.clear()
        assert patched.steer(vector).layers == [0, 1, 2, 3]


def test_a_coefficient_set_later_takes_effect_at_the_next_step(tiny_model) -> None:
    vector, other = random_vector("v", [1, 2]), random_vector("w", [2], seed=1)
    with faststeer.patch(tiny_model) as patched:
        idle = logits(tiny_model)
        patched.steer(vector, 0.7)
        patched.steer(other, 1.0)
        expected = logits(tiny_model)
        patched.clear()
        handle = patched.steer(vector, 5.0)
        patched.steer(other, 1.0)
        assert not torch.equal(logits(tiny_model), expected)
        with torch.inference_mode():
            handle.coefficient = 0.7
        assert torch.equal(logits(tiny_model), expected)
        patched["v"].coefficient = 3.0
        assert handle.coefficient == 3.0
        handle.coefficient = patched["w"].coefficient = 0.0
        assert torch.equal(logits(tiny_model), idle)


def test_off_disables_steering_inside_and_restores_it_after(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        idle = logits(tiny_model)
        handle = patched.steer(random_vector("v", [1]), 2.0)
        steered = logits(tiny_model)
        with patched.off(), patched.off():
            assert torch.equal(logits(tiny_model), idle)
            handle.coefficient = 4.0
            assert torch.equal(logits(tiny_model), idle)
        handle.coefficient = 2.0
        assert torch.equal(logits(tiny_model), steered)
        with pytest.raises(KeyboardInterrupt), patched.off():
            raise KeyboardInterrupt
        assert torch.equal(logits(tiny_model), steered)


def test_remove_and_clear_remove_all_steering(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        idle = logits(tiny_model)
        one = patched.steer(random_vector("one", [0, 1]), 2.0)
        patched.steer(random_vector("two", [1, 3], seed=1), 2.0)
        assert [handle.name for handle in patched.handles] == ["one", "two"]
        one.remove()
        patched["two"].remove()
        assert torch.equal(logits(tiny_model), idle)
        patched.steer(random_vector("one", [0, 1]), 2.0)
        patched.clear()
        assert torch.equal(logits(tiny_model), idle)
        assert patched.handles == []


def test_a_repeated_name_replaces_the_vector_and_the_old_handle_reports_it(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        old = patched.steer(random_vector("v", [0, 1]), 2.0)
        new = patched.steer(random_vector("w", [2], seed=1), 3.0, name="v")
        found = logits(tiny_model)
        assert not old.active
        assert new.active
        with pytest.raises(ValueError, match="'v' was removed or replaced"):
            old.coefficient = 1.0
        with pytest.raises(ValueError, match="'v' was removed or replaced"):
            old.remove()
        patched.clear()
        patched.steer(random_vector("v", [2], seed=1), 3.0)
        assert torch.equal(logits(tiny_model), found)


def test_bad_steering_is_refused_before_anything_changes(tiny_model) -> None:
    good = random_vector("v", [1, 2])
    with faststeer.patch(tiny_model) as patched:
        patched.steer(good, 2.0)
        steered = logits(tiny_model)
        refusals = [
            (
                ValueError,
                "hidden size 63.*model's is 64",
                (random_vector("v", [1], hidden=63),),
                {},
            ),
            (ValueError, "layer 9 is out of range.*0 to 3", (random_vector("v", [9]),), {}),
            (ValueError, "layer 4 is out of range", (good,), {"layers": [1, 4]}),
            (ValueError, "layer -1 is out of range", (good,), {"layers": -1}),
            (ValueError, "no direction for layer 3.*has \\[1, 2\\]", (good,), {"layers": 3}),
            (ValueError, "no layers were given", (good,), {"layers": []}),
            (ValueError, "is nan; expected a finite", (good, math.nan), {}),
            (ValueError, "is inf; expected a finite", (good,), {"layers": {1: math.inf}}),
            (TypeError, "expected a number", (good, "2"), {}),
            (TypeError, "got a Tensor; expected a SteeringVector", (torch.randn(64),), {}),
        ]
        for error, message, args, kwargs in refusals:
            with pytest.raises(error, match=message):
                patched.steer(*args, **kwargs)
        with pytest.raises(ValueError, match="coefficient of 'v' is inf"):
            patched["v"].coefficient = math.inf
        with pytest.raises(KeyError, match="no active vector is named 'w'; there are: 'v'"):
            patched["w"]
        assert torch.equal(logits(tiny_model), steered)
    with pytest.raises(ValueError, match="was unpatched"):
        patched.steer(good)
    with pytest.raises(ValueError, match="are NaN or infinite"):
        faststeer.SteeringVector("v", {0: torch.tensor([1.0, math.nan])})


def test_a_vector_of_another_model_warns_with_both_names(tiny_model) -> None:
    directions = random_vector("v", [1]).directions
    tiny_model.config._name_or_path = "mine"
    with faststeer.patch(tiny_model) as patched:
        other = faststeer.SteeringVector("v", directions, metadata={"model": "theirs"})
        with pytest.warns(faststeer.FaststeerWarning, match="'theirs'.*'mine'"):
            patched.steer(other)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            patched.steer(faststeer.SteeringVector("v", directions, metadata={"model": "mine"}))
            patched.steer(faststeer.SteeringVector("v", directions))


def test_generation_with_a_cache_steers_every_token(tiny_model) -> None:
    """Prompt and generated tokens alike: one token at a time gives the logits of one forward."""
    vector = random_vector("v", range(4))
    with faststeer.patch(tiny_model) as patched, torch.inference_mode():
        patched.steer(vector, 1.5)
        whole = tiny_model(IDS).logits
        cache, steps = None, []
        for position in range(IDS.shape[1]):
            token = IDS[:, position : position + 1]
            output = tiny_model(token, use_cache=True, **past(tiny_model, cache))
            cache = past_of(output)
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=5e-6)


def test_tables_follow_the_model_to_its_dtype_and_device(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        patched.steer(random_vector("v", [1]), 2.0)
        tiny_model.to(torch.bfloat16)
        assert logits(tiny_model).dtype == torch.bfloat16
        table = patched.plan.tables[next(iter(patched.plan.tables))]
        table.entries(torch.empty(1, 1, 64, device="meta"))
        assert table.tables.device.type == table.tables.vectors.device.type == "meta"


@pytest.mark.slow
def test_changes_reach_a_compiled_model_without_recompiling(tiny_model) -> None:
    torch._dynamo.reset()  # from another family's forward, which transformers' decorator shares
    vector = random_vector("v", range(4))
    with faststeer.patch(tiny_model) as patched, torch.inference_mode():
        compiled = torch.compile(tiny_model, fullgraph=True)
        with torch._dynamo.config.patch(error_on_recompile=True):
            handle = patched.steer(vector, 1.0)
            for coefficient in (1.0, -2.0, 0.0):
                handle.coefficient = coefficient
                torch.testing.assert_close(
                    compiled(IDS).logits, tiny_model(IDS).logits, rtol=0, atol=1e-5
                )
            with patched.off():
                torch.testing.assert_close(
                    compiled(IDS).logits, tiny_model(IDS).logits, rtol=0, atol=1e-5
                )


def test_off_blocks_that_overlap_end_when_the_last_one_does(tiny_model) -> None:
    """As with several threads."""
    with faststeer.patch(tiny_model) as patched:
        idle = logits(tiny_model)
        patched.steer(random_vector("v", [1]), 2.0)
        steered = logits(tiny_model)
        first, second = patched.off(), patched.off()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.equal(logits(tiny_model), idle)
        second.__exit__(None, None, None)
        assert torch.equal(logits(tiny_model), steered)


def test_a_dose_that_float32_cannot_hold_is_refused(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        handle = patched.steer(random_vector("v", [1]), 2.0)
        for coefficient in (1e39, -1e300):
            with pytest.raises(ValueError, match="more than float32 can hold"):
                handle.coefficient = coefficient
            with pytest.raises(ValueError, match="more than float32 can hold"):
                patched.steer(random_vector("w", [1]), coefficient)
        assert handle.coefficient == 2.0
        assert [one.name for one in patched.handles] == ["v"]
