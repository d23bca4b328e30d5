"""Features of sparse autoencoders: SAELens's folders and Gemma Scope's .npz."""

from __future__ import annotations

import sys

import pytest
import torch
from sae_files import EARLIEST, VERSION_3, VERSION_6, H, S, arrays, encode, folder, npz

import faststeer
from faststeer import SteeringVector
from faststeer.cli import main


@pytest.mark.parametrize("config", [EARLIEST, VERSION_3, VERSION_6], ids=["0", "3", "6"])
def test_the_decoder_s_row_is_the_direction_at_the_hook_s_site(tmp_path, config) -> None:
    vector = SteeringVector.from_sae(folder(tmp_path / "sae", config), 5)
    assert (vector.layers, vector.site, vector.name) == ([2], "resid_post", "feature-5")
    architecture = config.get("architecture", "standard")
    stored = arrays(architecture)
    assert torch.equal(vector[2], stored["W_dec"][5])
    facts = vector.metadata["sae"]
    assert (facts["feature"], facts["features"], facts["architecture"]) == (5, S, architecture)
    assert facts["norm"] == pytest.approx(float(stored["W_dec"][5].norm()))
    assert facts.get("threshold") == (
        float(stored["threshold"][5]) if architecture == "jumprelu" else None
    )
    expected = {"standard": "gpt2" if "model_name" in config else None}
    assert vector.metadata.get("model") == expected.get(architecture, "google/gemma-2-2b")
    assert torch.equal(SteeringVector.from_bytes(vector.to_bytes())[2], vector[2])


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_all_sites_of_the_stream_are_ours(tmp_path, site) -> None:
    config = VERSION_3 | {"hook_name": f"blocks.11.hook_{site}"}
    vector = SteeringVector.from_sae(folder(tmp_path / "sae", config), 0)
    assert (vector.layers, vector.site) == ([11], site)


def test_a_hook_on_a_layer_of_transformers_is_its_output(tmp_path) -> None:
    stated = {"hook_name": "model.layers.3", "model_class_name": "AutoModelForCausalLM"}
    config = VERSION_6 | {"metadata": stated}
    vector = SteeringVector.from_sae(folder(tmp_path / "sae", config), 0)
    assert (vector.layers, vector.site) == ([3], "resid_post")


@pytest.mark.parametrize("normalised", ["none", "constant_norm_rescale"])
@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "gated", "jumprelu"])
def test_the_encoder_states_exactly_where_the_feature_is_active(
    tmp_path, architecture, subtracts, normalised
) -> None:
    config = VERSION_3 | {
        "architecture": architecture,
        "apply_b_dec_to_input": subtracts,
        "normalize_activations": normalised,
    }
    place, tensors = folder(tmp_path / "sae", config), arrays(architecture)
    x = 2 * torch.randn(4000, H, generator=torch.Generator().manual_seed(1))
    active = encode(config, tensors, x)
    for feature in (0, 7, S - 1):
        vector = SteeringVector.from_sae(place, feature, part="encoder")
        assert torch.equal(vector[2], tensors["W_enc"][:, feature])
        facts = vector.metadata["sae"]
        if normalised == "none":
            found = x @ vector[2] > facts["projection"]
        else:
            found = torch.cosine_similarity(x, vector[2][None]) > facts["cosine"]
        assert torch.equal(found, active[:, feature])
        assert 100 < int(found.sum()) < 3900  # both kinds occur


def test_when_active_compares_the_cosine_at_the_stated_norm(tmp_path) -> None:
    tensors = arrays("jumprelu")
    vector = SteeringVector.from_sae(folder(tmp_path / "sae", VERSION_6), 3, part="encoder")
    x = torch.randn(2000, H, generator=torch.Generator().manual_seed(2))
    x *= 5 / x.norm(dim=-1, keepdim=True)
    condition = faststeer.when_active(vector, norm=5.0)
    found = condition.holds(x[:, None], torch.ones(2000, 1, dtype=torch.bool), condition.direction)
    active = encode(VERSION_6, tensors, x)[:, 3]
    assert torch.equal(found, active)
    assert 20 < int(active.sum()) < 1980
    with pytest.raises(ValueError, match=r"active above a projection, .*: give norm="):
        faststeer.when_active(vector)
    with pytest.raises(ValueError, match=r"no stream is, at norm 0.001"):
        faststeer.when_active(vector, norm=1e-3)
    with pytest.raises(ValueError, match="norm is -1; expected a number above 0"):
        faststeer.when_active(vector, norm=-1)
    with pytest.raises(TypeError, match="norm is a str"):
        faststeer.when_active(vector, norm="5")
    with pytest.raises(ValueError, match="'v' does not state when it is active"):
        faststeer.when_active(SteeringVector("v", {1: torch.ones(3)}), norm=1)
    with pytest.raises(TypeError, match="got a str; expected a SteeringVector"):
        faststeer.when_active("v")
    config = VERSION_6 | {"normalize_activations": "constant_norm_rescale"}
    other = SteeringVector.from_sae(folder(tmp_path / "n", config), 3, part="encoder")
    assert faststeer.when_active(other).threshold == other.metadata["sae"]["cosine"]


def test_gemma_scope_is_known_by_its_folders(tmp_path) -> None:
    inner = "gemma-scope-9b-it-res/layer_20/width_16k/average_l0_47/params.npz"
    file = npz(tmp_path / inner)
    for path in (file, file.parent):
        vector = SteeringVector.from_sae(path, 4)
        assert (vector.layers, vector.site) == ([20], "resid_post")
        assert torch.equal(vector[20], arrays("jumprelu")["W_dec"][4])
        assert vector.metadata["model"] == "gemma-2-9b-it"
        assert vector.metadata["sae"]["threshold"] == float(arrays("jumprelu")["threshold"][4])
    hub = npz(tmp_path / "models--google--gemma-scope-2b-pt-res/snapshots/0/layer_3/params.npz")
    assert SteeringVector.from_sae(hub, 0).metadata["model"] == "gemma-2-2b"
    alone = npz(tmp_path / "mine.npz")
    vector = SteeringVector.from_sae(alone, 4, layer=1, site="resid_pre")
    assert (vector.layers, vector.site) == ([1], "resid_pre")


def test_activations_in_units_of_normed_rows_take_the_normed_row(tmp_path) -> None:
    config = VERSION_6 | {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True}
    vector = SteeringVector.from_sae(folder(tmp_path / "sae", config, arrays()), 2)
    row = arrays()["W_dec"][2]
    assert torch.allclose(vector[2], row / row.norm(), rtol=1e-6, atol=0)


def test_convert_writes_a_feature_as_a_vector(tmp_path, monkeypatch, capsys) -> None:
    place = folder(tmp_path / "sae", VERSION_3)
    target = tmp_path / "v.safetensors"
    commands = [
        (["convert", str(place), str(target), "--feature", "5"], 0),
        (["convert", str(target), str(target), "--site", "resid_post"], 2),
    ]
    for command, code in commands:
        monkeypatch.setattr(sys, "argv", ["faststeer", *command])
        with pytest.raises(SystemExit) as left:
            main.main()
        assert (left.value.code or 0) == code
    assert "--site goes with --feature" in capsys.readouterr().err
    found = SteeringVector.load(target)
    assert torch.equal(found[2], arrays()["W_dec"][5])
