"""A decoder of an unknown family is steered by hooks, with a warning; all features work.

One hook per layer, compared with plain hooks; GPT-2 (positional arguments, blocks in `h`)
and GPT-NeoX (parallel residual, blocks in `layers`).
"""

import copy
import warnings
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from by_token import greedy, padded, steered_by_token
from plain_hooks import hooked, random_vector
from torch import nn
from unknown_decoders import GPT2, SIZES, SMALL, make

import faststeer

IDS, MASK = padded((5, 9, 7))
V = random_vector("v", range(3))
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(params=["GPT2", "GPTNeoX"])
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture
def patched(model):
    with pytest.warns(faststeer.FaststeerWarning, match="is not of a family that faststeer fuses"):
        handle = faststeer.patch(model)
    yield handle
    handle.unpatch()


def logits(model, **kwargs) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS, attention_mask=MASK, **kwargs).logits
    return found


def test_the_warning_names_the_class_and_the_missing_features(model) -> None:
    decoder = type(model.base_model).__name__
    with pytest.warns(
        faststeer.FaststeerWarning, match=f"{decoder} .*one more op per layer.*resid_mid"
    ):
        patched = faststeer.patch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert faststeer.patch(model) is patched
    with pytest.raises(ValueError, match=f"resid_mid of a {decoder} cannot be steered.*resid_post"):
        patched.steer(random_vector("m", [1], site="resid_mid"))
    with pytest.raises(ValueError, match="resid_mid of a"):
        patched.learn(random_vector("m", [1], site="resid_mid"))
    assert patched.handles == []


def test_an_idle_model_equals_stock_bit_for_bit_and_unpatching_leaves_no_hook(model) -> None:
    def hooks() -> list[tuple[int, int]]:
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]

    stock, before, attributes = logits(model), hooks(), sorted(model.__dict__)
    with pytest.warns(faststeer.FaststeerWarning):
        patched = faststeer.patch(model)
    with patched:
        assert torch.equal(logits(model), stock)
        assert patched.num_layers == 3
        patched.steer(V, 2.0)
    assert torch.equal(logits(model), stock)
    assert hooks() == before
    assert sorted(model.__dict__) == attributes


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_it_is_steered_as_by_plain_hooks_and_follows_its_handle(model, patched, site) -> None:
    vector = random_vector("v", range(3), site=site)
    stock = logits(model)
    handle = patched.steer(vector, 9.0)
    for coefficient in (2.0, -1.0):
        handle.coefficient = coefficient
        found = logits(model)
        with patched.off(), hooked(model.blocks, [(vector, coefficient, range(3))]):
            expected = logits(model)
        torch.testing.assert_close(found, expected, **CLOSE)
        assert float((expected - stock).abs().max()) > 0.1
    handle.remove()
    assert torch.equal(logits(model), stock)


@pytest.mark.parametrize("positions", ["generated", "last"])
def test_rows_and_positions_are_right_under_padding_in_cached_generation(
    model, patched, positions
) -> None:
    inside = {
        "generated": lambda b, p, n: p >= n,
        "last": lambda b, p, n: p == n - 1,
    }[positions]
    doses = (3.0, 0.0, -3.0)
    patched.steer(V, positions=positions)
    with patched.rows([{"v": dose} for dose in doses]):
        tokens, scores = greedy(model, IDS, MASK)
    terms = [(V, lambda b, p, n: doses[b] * inside(b, p, n))]
    with patched.off():
        idle = greedy(model, IDS, MASK)
        with steered_by_token(model.blocks, terms, MASK):
            expected = greedy(model, IDS, MASK, use_cache=False)
    assert torch.equal(tokens, expected[0])
    torch.testing.assert_close(scores, expected[1], **CLOSE)
    assert not torch.equal(scores, idle[1])


def test_hidden_states_show_the_steered_stream(model, patched) -> None:
    patched.steer(V, 2.0, layers=[0, 1])
    seen = [None] * 3
    for n, block in enumerate(model.blocks.layers):  # later hooks see the steered stream
        block.register_forward_hook(lambda m, a, o, n=n: seen.__setitem__(n, o))
    hidden = logits_and_states(model)
    for layer in range(2):
        first = seen[layer][0] if isinstance(seen[layer], tuple) else seen[layer]
        assert torch.equal(hidden[layer + 1], first)


def logits_and_states(model) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return model(IDS, attention_mask=MASK, output_hidden_states=True).hidden_states


def test_a_learned_vector_gets_the_gradient_of_plain_hooks(model, patched) -> None:
    learned = patched.learn(V, 1.5, layers=1)
    model(IDS, labels=IDS).loss.backward()
    found = learned.directions["1"].grad
    learned.remove()
    direction = V.directions[1].clone().requires_grad_()
    reference = faststeer.SteeringVector("r", {1: V.directions[1]})
    reference.directions[1] = direction
    with hooked(model.blocks, [(reference, 1.5, [1])]):
        model(IDS, labels=IDS).loss.backward()
    torch.testing.assert_close(found, direction.grad, rtol=1e-4, atol=1e-8)


def test_it_compiles_in_one_graph_which_follows_the_handle(model, patched) -> None:
    torch._dynamo.reset()
    handle = patched.steer(V)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode():
        compiled(IDS)
        with torch._dynamo.config.patch(error_on_recompile=True):
            handle.coefficient = -2.0
            torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits, **CLOSE)


class Block(nn.Module):
    """Block that returns `wrap` of its output."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(64, 64), wrap

    def forward(self, hidden: torch.Tensor) -> Any:
        return self.wrap(self.linear(hidden))


class Plain(transformers.PreTrainedModel):
    """A user-defined model."""

    config_class = transformers.GPT2Config
    _supports_sdpa = True

    def __init__(self, wrap: Any) -> None:
        super().__init__(transformers.GPT2Config(**SMALL, **GPT2))
        self.blocks = nn.ModuleList([Block(wrap) for _ in range(3)])

    def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            output = block(inputs_embeds)
            inputs_embeds = output[0] if isinstance(output, (tuple, list)) else output
        return inputs_embeds


HIDDEN = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: (h, "more"), lambda h: [h, "more"]])
def test_layers_may_return_hidden_states_alone_or_first_in_a_tuple(wrap) -> None:
    model = Plain(wrap)
    with pytest.warns(faststeer.FaststeerWarning, match="Plain"):
        patched = faststeer.patch(model)
    patched.steer(V, 2.0, layers=2)
    with torch.inference_mode(), patched.off():
        idle = model(HIDDEN)
    with torch.inference_mode():
        torch.testing.assert_close(model(HIDDEN), idle + 2 * V.directions[2], **CLOSE)


def test_layers_that_return_something_else_are_refused() -> None:
    model = Plain(lambda hidden: {"hidden": hidden})
    with pytest.warns(faststeer.FaststeerWarning):
        faststeer.patch(model)
    with pytest.raises(TypeError, match="a Block returned a dict; only layers that return hidden"):
        model(HIDDEN)


class Named(NamedTuple):
    hidden_states: torch.Tensor
    more: str


class TwoStreams(NamedTuple):
    attn_output: torch.Tensor
    hidden_states: torch.Tensor


def test_a_named_tuple_is_preserved_and_its_first_field_must_be_the_hidden_states() -> None:
    model = Plain(lambda hidden: Named(hidden, "more"))
    kept = []
    with pytest.warns(faststeer.FaststeerWarning):
        patched = faststeer.patch(model)
    patched.steer(V, 2.0, layers=2)
    model.blocks[2].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.inference_mode(), patched.off():
        idle = model(HIDDEN)
    with torch.inference_mode():
        torch.testing.assert_close(model(HIDDEN), idle + 2 * V.directions[2], **CLOSE)
    assert [type(output) for output in kept] == [Named, Named]
    model = Plain(lambda hidden: TwoStreams(hidden, hidden))
    with pytest.warns(faststeer.FaststeerWarning):
        patched = faststeer.patch(model)
    patched.steer(V, 2.0, layers=2)
    with pytest.raises(TypeError, match="a Block returned a TwoStreams of attn_output, hidden_st"):
        model(HIDDEN)


def test_several_lists_of_layers_are_refused_by_their_paths_and_one_may_be_chosen() -> None:
    facts = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "vocab_size": 64}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = transformers.BartModel(transformers.BartConfig(**facts, **heads))
    with pytest.raises(ValueError, match=r"BartModel holds several.*encoder\.layers, decoder\.lay"):
        faststeer.patch(bart)
    with pytest.warns(faststeer.FaststeerWarning, match="BartDecoder"):
        assert faststeer.patch(bart.decoder).num_layers == 3


def test_experts_in_the_number_of_layers_are_not_mistaken_for_layers() -> None:
    model = make("GPT2")
    for block in model.blocks.layers:
        block.mlp = nn.ModuleList([copy.deepcopy(block.mlp) for _ in range(3)])
    with pytest.warns(faststeer.FaststeerWarning):
        patched = faststeer.patch(model)
    assert patched.decoder is model.transformer
    assert patched.num_layers == 3


def test_a_multimodal_model_s_text_layers_are_steered() -> None:
    sides = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    vision = {**sides, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.GPTNeoXConfig(**SMALL, **SIZES),
    )
    llava = transformers.LlavaForConditionalGeneration(config)
    with pytest.warns(faststeer.FaststeerWarning, match="GPTNeoXModel"):
        patched = faststeer.patch(llava)
    assert patched.num_layers == 3
    assert patched.hidden_size == 64
