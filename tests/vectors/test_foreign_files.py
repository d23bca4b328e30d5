"""Foreign files that mean another site or use than an addition to a block's output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from vector_files import write_gguf

from faststeer import SteeringVector
from faststeer.cli import main
from faststeer.utils.warnings import FaststeerWarning

ONE, TWO = np.float32([3, 4]), np.float32([6, 8])


def with_keys(file: Path, keys: dict[str, Any], **tensors: Any) -> Path:
    """Write a control vector with extra keys; one without a dot is ``controlvector``'s."""
    writer = gguf.GGUFWriter(file, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    for name, value in keys.items():
        key = name if "." in name else f"controlvector.{name}"
        add = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32}
        add.get(type(value), writer.add_array)(key, value)
    for name, tensor in (tensors or {"direction_5": ONE}).items():
        writer.add_tensor(name.replace("_", "."), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("keys", "mode"),
    [
        ({"mode": "project"}, "project"),
        ({"mode": "Projection"}, "project"),
        ({"operation": "ablation"}, "project"),
        ({"algorithm": "erase"}, "project"),
        ({"projection": True}, "project"),
        ({"steering.mode": "ablate"}, "project"),
        ({"action": "clamp"}, "clamp"),
        ({"mode": "add"}, "add"),
        ({"projection": False}, "add"),
        ({}, None),
    ],
)
def test_a_mode_in_a_gguf_s_metadata_becomes_the_vector_s(
    tmp_path: Path, keys: dict[str, Any], mode: str | None
) -> None:
    vector = SteeringVector.load(with_keys(tmp_path / "v.gguf", keys))
    assert vector.metadata.get("mode") == mode
    assert vector.directions[5].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("component", "site"),
    [("hidden_states", "resid_post"), ("resid_mid", "resid_mid"), ("resid_pre", "resid_pre")],
)
def test_a_site_in_a_gguf_s_metadata_becomes_the_vector_s(
    tmp_path: Path, component: str, site: str
) -> None:
    vector = SteeringVector.load(with_keys(tmp_path / "v.gguf", {"component": component}))
    assert (vector.site, vector.layers) == (site, [5])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "multiply"}, "its key 'controlvector.mode' is 'multiply', which faststeer does"),
        ({"mode": 3}, "its key 'controlvector.mode' is 3, which faststeer does not have"),
        ({"component": "attention_heads"}, "'controlvector.component' is 'attention_heads'"),
        ({"hookpoint": "layers.5.mlp"}, "'controlvector.hookpoint' is 'layers.5.mlp'"),
        ({"center": [0.5, 1.5]}, "its key 'controlvector.center' (value [0.5, 1.5]) is not known"),
        ({"scale": 3}, "its key 'controlvector.scale' (value 3) is not known"),
        ({"other.key": "x"}, "its key 'other.key' (value 'x') is not known"),
        ({"method": "projection"}, "'controlvector.method' is 'projection': how the vector was"),
        ({"normalize": True}, "'controlvector.normalize' is True, but its directions do not have"),
        ({"easysteer": "{}"}, "its key 'controlvector.easysteer' is not what EasySteer writes"),
        ({"easysteer": '{"version": 2, "component": null}'}, "has version 2; expected 1"),
        (
            {"easysteer": '{"version": 1, "component": "attention_heads"}'},
            "EasySteer's component 'attention_heads' is not the residual stream",
        ),
    ],
)
def test_a_gguf_with_conflicting_metadata_is_refused_by_the_key_s_name(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    file = with_keys(tmp_path / "v.gguf", keys)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*{re.escape(message)}"):
        SteeringVector.load(file)


def test_the_command_in_the_refusal_of_a_key_makes_the_file_loadable(
    tmp_path: Path,
) -> None:
    file, cleaned = with_keys(tmp_path / "v.gguf", {"centre": [1.0]}), tmp_path / "cleaned.gguf"
    with pytest.raises(ValueError, match=r"gguf-new-metadata --remove-metadata controlvector\.cen"):
        SteeringVector.load(file)
    command = "import sys; from gguf.scripts.gguf_new_metadata import main; sys.exit(main())"
    arguments = ["--force", "--remove-metadata", "controlvector.centre", str(file), str(cleaned)]
    subprocess.run([sys.executable, "-c", command, *arguments], check=True, capture_output=True)
    assert SteeringVector.load(cleaned).directions[5].tolist() == [3, 4]


def test_an_easysteer_export_is_added_to_its_layers_outputs(tmp_path: Path) -> None:
    native = {"version": 1, "component": "hidden_states", "metadata": {"mapping": [["k", 3]]}}
    keys = {"method": "diffmean", "easysteer": json.dumps(native)}
    vector = SteeringVector.load(with_keys(tmp_path / "v.gguf", keys, direction_5=ONE))
    assert (vector.layers, vector.site) == ([5], "resid_post")
    assert vector.metadata == {
        "method": "diffmean",
        "model_type": "llama",
        "gguf": {"easysteer": native},
    }


def test_provenance_in_a_gguf_is_preserved_in_a_round_trip(tmp_path: Path) -> None:
    keys = {"method": "pca", "token_pos": "last", "n_pairs": 30, "normalize": True}
    file = with_keys(tmp_path / "v.gguf", keys, direction_5=ONE / 5)
    vector = SteeringVector.load(file)
    assert vector.metadata["gguf"] == {"token_pos": "last", "n_pairs": 30}
    vector.save(tmp_path / "own.gguf")
    again = SteeringVector.load(tmp_path / "own.gguf")
    assert again.metadata == vector.metadata
    assert torch.equal(again.directions[5], vector.directions[5])


def test_plain_control_vectors_load_as_before(tmp_path: Path) -> None:
    vector = SteeringVector.load(write_gguf(tmp_path / "v.gguf", direction_1=ONE, direction_2=TWO))
    assert {n: d.tolist() for n, d in vector.directions.items()} == {1: [3, 4], 2: [6, 8]}
    assert vector.metadata == {"model_type": "llama"}


def svec(**changed: Any) -> dict[str, Any]:
    own = {
        "model_type": "llama",
        "directions": {"0": [0.5, -1.0], "7": [3, 4]},
        "explained_variances": {"0": 0.25, "7": 0.75},
    }
    return own | changed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_svec_is_added_where_ibm_s_code_adds_it_at_its_layers_inputs(
    tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "refusal.svec"
    file.write_text(json.dumps(svec()), encoding=encoding)
    vector = SteeringVector.load(file)
    assert (vector.name, vector.site, vector.layers) == ("refusal", "resid_pre", [0, 7])
    assert [d.tolist() for d in vector.directions.values()] == [[0.5, -1.0], [3, 4]]
    assert vector.metadata == {
        "model_type": "llama",
        "explained_variances": {"0": 0.25, "7": 0.75},
        "read_at": "resid_post",
    }
    vector.select([7]).save(tmp_path / "v.gguf")  # the input of block 7 is the output of block 6
    assert SteeringVector.load(tmp_path / "v.gguf").layers == [6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (svec(num_heads=8), "has num_heads, as AISteer360 writes it"),
        (svec(directions={"3": [[1.0, 2.0]]}), "layer 3: has [K, H], as AISteer360 writes it"),
        (svec(directions={"3": [1.0, True]}), "layer 3: expected a list of numbers [H]"),
        (svec(directions={"3": [1.0, 1e300]}), "layer 3: 1 of 2 values are NaN or infinite"),
        (svec(directions={"3": [1.0, 10**400]}), "layer 3: "),
        (svec(directions={"-1": [1.0]}), "layer '-1'; expected a number from 0"),
        (svec(directions={}), "has no directions"),
        (svec(directions={"1": [1.0], "2": [1.0, 2.0]}), "directions of sizes [1, 2]"),
        (svec(directions=[[1.0]]), "directions is a list; expected a dict"),
        (svec(scale=2.0), "no vector of IBM's activation-steering: it has directions, explained"),
        ({"layer_configs": {}}, "no vector of IBM's activation-steering: it has layer_configs"),
        ({"positive": "a", "negative": "b"}, "no vector of IBM's activation-steering: it has neg"),
    ],
)
def test_json_that_is_not_an_ibm_vector_is_refused_with_the_reason(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    file = tmp_path / "v.svec"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: .*{re.escape(message)}"):
        SteeringVector.load(file)


def test_a_svec_that_is_cut_off_or_nested_or_not_utf_8_is_refused(tmp_path: Path) -> None:
    whole = json.dumps(svec()).encode()
    for content in (whole[:-9], b'{"a":' * 100_000, whole.replace(b"llama", b"ll\xe4ma")):
        (tmp_path / "v.svec").write_bytes(content)
        with pytest.raises(ValueError, match=r"v\.svec: not a vector's file: no readable \.svec"):
            SteeringVector.load(tmp_path / "v.svec")


ROWS = torch.arange(10.0).view(5, 2)  # the hidden states of four blocks


@pytest.mark.parametrize("kind", ["response_avg", "prompt_avg", "prompt_last"])
def test_row_i_plus_1_of_a_persona_vector_is_the_output_of_layer_i(
    tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"evil_{kind}_diff.pt"
    torch.save(ROWS, file)
    with pytest.warns(FaststeerWarning, match=r"row 0 \(the embedding\) and row 4 \(after the fi"):
        vector = SteeringVector.load(file)
    assert (vector.name, vector.site, vector.layers) == ("evil", "resid_post", [0, 1, 2])
    assert all(torch.equal(vector.directions[layer], ROWS[layer + 1]) for layer in range(3))
    assert vector.metadata["num_layers"] == 4


def test_one_layer_of_a_persona_vector_needs_no_warning_and_the_last_one_is_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "evil_response_avg_diff.pt"
    torch.save(ROWS, file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SteeringVector.load(file, layer=1).directions[1].tolist() == [4, 5]
    with pytest.raises(ValueError, match="output of layer 3; it has 0 to 2; row 4 is after the"):
        SteeringVector.load(file, layer=3)
    with pytest.raises(ValueError, match=r"no row is the output of layer 4; it has 0 to 2$"):
        SteeringVector.load(file, layer=4)


def test_rows_of_unstated_meaning_are_refused_until_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "directions.pt"
    torch.save(ROWS, file)
    with pytest.raises(ValueError, match="holds 5 rows, and its name does not state what they are"):
        SteeringVector.load(file)
    by_layer = SteeringVector.load(file, rows="layers")
    assert by_layer.layers == [0, 1, 2, 3, 4]
    assert all(torch.equal(by_layer.directions[layer], ROWS[layer]) for layer in range(5))
    states = SteeringVector.load(file, rows="hidden_states", layer=0)
    assert torch.equal(states.directions[0], ROWS[1])  # and not the embedding
    with pytest.raises(ValueError, match="rows 'residual' is unknown; expected one of hidden_st"):
        SteeringVector.load(file, rows="residual")
    torch.save(ROWS[0], tmp_path / "one.pt")
    with pytest.raises(ValueError, match=r"one\.pt: only a \.pt with one tensor \[N, H\] has rows"):
        SteeringVector.load(tmp_path / "one.pt", layer=1, rows="layers")


def test_stacked_rows_must_match_the_file_s_size_and_be_floating_point(tmp_path: Path) -> None:
    file = tmp_path / "evil_response_avg_diff.pt"
    torch.save(torch.ones(1, 1).expand(1000, 100_000), file)
    with pytest.raises(ValueError, match="its tensor is larger than the file"):
        SteeringVector.load(file)
    torch.save(ROWS[:2], file)
    with pytest.raises(ValueError, match="2 rows; hidden_states have at least 3"):
        SteeringVector.load(file)


def test_convert_has_an_option_for_the_meaning_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(ROWS, "rows.pt")
    command = "faststeer convert rows.pt v.safetensors --rows layers --layers 3"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == 0
    assert SteeringVector.load("v.safetensors").directions[3].tolist() == [6, 7]


def test_folders_of_easysteer_and_pyreft_are_refused_by_name(tmp_path: Path) -> None:
    pair, reft = tmp_path / "pair", tmp_path / "reft"
    pair.mkdir()
    reft.mkdir()
    for name in ("h1.gguf", "h2.gguf"):
        write_gguf(pair / name, direction_5=ONE)
    (reft / "intervention.bin").touch()
    (reft / "reft_config.json").write_text("{}")
    with pytest.raises(ValueError, match="EasySteer's concept pair, which replaces one direction"):
        SteeringVector.load(pair)
    with pytest.raises(ValueError, match="a pyreft checkpoint, a learned map"):
        SteeringVector.load(reft)
