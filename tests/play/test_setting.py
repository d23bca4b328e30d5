"""A setting is saved as a file and read again; what is no setting of this page is refused."""

import json
from dataclasses import replace

import pytest
import torch
from plain_hooks import random_vector

import faststeer
from faststeer.play import Sampling, Use
from faststeer.play.setting import digest, read_setting, setting_to_json

V, W = (random_vector(name, [1, 2], seed=seed) for seed, name in enumerate("vw"))
USES = [
    Use(V, -1.25, (2,), "generated", "add", faststeer.when(W, layer=1, below=0.1)),
    Use(W, 0.5, (1, 2), None, "project"),
]
ALONE = Use(V, 1.0, (2,), 'after("b") & "generated"', "add", None)
EACH = faststeer.when(W, layer=1, above=0.2, each="token", hysteresis=3)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "setting.json"
    path.write_text(setting_to_json("tiny", USES, 40, Sampling(0.7, 0.9, 3)))
    return path


def test_a_setting_is_read_as_it_was_saved(saved) -> None:
    found = read_setting(saved, [W, V])
    assert (found.max_new_tokens, found.sampling) == (40, Sampling(0.7, 0.9, 3))
    assert found.model == "tiny"
    assert [found.uses[number].vector for number in (0, 1)] == [W, V]
    assert [found.uses[number].place for number in (1, 0)] == [use.place for use in USES]
    assert [found.uses[number].coefficient for number in (1, 0)] == [-1.25, 0.5]


def test_what_tokens_decide_is_read_as_it_was_saved(tmp_path) -> None:
    path, use = tmp_path / "setting.json", replace(ALONE, when=EACH)
    path.write_text(setting_to_json("tiny", [use], 40, Sampling()))
    found = read_setting(path, [W, V]).uses[1]
    assert found.place == use.place != ALONE.place
    assert found.positions == ALONE.positions
    once = replace(use, when=faststeer.when(W, layer=1, above=0.2, each="token"))
    assert (
        found.place != once.place != replace(use, when=faststeer.when(W, layer=1, above=0.2)).place
    )


def test_a_condition_of_an_older_file_is_met_by_prompts(saved) -> None:
    changed(saved, lambda facts: facts["vectors"][0]["when"].pop("each"))
    assert read_setting(saved, [W, V]).uses[1].place == USES[0].place


def test_vectors_are_known_by_their_directions_also_after_a_file(saved, tmp_path) -> None:
    path = tmp_path / "v.safetensors"
    V.for_use(layers=[2], coefficient=0.3).save(path)
    renamed = replace_name(faststeer.SteeringVector.load(path), "renamed")
    assert digest(renamed) == digest(V) != digest(W)
    found = read_setting(saved, [W, renamed, V])
    assert found.uses[1].vector is renamed


def replace_name(vector, name):
    return faststeer.SteeringVector(name, vector.directions, vector.site, vector.metadata)


def test_a_setting_of_vectors_that_are_not_there_names_them(saved) -> None:
    with pytest.raises(ValueError, match=r"setting\.json: needs the vector 'v'; add its file v\."):
        read_setting(saved, [W])
    other = faststeer.SteeringVector("v", {1: torch.ones(64), 2: torch.ones(64)})
    with pytest.raises(ValueError, match="the vector 'v' of this page is not the setting's"):
        read_setting(saved, [W, other])


def changed(saved, change) -> None:
    facts = json.loads(saved.read_text())
    change(facts)
    saved.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(kind="else"), "is not a setting"),
        (lambda f: f.pop("seed"), "'seed' is missing"),
        (lambda f: f["vectors"][0].pop("when"), "'when' is missing"),
        (lambda f: f["vectors"].append(f["vectors"][0]), "'v' of this page is not"),
        (lambda f: f["vectors"][0].update(coefficient=float("nan")), "expected a finite number"),
        (lambda f: f["vectors"][0].update(coefficient="2"), "coefficient is '2'; expected int or"),
        (lambda f: f["vectors"][0].update(layers=[]), r"layers are \[\]"),
        (lambda f: f["vectors"][0].update(layers=[True]), r"layers are \[True\]"),
        (lambda f: f["vectors"][0].update(mode="push"), "mode 'push' is unknown"),
        (lambda f: f["vectors"][0].update(positions="odd"), "positions='odd' is unknown"),
        (
            lambda f: f["vectors"][0].update(positions="exit(1)"),
            r"positions 'exit\(1\)' are unknown",
        ),
        (lambda f: f["vectors"][0]["when"].update(each="word"), "each='word'"),
        (lambda f: f["vectors"][0]["when"].update(hysteresis=2), "hysteresis"),
        (lambda f: f["vectors"][0]["when"].update(below=2), "a cosine is from -1 to 1"),
        (lambda f: f["vectors"][0]["when"].update(above=0), "either above= or below="),
        (lambda f: f["vectors"][0]["when"].update(layer=7), "layer 7"),
        (lambda f: f.update(vectors={}), "vectors is {}; expected list"),
        (lambda f: f.update(vectors=[3]), "expected dict"),
        (lambda f: f.update(seed=-1), "seed is -1"),
        (lambda f: f.update(max_new_tokens=True), "max_new_tokens is True; expected int"),
    ],
)
def test_a_damaged_setting_is_refused_in_words(saved, change, message) -> None:
    changed(saved, change)
    with pytest.raises(ValueError, match=message) as caught:
        read_setting(saved, [V, W])
    assert str(caught.value).startswith("setting.json: ")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[" * 100_000, b"null", b"[1]", b'{"model": "tiny"}', b"PK\x03"]
)
def test_a_foreign_file_is_no_setting(saved, content) -> None:
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"^setting\.json: is not a setting"):
        read_setting(saved, [V, W])


def test_a_huge_file_is_not_read(saved) -> None:
    saved.write_bytes(b" " * (1 << 20) + saved.read_bytes())
    with pytest.raises(ValueError, match="1 MB at most"):
        read_setting(saved, [V, W])
