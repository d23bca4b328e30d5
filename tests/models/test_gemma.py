"""Gemma's particularities: norms of one plus the weight, more norms per layer, images."""

import copy
from typing import Any

import pytest
import torch
from plain_hooks import hooked, random_vector
from tiny import MakeTiny
from tiny_families import MORE
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

import faststeer

IDS = torch.randint(1, 500, (2, 9), generator=torch.Generator().manual_seed(5))
CLOSE = {"rtol": 0, "atol": 1e-5}
VECTOR = random_vector("v", range(4))
IMAGE = 511


@pytest.fixture(params=[name for name in MORE if name.startswith("Gemma")])
def model(request: pytest.FixtureRequest, make_tiny: MakeTiny) -> Any:
    return make_tiny(family=request.param, **MORE[request.param])


@pytest.fixture
def seeing(make_tiny: MakeTiny) -> Any:
    """Return a Gemma 3 with a vision tower for images of four tokens."""
    text = make_tiny(family="Gemma3", **MORE["Gemma3"])
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    config = Gemma3Config(
        text_config=text.config.to_dict(),
        vision_config=tower,
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    return model.eval()


def seen() -> dict[str, Tensor]:
    """Return two prompts, each with an image."""
    ids = IDS.clone()
    ids[:, 2:6] = IMAGE
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "pixel_values": pixels, "token_type_ids": (ids == IMAGE).long()}


def test_the_steered_model_compiles_to_one_graph_that_sees_changes(model) -> None:
    torch._dynamo.reset()
    with faststeer.patch(model) as patched, torch.inference_mode():
        handle = patched.steer(VECTOR, 1.0)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch._dynamo.config.patch(error_on_recompile=True):
            for coefficient in (1.0, -2.0, 0.0):
                handle.coefficient = coefficient
                torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits, **CLOSE)


def test_in_bfloat16_the_error_is_no_larger_than_with_plain_hooks(model) -> None:
    def distance() -> float:
        return float((model(ids).logits.double() - truth).norm())

    ids = torch.randint(1, 500, (4, 64), generator=torch.Generator().manual_seed(6))

    with torch.inference_mode():
        whole = copy.deepcopy(model.to(torch.bfloat16)).double()
        with hooked(whole.model, [(VECTOR, 1.5, range(4))]):
            truth = whole(ids).logits
        with hooked(model.model, [(VECTOR, 1.5, range(4))]):
            by_hooks = distance()
        with faststeer.patch(model) as patched:
            patched.steer(VECTOR, 1.5)
            ours = distance()
    # 0.94 to 0.97 here; with one and the weight added in bfloat16 it was 1.03 to 1.07.
    assert ours <= by_hooks


def test_hidden_states_and_attentions_are_those_of_stock_and_show_the_steering(model) -> None:
    wanted = {"output_hidden_states": True, "output_attentions": True}
    model.set_attn_implementation("eager")
    seen: list[Tensor] = []
    with torch.inference_mode():
        stock = model(IDS, **wanted)
        with faststeer.patch(model) as patched:
            idle = model(IDS, **wanted)
            patched.steer(VECTOR, 1.5)
            for layer in model.model.layers[1:]:
                layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
            shown = model(IDS, **wanted).hidden_states
    for kind, count in {"hidden_states": 5, "attentions": 4}.items():
        assert len(idle[kind]) == count
        for ours, theirs in zip(idle[kind], stock[kind], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(one, read) for one, read in zip(shown[1:4], seen, strict=True))
    assert not torch.allclose(shown[1], stock.hidden_states[1], atol=0.1)


def test_a_prompt_with_an_image_is_steered_as_by_plain_hooks(seeing) -> None:
    with torch.inference_mode():
        stock = seeing(**seen()).logits
        with hooked(seeing.model.language_model, [(VECTOR, 1.5, range(4))]):
            expected = seeing(**seen()).logits
        with faststeer.patch(seeing) as patched:
            torch.testing.assert_close(seeing(**seen()).logits, stock, **CLOSE)
            patched.steer(VECTOR, 1.5)
            steered = seeing(**seen()).logits
            with patched.rows([{}, {"v": 1.5}]):
                rows = seeing(**seen()).logits
    assert float((expected - stock).abs().max()) > 0.1
    torch.testing.assert_close(steered, expected, **CLOSE)
    torch.testing.assert_close(rows, torch.stack([stock[0], expected[1]]), **CLOSE)


def test_text_about_an_image_is_steered_from_the_last_prompt_token(seeing) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}

    dose = 30.0  # Gemma's embeddings are large

    def add_at_the_end(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] += dose * VECTOR.directions[1]
        return output

    layer = seeing.model.language_model.layers[1]
    hook = layer.register_forward_hook(add_at_the_end)
    expected = seeing.generate(**seen(), **options)
    hook.remove()
    with faststeer.patch(seeing) as patched:
        patched.steer(VECTOR, dose, layers=1, positions="from_last_prompt")
        found = seeing.generate(**seen(), **options)
    assert torch.equal(found, expected)
    assert not torch.equal(found, seeing.generate(**seen(), **options))
