"""The .pt files of CAA and of lm-evaluation-harness, read and written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from vector_files import equal

from faststeer import SteeringVector, patch
from faststeer.utils.warnings import FaststeerWarning


@pytest.fixture
def vector() -> SteeringVector:
    generator = torch.Generator().manual_seed(0)
    directions = {layer: torch.randn(8, generator=generator) for layer in (1, 2, 13)}
    return SteeringVector("v", directions, metadata={"model": "org/Llama", "read_token": -2})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_caa_s_file_names_state_layer_and_model(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.5, -2.0], dtype=dtype)
    torch.save(tensor, tmp_path / "vec_layer_13_Llama-2-7b-chat-hf.pt")
    vector = SteeringVector.load(tmp_path / "vec_layer_13_Llama-2-7b-chat-hf.pt")
    assert (vector.layers, vector.site) == ([13], "resid_post")
    assert vector.metadata == {"model": "Llama-2-7b-chat-hf"}
    assert torch.equal(vector.directions[13], tensor.float())


def test_a_folder_of_caa_s_files_is_one_vector_and_survives_a_round_trip(
    vector: SteeringVector, tmp_path: Path
) -> None:
    folder = tmp_path / "sycophancy"
    folder.mkdir()
    (folder / "README.md").write_text("not a vector")
    vector.save(folder)
    names = {f"vec_layer_{layer}_Llama.pt" for layer in (1, 2, 13)}
    assert {file.name for file in folder.iterdir()} == names | {"README.md"}
    for layer, direction in vector.directions.items():
        theirs = torch.load(folder / f"vec_layer_{layer}_Llama.pt", weights_only=True)
        assert torch.equal(theirs, direction)
    loaded = SteeringVector.load(folder)
    assert equal(loaded, vector)
    assert (loaded.name, loaded.metadata) == ("sycophancy", {"model": "Llama"})


def test_a_folder_of_several_models_is_refused_and_one_can_be_chosen(tmp_path: Path) -> None:
    for model, value in (("7b", 1.0), ("13b", 2.0)):
        torch.save(torch.full((2,), value), tmp_path / f"vec_layer_3_{model}.pt")
    chosen_by = r"choose one with SteeringVector\.load\(folder, model=\.\.\.\)"
    with pytest.raises(ValueError, match=rf"several models: \['13b', '7b'\]; {chosen_by}"):
        SteeringVector.load(tmp_path)
    assert SteeringVector.load(tmp_path, model="13b").directions[3].tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match=r"without a file vec_layer_\*_70b\.pt"):
        SteeringVector.load(tmp_path, model="70b")
    with pytest.raises(
        ValueError, match=r"7b\.pt: only a folder of CAA's files has vectors of sev"
    ):
        SteeringVector.load(tmp_path / "vec_layer_3_7b.pt", model="7b")


def test_a_damaged_file_in_a_folder_is_named_with_its_folder(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "vec_layer_3_7b.pt")
    (tmp_path / "vec_layer_4_7b.pt").write_bytes(b"PK")
    message = f"{tmp_path}: vec_layer_4_7b.pt: not a readable .pt file"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        SteeringVector.load(tmp_path)


def test_a_folder_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a folder without a file vec_layer_\{layer\}_\{model\}"):
        SteeringVector.load(tmp_path)


def test_a_bare_tensor_without_a_layer_in_its_name_needs_one(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "v.pt")
    torch.save(torch.ones(2), tmp_path / "vec_layer_3.pt")
    with pytest.raises(ValueError, match=r"does not state the layer .* load\(path, layer=13\)"):
        SteeringVector.load(tmp_path / "v.pt")
    assert SteeringVector.load(tmp_path / "v.pt", layer=5).layers == [5]
    assert SteeringVector.load(tmp_path / "vec_layer_3.pt", layer=3).layers == [3]
    with pytest.raises(ValueError, match=r"is of layer 3 by its name, not of layer 5"):
        SteeringVector.load(tmp_path / "vec_layer_3.pt", layer=5)


def test_a_single_caa_file_requires_one_layer_and_the_matching_name(
    vector: SteeringVector, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"holds a single layer, vector 'v' has \[1, 2, 13\]"):
        vector.save(tmp_path / "vec_layer_13_Llama.pt")
    with pytest.raises(ValueError, match=r"name it vec_layer_13\.pt or vec_layer_13_MODEL\.pt"):
        vector.at(13).save(tmp_path / "vec_layer_1_Llama.pt")
    vector.at(13).save(tmp_path / "vec_layer_13_Llama.pt")
    assert equal(SteeringVector.load(tmp_path / "vec_layer_13_Llama.pt"), vector.at(13))


def test_a_caa_vector_steers_the_model_that_it_names_without_a_warning(
    tiny_model: Any, recwarn: pytest.WarningsRecorder
) -> None:
    tiny_model.config._name_or_path = "org/Llama"
    with patch(tiny_model) as patched:
        patched.steer(SteeringVector("caa", {1: torch.ones(64)}, metadata={"model": "Llama"}))
        assert not [w for w in recwarn if issubclass(w.category, FaststeerWarning)]
        with pytest.warns(FaststeerWarning, match="was made for 'Mistral'"):
            patched.steer(SteeringVector("x", {1: torch.ones(64)}, metadata={"model": "Mistral"}))


def test_lm_eval_s_dict_is_restored_with_its_coefficients_applied(
    vector: SteeringVector, tmp_path: Path
) -> None:
    vector.save(tmp_path / "steer.pt", "lm-eval")
    assert equal(SteeringVector.load(tmp_path / "steer.pt"), vector)
    theirs = torch.load(tmp_path / "steer.pt", weights_only=True)
    assert set(theirs) == {"layers.1", "layers.2", "layers.13"}
    theirs["layers.2"]["steering_coefficient"] = -3
    torch.save(theirs, tmp_path / "steer.pt")
    assert torch.equal(
        SteeringVector.load(tmp_path / "steer.pt").directions[2], -3 * vector.directions[2]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"action": "clamp"}, "action 'clamp' sets a projection instead of adding; steer with"),
        ({"action": "scale"}, "action 'scale' is unknown; expected 'add'"),
        ({"positions": "last"}, "key 'positions' is not known"),
        ({"head_index": 3}, "steers a single head"),
        ({"steering_coefficient": "2"}, "steering_coefficient is not a number"),
        ({"steering_coefficient": float("nan")}, "2 of 2 values are NaN"),
        ({"steering_vector": [1.0]}, "holds a list; expected a tensor"),
        ({"steering_vector": torch.ones(2, 2)}, "2 dimensions; expected floating-point"),
        ({"steering_vector": torch.tensor([1])}, "needs torch LongStorage"),
    ],
)
def test_an_lm_eval_entry_that_is_not_an_addition_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    entry = {"action": "add", "steering_coefficient": 1.0, "steering_vector": torch.ones(2)}
    torch.save({"layers.3": entry | changed}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=re.escape(message)):
        SteeringVector.load(tmp_path / "v.pt")


def test_a_hookpoint_that_is_not_a_block_is_refused_by_name(tmp_path: Path) -> None:
    entry = {"action": "add", "steering_coefficient": 1.0, "steering_vector": torch.ones(2)}
    torch.save({"layers.3.mlp": entry}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"hookpoint 'layers\.3\.mlp'; only a block's output"):
        SteeringVector.load(tmp_path / "v.pt")


def test_gpt_2_s_hookpoints_are_recognised_as_blocks(tmp_path: Path) -> None:
    entry = {"action": "add", "steering_coefficient": 2.0, "steering_vector": torch.ones(2)}
    torch.save({"h.3": entry}, tmp_path / "v.pt")
    loaded = SteeringVector.load(tmp_path / "v.pt")
    assert (loaded.layers, loaded.site, loaded.directions[3].tolist()) == (
        [3],
        "resid_post",
        [2, 2],
    )


@pytest.mark.parametrize("key", ["action", "steering_coefficient"])
def test_an_lm_eval_entry_without_its_action_or_coefficient_is_refused(
    tmp_path: Path, key: str
) -> None:
    entry = {"action": "add", "steering_coefficient": 1.0, "steering_vector": torch.ones(2)}
    del entry[key]
    torch.save({"layers.3": entry}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"layers\.3: expected a dict with action and steering_co"):
        SteeringVector.load(tmp_path / "v.pt")


def test_a_folder_survives_a_round_trip_for_any_model_name(tmp_path: Path) -> None:
    for number, name in enumerate(("", "/")):
        folder = tmp_path / str(number)
        folder.mkdir()
        SteeringVector("v", {2: torch.ones(4)}, metadata={"model": name}).save(folder)
        assert SteeringVector.load(folder).layers == [2]
