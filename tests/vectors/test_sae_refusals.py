"""Autoencoders that are damaged, or are none of the residual stream, are refused in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_files import VERSION_3, H, S, arrays, folder, npz
from torch import Tensor

from faststeer import SteeringVector


def without(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: own for name, own in tensors.items() if name != key}


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"d_in": 9}, "W_dec is [24, 8], and the configuration states d_sae 24 and d_in 9"),
    ({"d_sae": 25}, "the configuration states d_sae 25 and d_in 8"),
    ({"d_in": None}, "cfg.json lacks d_in"),
    ({"hook_name": None}, "cfg.json lacks hook_name"),
    ({"hook_name": "blocks.2.hook_mlp_out"}, "reads 'blocks.2.hook_mlp_out', which is no site"),
    ({"hook_name": "model.layers.2"}, "reads 'model.layers.2', which is no site"),
    ({"hook_head_index": 3}, "states a single head"),
    ({"architecture": "transcoder"}, "architecture 'transcoder' with activation 'relu'; expected"),
    ({"activation_fn_str": "tanh-relu"}, "with activation 'tanh-relu'; expected one of standard"),
    ({"finetuning_scaling_factor": True}, "has a finetuning_scaling_factor: fold it into W_dec"),
    ({"normalize_activations": "other"}, "normalize_activations 'other' is unknown; expected one"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=str)
def test_a_configuration_that_is_no_site_s_autoencoder_is_refused(
    tmp_path, change, message
) -> None:
    place = folder(tmp_path / "sae", VERSION_3 | change, arrays())
    with pytest.raises(ValueError, match=f"sae: .*{re.escape(message)}"):
        SteeringVector.from_sae(place, 0)


FILES: list[tuple[dict[str, Tensor], str]] = [
    (without(arrays(), "W_dec"), "has no W_dec; it has W_enc, b_dec, b_enc"),
    (without(arrays(), "W_enc"), "has no W_enc"),
    (arrays() | {"W_enc": torch.ones(S, H)}, "W_enc is [24, 8] and W_dec [24, 8]; expected"),
    (arrays() | {"W_dec": torch.zeros(S, H)}, "feature 0 decodes to zeros; it is dead"),
    (arrays() | {"W_dec": torch.full((S, H), torch.nan)}, "8 of 8 values are NaN or infinite"),
    (arrays() | {"scaling_factor": torch.full((S,), 2.0)}, "has a scaling_factor: fold it into"),
]


@pytest.mark.parametrize(("tensors", "message"), FILES, ids=[message for _, message in FILES])
def test_arrays_that_are_missing_or_do_not_fit_are_refused(tmp_path, tensors, message) -> None:
    place = folder(tmp_path / "sae", VERSION_3, tensors)
    with pytest.raises(ValueError, match=f"sae: .*{re.escape(message)}"):
        SteeringVector.from_sae(place, 0)


def test_arrays_of_an_npz_are_checked_alike(tmp_path) -> None:
    file = npz(tmp_path / "p.npz", without(arrays("jumprelu"), "threshold"))
    with pytest.raises(ValueError, match=r"p\.npz: has no threshold; it has W_dec, W_enc, b_dec"):
        SteeringVector.from_sae(file, 0, layer=0, site="resid_post")
    npz(file, arrays("jumprelu") | {"threshold": torch.full((S,), torch.inf)})
    with pytest.raises(ValueError, match="threshold of feature 0 is inf"):
        SteeringVector.from_sae(file, 0, layer=0, site="resid_post")


@pytest.mark.parametrize("feature", [-1, S, 10**9])
def test_a_feature_out_of_range_is_refused(tmp_path, feature) -> None:
    with pytest.raises(ValueError, match=f"feature {feature} is out of range: it has 0 to 23"):
        SteeringVector.from_sae(folder(tmp_path / "sae", VERSION_3), feature)
    with pytest.raises(TypeError, match="feature is a str; expected a number"):
        SteeringVector.from_sae(tmp_path / "sae", "3")
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'layers'; did you mean layer"
    ):
        SteeringVector.from_sae(tmp_path / "sae", 3, layers=1)


ENCODERS: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "topk", "activation_fn_str": "topk"}, "active where it is among the largest"),
    ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm': whether"),
    ({"normalize_activations": "expected_average_only_in"}, "more than the file states"),
]


@pytest.mark.parametrize(("change", "message"), ENCODERS, ids=str)
def test_an_encoder_without_a_threshold_of_its_own_is_refused(tmp_path, change, message) -> None:
    place = folder(tmp_path / "sae", VERSION_3 | change, arrays())
    assert SteeringVector.from_sae(place, 1).layers == [2]
    with pytest.raises(ValueError, match=message):
        SteeringVector.from_sae(place, 1, part="encoder")
    with pytest.raises(ValueError, match="part 'both' is unknown; expected one of decoder, enc"):
        SteeringVector.from_sae(place, 1, part="both")


def test_an_npz_whose_place_is_unknown_or_other_is_refused(tmp_path) -> None:
    alone = npz(tmp_path / "params.npz")
    with pytest.raises(ValueError, match="no folder around it is named layer_N: give layer="):
        SteeringVector.from_sae(alone, 0)
    with pytest.raises(ValueError, match="does not state where it reads: give site='resid_post'"):
        SteeringVector.from_sae(alone, 0, layer=3)
    with pytest.raises(ValueError, match="site 'mlp' is unknown; expected one of resid_pre"):
        SteeringVector.from_sae(alone, 0, layer=3, site="mlp")
    scope = npz(tmp_path / "gemma-scope-2b-pt-res/layer_3/params.npz")
    with pytest.raises(ValueError, match="its folder states layer 3, not 4"):
        SteeringVector.from_sae(scope, 0, layer=4)
    with pytest.raises(ValueError, match="reads resid_post, not 'resid_pre'"):
        SteeringVector.from_sae(scope, 0, site="resid_pre")
    other = npz(tmp_path / "gemma-scope-2b-pt-mlp/layer_3/params.npz")
    with pytest.raises(ValueError, match="gemma-scope-2b-pt-mlp does not read the residual"):
        SteeringVector.from_sae(other, 0)
    embedding = npz(tmp_path / "gemma-scope-2b-pt-res/embedding/params.npz")
    with pytest.raises(ValueError, match="of the embedding"):
        SteeringVector.from_sae(embedding, 0, layer=0)
    stated = folder(tmp_path / "sae", VERSION_3)
    with pytest.raises(ValueError, match=r"cfg\.json states layer 2, not 3"):
        SteeringVector.from_sae(stated, 0, layer=3)


class Hostile:
    """Pickled, it would create a file."""

    def __reduce__(self) -> Any:
        return open, ("hostile", "w")


def test_damaged_and_hostile_files_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = {"layer": 0, "site": "resid_post"}
    pickled = np.empty((1,), object)
    pickled[0] = Hostile()
    np.savez("pickled.npz", W_dec=pickled, W_enc=pickled)
    with pytest.raises(ValueError, match="pickle"):
        SteeringVector.from_sae("pickled.npz", 0, **at)
    assert not Path("hostile").exists()
    np.savez_compressed("bomb.npz", W_dec=np.zeros((S, 50_000)), W_enc=np.zeros((50_000, S)))
    with pytest.raises(ValueError, match="more than 4 times its own"):
        SteeringVector.from_sae("bomb.npz", 0, **at)
    content = npz(tmp_path / "whole.npz").read_bytes()
    Path("cut.npz").write_bytes(content[:300])
    with pytest.raises(ValueError, match=r"cut\.npz is not a readable \.npz file"):
        SteeringVector.from_sae("cut.npz", 0, **at)
    np.savez("whole.npz", **{k: v.long().numpy() for k, v in arrays("jumprelu").items()})
    with pytest.raises(ValueError, match="holds int64; expected floating point"):
        SteeringVector.from_sae("whole.npz", 0, **at)
    place = folder(tmp_path / "sae", VERSION_3)
    weights = place / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        SteeringVector.from_sae(place, 0)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"sae_weights\.safetensors: no such file"):
        SteeringVector.from_sae(place, 0)
    for text, message in (("[]", "holds a list"), ("{", "not readable JSON")):
        (place / "cfg.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            SteeringVector.from_sae(place, 0)
    with pytest.raises(ValueError, match="no sparse autoencoder: expected a folder of SAELens"):
        SteeringVector.from_sae(tmp_path, 0)
