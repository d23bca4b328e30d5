"""A vector's stated mode and positions are its defaults; another use gives a warning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stated_vectors import vector
from torch import Tensor

import faststeer
from faststeer import SteeringVector, bake, diagnostics, evaluate, patch
from faststeer.cli.steer_option import SteerOption
from faststeer.evaluate.provenance import vector_hash
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.position_range import positions_to_text

pytestmark = pytest.mark.filterwarnings("error::faststeer.FaststeerWarning")  # unless expected
IDS = torch.arange(1, 9)[None]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def steered(model: Any, own: SteeringVector, **use: Any) -> Tensor:
    with patch(model) as patched:
        patched.steer(own, 1.0, **use)
        return logits(model)


@pytest.mark.parametrize("mode", ["add", "project", "clamp"])
def test_a_stated_mode_is_the_default(tiny_model: Any, mode: str, tmp_path: Path) -> None:
    vector().for_use(mode=mode).save(tmp_path / "v.safetensors")
    loaded = SteeringVector.load(tmp_path / "v.safetensors")
    by_mode = {m: steered(tiny_model, vector(), mode=m) for m in ("add", "project", "clamp")}
    assert not torch.equal(by_mode["add"], by_mode["project"])
    assert not torch.equal(by_mode["project"], by_mode["clamp"])
    assert torch.equal(steered(tiny_model, loaded), by_mode[mode])
    assert torch.equal(steered(tiny_model, vector()), by_mode["add"])  # if nothing is stated


POSITIONS = [
    ("last", "last"),
    ("prompt", "prompt"),
    (range(2, 5), "2:5"),
    (range(-3, 0), "-3:0"),
    (range(-4, -2), "-4:-2"),
    (slice(-3, None), "-3:"),
    (slice(None, -2), ":-2"),
    (slice(2, -1), "2:-1"),
    (slice(-6, 5), "-6:5"),
]


@pytest.mark.parametrize(("positions", "text"), POSITIONS, ids=[p[1] for p in POSITIONS])
def test_stated_positions_are_the_default_and_are_restored_from_a_file(
    tiny_model: Any, positions: Any, text: str, tmp_path: Path
) -> None:
    vector().for_use(positions=positions).save(tmp_path / "v.safetensors")
    loaded = SteeringVector.load(tmp_path / "v.safetensors")
    assert loaded.metadata["positions"] == text
    expected = steered(tiny_model, vector(), positions=positions)
    if text != "prompt":  # here the whole text is one
        assert not torch.equal(expected, steered(tiny_model, vector()))
    assert torch.equal(steered(tiny_model, loaded), expected)


def test_only_generated_tokens_are_steered_if_the_vector_states_them(tiny_model: Any) -> None:
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with patch(tiny_model) as patched:
        found = []
        for own, use in (
            (vector(), {}),
            (vector(), {"positions": "generated"}),
            (vector(positions="generated"), {}),
        ):
            patched.steer(own * 3, name="v", **use)
            found.append(tiny_model.generate(IDS, **how).tolist())
    everywhere, explicit, stated = found
    assert stated == explicit != everywhere


@pytest.mark.parametrize("use", [{"mode": "project"}, {"positions": "last"}, {"positions": [1]}])
def test_another_use_than_the_stated_one_works_with_a_warning(
    tiny_model: Any, use: dict[str, Any]
) -> None:
    own = vector(mode="add", positions="generated")
    if use == {"positions": [1]}:
        use = {"positions": torch.tensor([False, True])}
    key, value = next(iter(use.items()))
    shown = repr(value) if isinstance(value, str) else "'Tensor'"
    other = {"positions": "generated"} if key == "mode" else {"mode": "add"}
    expected = steered(tiny_model, vector(), **use, **other)
    with pytest.warns(FaststeerWarning, match=f"'v' states {key} .*but is used with {key} {shown}"):
        assert torch.equal(steered(tiny_model, own, **use), expected)


def test_giving_the_stated_use_explicitly_gives_no_warning(tiny_model: Any) -> None:
    own = vector(mode="project", positions="-3:")
    expected = steered(tiny_model, own)
    assert torch.equal(
        steered(tiny_model, own, mode="project", positions=slice(-3, None)), expected
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mode": "rotate"}, "states mode 'rotate', which is unknown; give mode="),
        ({"positions": "answer"}, "states positions 'answer', which are unknown; give positions="),
        ({"positions": "3:1"}, "states positions '3:1', which are unknown"),
        ({"positions": [1, 2]}, "states positions [1, 2], which are unknown"),
    ],
)
def test_an_unknown_stated_use_is_refused_until_another_is_given(
    tiny_model: Any, metadata: dict[str, Any], message: str
) -> None:
    import re

    own = vector(**metadata)
    with patch(tiny_model) as patched:
        with pytest.raises(ValueError, match=re.escape(message)):
            patched.steer(own)
        assert not patched.handles
        with pytest.warns(FaststeerWarning, match="'v' states"):
            patched.steer(own, mode="add", positions="all")


def test_the_first_generated_tokens_are_stated_as_text(tiny_model: Any, tmp_path: Path) -> None:
    vector().for_use(positions=faststeer.first(3)).save(tmp_path / "v.safetensors")
    loaded = SteeringVector.load(tmp_path / "v.safetensors")
    assert loaded.metadata["positions"] == "first(3)"
    assert loaded.metadata == vector().for_use(positions="first(3)").metadata
    with patch(tiny_model) as patched:
        patched.prompt_lengths = [4]
        found = {}
        for how, own in {"stated": (loaded, None), "range": (vector(), range(4, 7))}.items():
            patched.steer(own[0], 1.0, positions=own[1], name="v")
            found[how] = logits(tiny_model)
        with patched.off():
            assert not torch.equal(found["range"], logits(tiny_model))
    assert torch.equal(found["stated"], found["range"])


def test_a_use_that_cannot_be_stored_is_refused() -> None:
    scopes = (faststeer.between([1], [2]), faststeer.at([1]), ~faststeer.first(2))
    for positions in (torch.tensor([True]), lambda p, n: p > 0, slice(-3, 0), *scopes):
        with pytest.raises(ValueError, match="cannot be written to a file; expected one of 'all'"):
            vector().for_use(positions=positions)
    with pytest.raises(ValueError, match="mode 'rotate' is unknown; expected one of add, project"):
        vector().for_use(mode="rotate")
    assert positions_to_text(slice(None, None)) in ("all", ":")


def test_ablation_and_learning_warn_of_a_stated_use_that_they_ignore(tiny_model: Any) -> None:
    with patch(tiny_model) as patched:
        patched.ablate(vector(mode="project"))
        with pytest.warns(FaststeerWarning, match="states mode 'clamp', but is used with mode 'pr"):
            patched.ablate(vector(mode="clamp"))
        patched.learn(vector())
        with pytest.warns(FaststeerWarning, match="states mode 'project', but is used with mode"):
            patched.learn(vector(mode="project"))
        with pytest.warns(FaststeerWarning, match="states positions 'last', but is used with pos"):
            patched.learn(vector(positions="last"))


def test_ablation_uses_the_stated_positions(tiny_model: Any) -> None:
    found = []
    with patch(tiny_model) as patched:
        for stated, given in ({}, {}), ({}, {"positions": "last"}), ({"positions": "last"}, {}):
            patched.ablate(vector(**stated), name="v", **given)
            found.append(logits(tiny_model))
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


def test_baking_refuses_a_mode_that_weights_cannot_express_and_warns_of_positions(
    make_tiny: Callable[..., Any],
) -> None:
    for mode in ("project", "clamp"):
        with pytest.raises(ValueError, match=f"states mode '{mode}' at resid_post, which weights"):
            bake(make_tiny(), vector(mode=mode))
    bake(make_tiny(), vector(mode="project"), mode="ablate")
    with pytest.warns(FaststeerWarning, match="states mode 'project', but is used with mode 'add'"):
        added = bake(make_tiny(), vector(mode="project"), mode="add")
    assert torch.equal(logits(added), logits(bake(make_tiny(), vector())))
    with pytest.warns(FaststeerWarning, match="states positions 'last', but is used with all tok"):
        bake(make_tiny(), vector(positions="last"))


def test_a_steer_option_defaults_to_the_stated_use(tiny_model: Any, tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    vector(mode="project", positions="last").save(file)
    found = {}
    for settings in ("", ":mode=add:positions=all"):
        with patch(tiny_model) as patched:
            option = SteerOption.parse(f"{file}{settings}")
            if settings:
                with pytest.warns(FaststeerWarning) as caught:
                    option.apply(patched)
                assert [str(warning.message).split(",")[0] for warning in caught] == [
                    "vector 'v' states mode 'project'",
                    "vector 'v' states positions 'last'",
                ]
            else:
                option.apply(patched)
            found[settings] = logits(tiny_model)
    assert torch.equal(found[""], steered(tiny_model, vector(), mode="project", positions="last"))
    assert torch.equal(found[":mode=add:positions=all"], steered(tiny_model, vector()))
    with pytest.raises(ValueError, match="mode is one of add, project, clamp, cap; expected FILE"):
        SteerOption.parse("v.safetensors:mode=rotate")


@pytest.mark.parametrize("file_format", ["gguf", "lm-eval"])
def test_a_format_that_only_adds_refuses_a_projection_and_warns_of_lost_positions(
    tmp_path: Path, file_format: str
) -> None:
    with pytest.raises(ValueError, match=r"states mode 'project', and .* only adds; save it"):
        vector(mode="project").save(tmp_path / "v", file_format)
    assert not list(tmp_path.iterdir())
    lost = "states positions 'last', but is used with .* all"
    with pytest.warns(FaststeerWarning, match=lost) as caught:
        vector(positions="last").save(tmp_path / "v", file_format)
    assert caught[0].filename == __file__  # the caller's line, where it can be changed


def test_vectors_of_two_uses_are_not_summed_and_of_two_models_with_a_warning() -> None:
    with pytest.raises(ValueError, match="states mode 'project' and 'v' 'add': they cannot be com"):
        vector(mode="project") + vector()
    with pytest.raises(ValueError, match="states positions 'all' and 'v' 'last': they cannot be"):
        vector() - vector(positions="last")
    both = vector(mode="add") + vector()
    assert both.directions[1].tolist() == (2 * vector().directions[1]).tolist()
    with pytest.warns(FaststeerWarning, match="made for 'a' and 'v' for 'b'"):
        vector(model="a") + vector(model="b")


def test_a_vector_for_generated_tokens_is_measured_on_all_tokens_with_a_warning(
    tiny_model: Any, tmp_path: Path, byte_tokenizer: Any
) -> None:
    texts = ["good morning to all", "a sad day"]
    own = vector(positions="generated")
    how = {"texts": texts, "tolerance": 0.2}
    with pytest.warns(FaststeerWarning, match="states positions 'generated', but is used with"):
        found = diagnostics.calibrate(tiny_model, byte_tokenizer, own, 0.05, **how)
    everywhere = diagnostics.calibrate(tiny_model, byte_tokenizer, vector(), 0.05, **how)
    assert found.measured == everywhere.measured
    task = evaluate.DocumentsTask({"text": texts}, "text")
    with pytest.warns(FaststeerWarning, match="states positions 'generated', but is used with"):
        records = evaluate.sweep(
            tiny_model,
            byte_tokenizer,
            task,
            [own],
            layers=[1],
            coefficients=[1.0],
            output=tmp_path / "swept",
            progress=False,
        )
    assert records[1]["scores"]["text"]["kl"] > 0


def test_a_sweep_s_results_are_of_the_stated_use() -> None:
    hashes = [vector_hash(vector(**m)) for m in ({}, {"mode": "clamp"}, {"positions": "last"})]
    assert len(set(hashes)) == 3
    assert vector_hash(vector(model="x")) == hashes[0]


def test_metadata_of_use_are_json_in_the_file(tmp_path: Path) -> None:
    own = vector().for_use(mode="project", positions=range(-3, 0))
    own.save(tmp_path / "v.safetensors")
    content = (tmp_path / "v.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["metadata"])
    assert metadata == {"mode": "project", "positions": "-3:0"}
