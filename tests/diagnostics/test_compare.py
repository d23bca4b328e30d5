"""What steering changes at each token: the values of `compare` beside explicit recomputation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from explicit_runs import answers_of, explicit_kl, explicit_run
from plain_hooks import random_vector
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM
from unknown_decoders import make

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.diagnostics import ComparedText, Comparison
from faststeer.models.loading import Loaded

VECTOR = random_vector("v", range(4))
OTHER = random_vector("w", range(4), seed=5)
PROMPT = "naïve 🙂 hotel"
TEXTS = ["a 東京 text", "x"]


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)


def equal(found: list[float], expected: Tensor) -> bool:
    return found == pytest.approx(expected.tolist(), rel=5e-5, abs=2e-6)


def whole_rows(found: Comparison) -> list[tuple[list[int], list[ComparedText]]]:
    """Return the ids of each text that was run, and its parts."""
    rows = [(text.ids, [text]) for text in found.texts]
    if found.prompt is not None and found.answers is not None:
        both = [[found.prompt, answer] for answer in found.answers]
        rows += [(parts[0].ids + parts[1].ids, parts) for parts in both]
    return rows


def together(parts: list[ComparedText], field: str) -> list[Any]:
    return [value for part in parts for value in getattr(part, field)]


def require_explicit(
    found: Comparison,
    plain: Any,
    layers: Any,
    terms: list[Any],
    projected: tuple[SteeringVector, int],
    changed: int,
) -> None:
    """Compare every value of every token with two plain forward passes of its whole text."""
    vector, at = projected
    unit = vector.directions[vector.layers[-1] if at not in vector.layers else at].double()
    unit = unit / unit.norm()
    for ids, parts in whole_rows(found):
        before, streams = explicit_run(plain, layers, ids, [])
        after, steered = explicit_run(plain, layers, ids, terms)
        kl = together(parts, "kl")
        assert not equal(kl, explicit_kl(after, before))  # the other way round is another value
        assert equal(kl, explicit_kl(before, after))
        difference = (steered[changed] - streams[changed]).norm(dim=-1)
        assert not equal(together(parts, "change"), difference / steered[changed].norm(dim=-1))
        assert equal(together(parts, "change"), difference / streams[changed].norm(dim=-1))
        for side, stream in (("unsteered", streams), ("steered", steered)):
            values = together(parts, f"{side}_projection")
            assert values == pytest.approx((stream[at] @ unit).tolist(), rel=2e-4, abs=2e-4)
        for side, logits in (("unsteered", before), ("steered", after)):
            best = logits.softmax(-1).topk(5)
            likeliest = together(parts, f"{side}_next")
            assert [[token.id for token in own] for own in likeliest] == best.indices.tolist()
            for own, probabilities in zip(likeliest, best.values.tolist(), strict=True):
                assert [token.probability for token in own] == pytest.approx(
                    probabilities, rel=2e-4
                )


@pytest.mark.parametrize("layer", [None, 0, 1, 3])
def test_every_value_is_that_of_two_plain_forward_passes(
    tiny_model: LlamaForCausalLM, plain: LlamaForCausalLM, tokenizer, layer: int | None
) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(VECTOR, 2.0, layers=1)
    patched.steer(OTHER, -1.0, layers=[2])
    found = diagnostics.compare(
        tiny_model, tokenizer, PROMPT, texts=TEXTS, max_new_tokens=6, vector=OTHER, layer=layer or 2
    )
    terms = [(VECTOR, 2.0, 1), (OTHER, -1.0, 2)]
    at = layer or 2
    require_explicit(found, plain, plain.model.layers, terms, (OTHER, at), at)
    if layer is None:
        found = diagnostics.compare(tiny_model, tokenizer, texts=TEXTS, setting={"v": 1.5})
        terms = [(VECTOR, 1.5, 1)]
        require_explicit(found, plain, plain.model.layers, terms, (VECTOR, 1), 3)
        assert (found.changed_at.layer, found.projected_at.layer) == (3, 1)
        assert (found.prompt, found.answers, found.parting) == (None, None, None)


def test_every_value_of_smollm2_is_that_of_two_plain_forward_passes(demo: Loaded) -> None:
    model, tokenizer = demo.model, demo.tokenizer
    hidden = model.config.hidden_size
    vector = random_vector("v", [12], hidden=hidden)
    text = "<|im_start|>user\nnaïve 東京 🙂<|im_end|>\n"
    with faststeer.patch(model) as patched:
        patched.steer(vector, 60.0)
        found = diagnostics.compare(
            model, tokenizer, "The hotel was", texts=[text], max_new_tokens=8, layer=20
        )
    require_explicit(found, model, model.model.layers, [(vector, 60.0, 12)], (vector, 20), 20)
    assert found.parting is not None
    [own] = found.texts
    assert "".join(own.pieces) == text
    assert own.pieces[0] == "<|im_start|>"  # one token
    assert "" in own.pieces  # of a character that several tokens form
    assert "\ufffd" not in "".join(own.pieces)


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX"])
def test_a_decoder_of_another_family_is_compared_by_whole_passes(name: str, tokenizer) -> None:
    model, plain = make(name), make(name)
    vector = random_vector("v", range(3))
    with pytest.warns(faststeer.FaststeerWarning, match="hook"):
        patched = faststeer.patch(model)
    patched.steer(vector, 2.0, layers=1)
    found = diagnostics.compare(model, tokenizer, "ab", texts=["longer text"], max_new_tokens=3)
    require_explicit(found, plain, plain.blocks.layers, [(vector, 2.0, 1)], (vector, 1), 2)


def test_layers_below_the_first_steered_one_run_once(
    tiny_model: LlamaForCausalLM, tokenizer
) -> None:
    faststeer.patch(tiny_model).steer(VECTOR, 2.0, layers=2)
    runs = dict.fromkeys(range(4), 0)

    def count(layer: int) -> Any:
        def counted(module: Any, args: Any) -> None:
            runs[layer] += args[0].shape[1]  # tokens

        return counted

    found = diagnostics.compare(tiny_model, tokenizer, texts=["warm up of all that is cached"])
    for number, layer in enumerate(tiny_model.model.layers):
        layer.mlp.register_forward_pre_hook(count(number))
    again = diagnostics.compare(tiny_model, tokenizer, texts=["warm up of all that is cached"])
    tokens = len(found.texts[0].ids)
    checked = runs[3] - 2 * tokens  # what LMHead's check of two tokens runs, in every layer
    assert checked in (0, 2)
    assert runs == {n: checked + tokens * (1 if n <= 2 else 2) for n in range(4)}
    assert again.texts[0].kl == pytest.approx(found.texts[0].kl, rel=1e-5)


SCOPES = {
    "prompt": lambda length: slice(0, length),
    "generated": lambda length: slice(length, None),
    "from_last_prompt": lambda length: slice(length - 1, None),
    "last": lambda length: slice(length - 1, length),
    "after": lambda length: slice(6, None),
    "range": lambda length: slice(length - 3, length),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_scopes_act_where_they_act_in_generate(
    tiny_model: LlamaForCausalLM, plain: LlamaForCausalLM, tokenizer, scope: str
) -> None:
    patched = faststeer.patch(tiny_model)
    positions: Any = {"after": faststeer.after("[I]", tokenizer), "range": range(-3, 0)}
    patched.steer(VECTOR, 3.0, layers=1, positions=positions.get(scope, scope))
    prompt = "abc[I] hotel"
    found = diagnostics.compare(tiny_model, tokenizer, prompt, texts=[prompt], max_new_tokens=4)
    ids = tokenizer(prompt)["input_ids"]
    assert (found.answers or ())[1].ids == answers_of(patched, tiny_model, ids, {"v": 3.0}, 4)
    terms, tokens = [(VECTOR, 3.0, 1)], SCOPES[scope](len(ids))
    for row, parts in whole_rows(found):
        before, _ = explicit_run(plain, plain.model.layers, row, [])
        after, _ = explicit_run(plain, plain.model.layers, row, terms, tokens)
        everywhere, _ = explicit_run(plain, plain.model.layers, row, terms)
        if scope != "prompt" or len(row) > len(ids):  # a text is a prompt as a whole
            assert not equal(together(parts, "kl"), explicit_kl(before, everywhere))
        assert equal(together(parts, "kl"), explicit_kl(before, after))


def test_modes_and_several_vectors_are_those_of_whole_forward_passes(
    tiny_model: LlamaForCausalLM, plain: LlamaForCausalLM, tokenizer
) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(VECTOR, 1.0, layers=2, mode="project")
    patched.steer(OTHER, 4.0, layers=1, mode="clamp", keep_norm=True)
    patched.ablate(OTHER, layer=0, name="none of it", fraction=0.5)
    found = diagnostics.compare(tiny_model, tokenizer, texts=TEXTS)
    for text in found.texts:
        with torch.no_grad():
            after = tiny_model(torch.tensor([text.ids]), use_cache=False).logits[0].double()
        before, _ = explicit_run(plain, plain.model.layers, text.ids, [])
        assert equal(text.kl, explicit_kl(before, after))
        assert min(text.kl) > 1e-4
    assert found.colours == ["kl", "change"]
    assert found.steering.startswith(
        "v +1 at layer 2, w +4 at layer 1, none of it +0.5 at layers 0"
    )


def test_a_condition_is_decided_on_each_text(tiny_model: LlamaForCausalLM, tokenizer) -> None:
    similarity = []
    for prompt in ("zzzz", "a longer one"):
        ids = tokenizer(prompt)["input_ids"]
        _, streams = explicit_run(tiny_model, tiny_model.model.layers, ids, [])
        mean = streams[0].mean(0)
        unit = OTHER.directions[0].double()
        similarity.append(float(torch.cosine_similarity(mean, unit, dim=0)))
    threshold = sum(similarity) / 2
    patched = faststeer.patch(tiny_model)
    condition = faststeer.when(OTHER, layer=0, above=threshold)
    patched.steer(VECTOR, 3.0, layers=2, when=condition)
    found = diagnostics.compare(tiny_model, tokenizer, texts=["zzzz", "a longer one"])
    steered = [max(text.kl) > 1e-4 for text in found.texts]
    assert steered == [own > threshold for own in similarity]
    assert sorted(steered) == [False, True]


@pytest.mark.parametrize("setting", [{}, {"v": 0.0}])
def test_a_setting_that_steers_nothing_changes_nothing(
    tiny_model: LlamaForCausalLM, tokenizer, setting: dict[str, float]
) -> None:
    faststeer.patch(tiny_model).steer(VECTOR, 3.0, layers=1)
    found = diagnostics.compare(
        tiny_model, tokenizer, PROMPT, texts=TEXTS, setting=setting, max_new_tokens=4
    )
    assert {value for text in found for value in (*text.kl, *text.change)} == {0.0}
    assert found.parting is None
    assert all(text.unsteered_next == text.steered_next for text in found)
    assert found.colours == (["kl", "projection", "change"] if setting else ["kl", "change"])


def test_the_records_are_a_table_of_all_tokens(tiny_model: LlamaForCausalLM, tokenizer) -> None:
    pandas = pytest.importorskip("pandas")
    faststeer.patch(tiny_model).steer(VECTOR, 3.0, layers=1)
    found = diagnostics.compare(tiny_model, tokenizer, PROMPT, texts=TEXTS, max_new_tokens=4)
    frame = pandas.DataFrame(found.to_records())
    assert list(frame.text.unique()) == [text.name for text in found]
    assert list(frame.kl) == [value for text in found for value in text.kl]
    assert list(frame.id) == [token for text in found for token in text.ids]
    last = frame[frame.text == "steered answer"].iloc[-1]
    assert last.position == len(tokenizer(PROMPT)["input_ids"]) + 3
    assert last.steered_next[0]["probability"] == (found.answers or ())[1].steered_next[3][0][2]
    without = diagnostics.compare(tiny_model, tokenizer, texts=["a"], setting={})
    assert without.to_records()[0]["steered_projection"] is None


def test_what_cannot_be_compared_is_refused_in_words(
    tiny_model: LlamaForCausalLM, tokenizer
) -> None:
    compare = diagnostics.compare
    with pytest.raises(ValueError, match="no vector is active, so steering changes nothing; first"):
        compare(tiny_model, tokenizer, "a")
    patched = faststeer.patch(tiny_model)
    patched.steer(VECTOR, 3.0, layers=1)
    errors: list[tuple[dict[str, Any], str]] = [
        ({}, "got neither a prompt nor texts"),
        ({"prompt": ""}, "the prompt is empty; expected at least one token"),
        ({"texts": ["a", ""]}, "text 1 is empty"),
        ({"texts": ["a" * 1025]}, "text 0 has 1025 tokens, and the model's context is 1024"),
        ({"prompt": "a" * 1020, "max_new_tokens": 5}, "at most 4 new tokens have room"),
        ({"prompt": "a" * 1020, "answers": ([1], [1] * 5)}, "an answer of 5 tokens that is more"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens is 0; expected at least 1"),
        ({"prompt": "a", "answers": ([1],)}, r"has 1 answers; expected \(unsteered, steered\)"),
        ({"texts": ["a"], "answers": ([1], [1])}, "answers= needs the prompt"),
        ({"prompt": "a", "layer": 4}, "layer 4 is out of range: the model has 0 to 3"),
        ({"prompt": "a", "vector": OTHER}, "'w' has layers .*; choose one of them with layer="),
        ({"prompt": "a", "setting": {"x": 1.0}}, "no active vector is named 'x'"),
    ]
    for given, message in errors:
        with pytest.raises(ValueError, match=message):
            compare(tiny_model, tokenizer, **given)
    wide = SteeringVector("wide", {1: torch.ones(8)})
    with pytest.raises(ValueError, match="hidden size 8, but the model's is 64"):
        compare(tiny_model, tokenizer, "a", vector=wide)
    beyond = SteeringVector("beyond", {7: torch.ones(64)})
    with pytest.raises(ValueError, match="'beyond' has layer 7, and the model has layers 0 to 3"):
        compare(tiny_model, tokenizer, "a", vector=beyond)
    with pytest.raises(TypeError, match="texts is a single text, 'a'; expected several"):
        compare(tiny_model, tokenizer, texts="a")
    with pytest.raises(TypeError, match="text 0 is a int; expected a text"):
        compare(tiny_model, tokenizer, texts=[3])
    with pytest.raises(TypeError, match="layer"):
        compare(tiny_model, tokenizer, "a", layers=1)
    with patched.off(), pytest.raises(ValueError, match=r"within patched\.off"):
        compare(tiny_model, tokenizer, "a")
