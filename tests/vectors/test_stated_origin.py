"""A vector states its model, template and read token; a mismatch gives a warning that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stated_vectors import vector

import faststeer
from faststeer import SteeringVector, bake, diagnostics, patch
from faststeer.data import InChat
from faststeer.models import loading
from faststeer.models.fingerprint import fingerprint
from faststeer.models.vector_origin import origin_facts
from faststeer.utils.warnings import FaststeerWarning

pytestmark = pytest.mark.filterwarnings("error::faststeer.FaststeerWarning")  # unless expected
PAIRS = [("good morning", "bad evening"), ("a fine day", "a sad day")] * 3


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": "org/Other"}, "made for 'org/Other', but this model is 'org/Tiny'"),
        ({"model_type": "qwen2"}, "made for models of type 'qwen2', but .* of type 'llama'"),
        ({"num_layers": 5}, "made for a model of 5 layers, but this model is one of 4"),
    ],
)
def test_every_use_on_another_model_than_the_stated_one_gives_a_warning(
    make_tiny: Callable[..., Any], metadata: dict[str, Any], message: str
) -> None:
    model = make_tiny()
    model.config._name_or_path = "org/Tiny"
    own = vector(**metadata)
    with patch(model) as patched:
        for use in (
            lambda: patched.steer(own),
            lambda: patched.ablate(own, name="ablated"),
            lambda: patched.learn(own),
            lambda: patched.steer(
                SteeringVector("later", {3: torch.ones(64)}), when=faststeer.when(own, above=0.0)
            ),
        ):
            with pytest.warns(FaststeerWarning, match=message):
                use()
    with pytest.warns(FaststeerWarning, match=message):
        bake(model, own)


@pytest.mark.parametrize(
    "metadata",
    [
        {"model": "org/Tiny", "num_layers": 4},
        {"model": "Tiny"},
        {"model_type": "llama"},
        {"model_type": "Tiny"},
        {"model_type": "unknown"},
    ],
)
def test_a_vector_for_this_model_gives_no_warning(
    tiny_model: Any, metadata: dict[str, Any]
) -> None:
    tiny_model.config._name_or_path = "org/Tiny"
    with patch(tiny_model) as patched:
        patched.steer(vector(**metadata))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_known_by_its_weights_under_another_name_and_in_another_dtype(
    make_tiny: Callable[..., Any], tmp_path: Path, dtype: torch.dtype
) -> None:
    model, tokenizer = make_tiny(), Chat("")
    model.config._name_or_path = "org/Tiny"
    made = faststeer.extract(model, tokenizer, PAIRS, name="v", layers=[1, 2], progress=False)
    model.save_pretrained(tmp_path / "elsewhere")
    loaded = type(model).from_pretrained(tmp_path / "elsewhere", dtype=dtype)
    assert loaded.config._name_or_path != "org/Tiny"
    with patch(loaded) as patched:
        patched.steer(made)
        patched.learn(made)
    there = faststeer.extract(loaded, tokenizer, PAIRS, name="w", layers=[1, 2], progress=False)
    assert (made + there).layers == [1, 2]
    with torch.no_grad():
        loaded.model.layers[3].mlp.down_proj.weight[0, 0] += 1
    with patch(loaded) as patched, pytest.warns(FaststeerWarning, match="made for 'org/Tiny'"):
        patched.steer(made)
    bake(type(model).from_pretrained(tmp_path / "elsewhere"), made)


def test_a_vector_made_on_the_demo_gives_no_warning_on_the_same_model_in_a_folder(
    demo: loading.Loaded,
) -> None:
    facts = origin_facts(demo.model.model)
    assert facts["model"] == loading.DEMO_NAME
    made = SteeringVector("v", {3: torch.ones(576)}, metadata=facts)
    folder = str(loading.demo_folder())
    there = loading.load(folder, dtype=torch.bfloat16).model
    there.config._name_or_path = "/elsewhere/model"
    with patch(there) as patched:
        patched.steer(made)
        by_name = SteeringVector("w", made.directions, metadata={"model": facts["model"]})
        with pytest.warns(FaststeerWarning, match="this model is '/elsewhere/model'"):
            patched.steer(by_name)


def test_weights_that_are_not_at_hand_have_no_fingerprint(make_tiny: Callable[..., Any]) -> None:
    model = make_tiny()
    assert fingerprint(model.model) is not None
    model.model.layers[0].mlp.down_proj.to("meta")
    assert fingerprint(model.model) is None


def test_llama_cpp_s_architecture_name_covers_mistral_too(
    make_tiny: Callable[..., Any],
) -> None:
    with patch(make_tiny(family="Mistral")) as patched:
        patched.steer(vector(model_type="llama"))
        with pytest.warns(FaststeerWarning, match="of type 'gemma2', but this model is of type"):
            patched.steer(vector(model_type="gemma2"))


class Chat:
    """Byte tokenizer with a chat template and without special tokens."""

    pad_token_id = None
    bos_token_id = None

    def __init__(self, mark: str) -> None:
        self.chat_template = mark + "{{ messages }}"
        self.mark = mark

    def __call__(self, text: str, add_special_tokens: bool = True, **more: Any) -> dict[str, Any]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int], **more: Any) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"

    def apply_chat_template(self, messages: Any, **more: Any) -> str:
        return self.mark + messages[-1]["content"]


def test_extraction_states_the_read_token_the_template_the_model_and_its_layers(
    tiny_model: Any, tmp_path: Path
) -> None:
    tiny_model.config._name_or_path = "org/Tiny"
    tokenizer = Chat("<user>")
    how = {"add_special_tokens": False, "read_token": -2, "progress": False}
    made = faststeer.extract(tiny_model, tokenizer, InChat(PAIRS, tokenizer), **how)
    made.save(tmp_path / "v.safetensors")
    stated = SteeringVector.load(tmp_path / "v.safetensors").metadata
    assert stated["template"] == InChat(PAIRS, tokenizer).template
    assert stated["template"] != InChat(PAIRS, Chat("<other>")).template
    assert (stated["read_token"], stated["model"], stated["num_layers"]) == (-2, "org/Tiny", 4)
    plain = faststeer.extract(tiny_model, tokenizer, PAIRS, progress=False)
    assert "template" not in plain.metadata


def test_diagnostics_use_the_vector_s_read_token_and_warn_of_another_token_or_template(
    tiny_model: Any,
) -> None:
    tokenizer, other = Chat("<user>"), Chat("<other>")
    how = {"add_special_tokens": False, "progress": False}
    pairs = InChat(PAIRS, tokenizer)
    made = faststeer.extract(tiny_model, tokenizer, pairs, read_token=-3, layers=[1, 2], **how)
    own = diagnostics.separability(tiny_model, tokenizer, made, pairs, **how)
    at_last: dict[int, float] = {}
    with pytest.warns(FaststeerWarning, match="states read_token -3, but is used with read_token"):
        at_last = diagnostics.separability(tiny_model, tokenizer, made, pairs, read_token=-1, **how)
    assert at_last != own
    bare = SteeringVector("bare", made.directions)
    assert diagnostics.separability(tiny_model, tokenizer, bare, pairs, **how) == at_last
    assert diagnostics.separability(tiny_model, tokenizer, bare, pairs, read_token=-3, **how) == own
    for given, shown in ((InChat(PAIRS, other), "template 'sha256:"), (PAIRS, "plain texts")):
        with pytest.warns(FaststeerWarning, match=f"states chat template .*used with {shown}"):
            diagnostics.separability(tiny_model, tokenizer, made, given, **how)
    diagnostics.inspect(made, tiny_model, tokenizer, pairs=pairs, **how)
    with pytest.warns(FaststeerWarning, match="states read_token -3, but is used with") as caught:
        diagnostics.inspect(made, tiny_model, tokenizer, pairs=pairs, read_token=-1, **how)
    assert len(caught) == 1


def test_vectors_that_were_read_at_different_tokens_are_not_read_together_by_default(
    tiny_model: Any,
) -> None:
    first, second = vector(read_token=-1), vector(read_token=-2)
    with pytest.raises(ValueError, match=r"the vectors were read at tokens .*; give read"):
        diagnostics.pair_projections(tiny_model, Chat("x"), [first, second], PAIRS, progress=False)
