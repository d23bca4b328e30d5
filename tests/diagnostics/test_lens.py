"""The logit lens against the weights themselves, on different families and on a real model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import MakeTiny
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.data.shipped import Behaviour
from faststeer.diagnostics.lens import lens_logits
from faststeer.models.loading import Loaded


def vector(layers: tuple[int, ...] = (0, 2), scale: float = 1.0) -> SteeringVector:
    draw = torch.Generator().manual_seed(0)
    return SteeringVector("v", {n: scale * torch.randn(64, generator=draw) for n in layers})


class Named:
    """Tokenizer whose tokens are single words, with only the methods that the lens calls."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [0]}

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        return "".join(f" w{token}" for token in ids)


def by_weights(model, direction: Tensor, offset: float) -> Tensor:
    weight = model.model.norm.weight.double() + offset
    return model.get_output_embeddings().weight.double() @ (weight * direction.double())


@pytest.mark.parametrize(
    ("family", "offset"), [("Llama", 0.0), ("Gemma", 1.0), ("Gemma2", 1.0), ("Qwen3", 0.0)]
)
def test_logits_are_the_direction_through_norm_weight_and_unembedding(
    make_tiny: MakeTiny, family: str, offset: float
) -> None:
    model = make_tiny(family=family, head_dim=16)
    own = vector()
    found = lens_logits(model, own).double()
    for row, layer in zip(found, own.layers, strict=True):
        expected = by_weights(model, own.directions[layer], offset)
        scale = 64**0.5 / own.directions[layer].norm()
        torch.testing.assert_close(row, expected.detach() * scale, rtol=1e-4, atol=1e-4)


def test_the_listed_tokens_are_those_moved_most_with_their_z_scores(make_tiny: MakeTiny) -> None:
    model = make_tiny()
    own = vector()
    found = diagnostics.logit_lens(model, Named(), own, 3)
    for layer in own.layers:
        logits = by_weights(model, own.directions[layer], 0.0)
        z = ((logits - logits.mean()) / logits.std()).tolist()
        ranked = sorted(range(512), key=lambda token: z[token])
        promoted, suppressed = found[layer].promoted, found[layer].suppressed
        assert [token for token, _, _ in promoted] == ranked[:-4:-1]
        assert [token for token, _, _ in suppressed] == ranked[:3]
        assert [text for _, text, _ in promoted] == [f" w{token}" for token, _, _ in promoted]
        for token, _, score in promoted + suppressed:
            assert score == pytest.approx(z[token], abs=1e-4)


def test_norm_and_patch_do_not_change_the_lens_and_the_opposite_mirrors_it(
    make_tiny: MakeTiny,
) -> None:
    model = make_tiny()
    stock = diagnostics.logit_lens(model, Named(), vector())
    scaled = diagnostics.logit_lens(model, Named(), vector(scale=1e-6))
    opposite = diagnostics.logit_lens(model, Named(), -vector())
    with faststeer.patch(model) as patched:
        patched.steer(vector(), 5.0)
        inside = diagnostics.logit_lens(model, Named(), vector())
    for layer, own in stock.items():
        tokens = [token for token, _, _ in own.promoted]
        for other in (scaled[layer].promoted, inside[layer].promoted, opposite[layer].suppressed):
            assert [token for token, _, _ in other] == tokens


def test_what_has_no_lens_is_refused_with_a_clear_error(make_tiny: MakeTiny) -> None:
    model = make_tiny()
    zero = SteeringVector("zero", {1: torch.zeros(64)})
    small = SteeringVector("small", {1: torch.ones(8)})
    with pytest.raises(ValueError, match="'zero', layer 1: a zero cannot be normalised"):
        diagnostics.logit_lens(model, Named(), zero)
    with pytest.raises(ValueError, match="hidden size 8, but the model's is 64"):
        diagnostics.logit_lens(model, Named(), small)
    with pytest.raises(ValueError, match="LlamaModel has no unembedding"):
        diagnostics.logit_lens(model.model, Named(), vector())
    other = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=50))
    with pytest.raises(ValueError, match="holds no decoder of a known family"):
        diagnostics.logit_lens(other, Named(), vector())


def test_the_sentiment_vector_suppresses_blame_and_late_promotes_enjoyment(
    demo: Loaded, figure
) -> None:
    """On the demo's model. At layer 23, where it steers best, the promoted tokens mean little."""
    pairs = Behaviour.shipped("sentiment").pairs
    made = faststeer.extract(demo.model, demo.tokenizer, pairs, layers=[1, 23, 27], progress=False)
    found = diagnostics.logit_lens(demo.model, demo.tokenizer, made, 8)
    promoted = {layer: [text for _, text, _ in own.promoted] for layer, own in found.items()}
    suppressed = {layer: [text for _, text, _ in own.suppressed] for layer, own in found.items()}
    figure(f"sentiment's lens, layer 27: {promoted[27]} against {suppressed[27]}")
    assert {" worse", " Worse", " blaming"} <= set(suppressed[23])
    assert {" worse", " Worse", " blaming"} <= set(suppressed[27])
    assert {" enjoyed", "Enjoy"} <= set(promoted[27])
    assert not {" enjoyed", "Enjoy"} & set(promoted[23] + promoted[1])
    assert not {" worse", " Worse"} & set(suppressed[1])


def test_tokens_that_only_the_model_has_are_shown_by_their_ids(
    make_tiny: MakeTiny, tiny_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)  # 256 tokens, the model has 512
    promoted = diagnostics.logit_lens(make_tiny(), tokenizer, vector((1,)), 300)[1].promoted
    unknown = {text for token, text, _ in promoted if token >= 256}
    assert unknown == {f"<{token}>" for token, _, _ in promoted if token >= 256} != set()
