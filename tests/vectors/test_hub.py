"""Vectors on a stand-in of the hub: the same bits back, pinned, and refused in words."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_access import point_to, switch
from hub_stand_in import Hub
from vector_files import equal, same

from faststeer import SteeringVector
from faststeer.vectors.hub import VECTOR_FILE


def made(seed: int = 0, name: str = "praise") -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    directions = {layer: torch.randn(8, generator=generator) for layer in (3, 10)}
    return SteeringVector(name, directions, "resid_mid", {"method": "mean_difference"})


def bytes_of(vector: SteeringVector, tmp_path: Path) -> bytes:
    vector.save(tmp_path / "own.safetensors")
    return (tmp_path / "own.safetensors").read_bytes()


def without_origin(vector: SteeringVector) -> SteeringVector:
    metadata = {key: value for key, value in vector.metadata.items() if key != "origin"}
    return SteeringVector(vector.name, vector.directions, vector.site, metadata)


def test_a_vector_is_restored_bit_for_bit_and_states_where_it_came_from(
    hub: Hub, tmp_path: Path
) -> None:
    vector = made()
    commit = vector.push_to_hub("user/praise")
    loaded = SteeringVector.from_pretrained("user/praise")
    assert same(without_origin(loaded), vector)
    content = bytes_of(vector, tmp_path)
    assert hub.repositories["user/praise"].commits[commit.oid][VECTOR_FILE] == content
    digest = hashlib.sha256(content).hexdigest()
    assert loaded.metadata["origin"] == {
        "repo_id": "user/praise",
        "revision": commit.oid,
        "filename": VECTOR_FILE,
        "sha256": digest,
    }
    assert digest in hub.verified
    assert str(commit) == f"{hub.endpoint}/user/praise/commit/{commit.oid}"


def test_a_pinned_commit_gives_the_vector_of_that_commit(hub: Hub) -> None:
    first, second = made(0), made(1)
    assert not equal(first, second)
    pinned = first.push_to_hub("user/praise").oid
    second.push_to_hub("user/praise", commit_message="Read at another token")
    assert hub.repositories["user/praise"].messages[1:] == [
        "Upload steering vector praise",
        "Read at another token",
    ]
    assert equal(SteeringVector.from_pretrained("user/praise"), second)
    old = SteeringVector.from_pretrained("user/praise", revision=pinned)
    assert equal(old, first)
    again = SteeringVector.from_pretrained(**old.metadata["origin"])
    assert same(again, old)


def test_a_branch_and_a_pull_request_leave_main_alone(hub: Hub) -> None:
    first, second, third = made(0), made(1), made(2)
    first.push_to_hub("user/praise")
    second.push_to_hub("user/praise", branch="trial")
    request = third.push_to_hub("user/praise", create_pr=True)
    assert request.pr_revision == "refs/pr/1"
    for revision, vector in ((None, first), ("trial", second), ("refs/pr/1", third)):
        assert equal(SteeringVector.from_pretrained("user/praise", revision=revision), vector)


def test_another_hash_is_refused(hub: Hub) -> None:
    made(0).push_to_hub("user/praise")
    right = SteeringVector.from_pretrained("user/praise").metadata["origin"]["sha256"]
    assert SteeringVector.from_pretrained("user/praise", sha256=right.upper()).name == "praise"
    made(1).push_to_hub("user/praise")
    with pytest.raises(ValueError, match=f"its SHA-256 is .*, expected {right}; nothing is loaded"):
        SteeringVector.from_pretrained("user/praise", sha256=right)
    with pytest.raises(ValueError, match="sha256 is 'abc'; expected 64 hexadecimal digits"):
        SteeringVector.from_pretrained("user/praise", sha256="abc")


def test_a_private_repository_needs_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = made()
    vector.push_to_hub("user/praise", private=True)
    assert hub.repositories["user/praise"].private
    assert equal(SteeringVector.from_pretrained("user/praise"), vector)
    with pytest.raises(FileNotFoundError, match=r"or it is private: give token=.*hf auth login"):
        SteeringVector.from_pretrained("user/praise", token=False)
    with pytest.raises(PermissionError, match=r"user/other: the hub refuses access \(401\); give"):
        vector.push_to_hub("user/other", token=False)
    with pytest.raises(PermissionError, match=r"other/praise: the hub refuses access \(403\)"):
        vector.push_to_hub("other/praise")
    assert list(hub.repositories) == ["user/praise"]


def test_a_vector_that_is_to_be_private_is_not_pushed_to_a_public_repository(hub: Hub) -> None:
    made().push_to_hub("user/praise")
    with pytest.raises(ValueError, match="user/praise: exists and is public"):
        made(1).push_to_hub("user/praise", private=True)
    assert len(hub.repositories["user/praise"].commits) == 2


@pytest.mark.parametrize(
    ("files", "arguments", "error", "message"),
    [
        ({"vector__pt": b"x"}, {}, ValueError, r"no \.safetensors file; vector\.pt .*pickle"),
        ({}, {}, ValueError, r"holds no faststeer vector: no \.safetensors file$"),
        (
            {"a__safetensors": b"x", "b__safetensors": b"x"},
            {},
            ValueError,
            r"has a\.safetensors, b\.safetensors; choose one with filename=",
        ),
        ({"a__safetensors": b"x"}, {}, ValueError, r"a\.safetensors: not a readable safetensors"),
        (
            {"a__safetensors": b"x"},
            {"filename": "b.safetensors"},
            FileNotFoundError,
            "the repository has no such file there",
        ),
        ({"v__pt": b"x"}, {"filename": "v.pt"}, ValueError, r"expected a \.safetensors file"),
        ({}, {"revision": "v2"}, FileNotFoundError, "the repository has no such revision"),
    ],
)
def test_a_repository_without_one_vector_is_refused_in_words(
    hub: Hub,
    files: dict[str, bytes],
    arguments: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    hub.create("user/other", **files)
    with pytest.raises(error, match=f"(user/other|filename).*{message}"):
        SteeringVector.from_pretrained("user/other", **arguments)
    fetched = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert not [path for path in fetched if not path.endswith(".safetensors")]


def test_one_of_several_vectors_is_chosen_by_its_file(hub: Hub, tmp_path: Path) -> None:
    first, second = bytes_of(made(0), tmp_path), bytes_of(made(1), tmp_path)
    hub.create("user/several", a__safetensors=first, b__safetensors=second)
    loaded = SteeringVector.from_pretrained("user/several", filename="b.safetensors")
    assert equal(loaded, made(1))
    assert not [path for _, path in hub.requests if path.endswith("a.safetensors")]


def test_a_model_is_not_downloaded_in_place_of_a_vector(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("user/model", model__safetensors=b"x" * 200)
    monkeypatch.setattr("faststeer.vectors.hub._MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"model\.safetensors has 200 bytes.*is it a model\?"):
        SteeringVector.from_pretrained("user/model")
    assert not [path for _, path in hub.requests if "/resolve/" in path]


@pytest.mark.parametrize("name", ["user/absent", "not a name", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_repository_is_named(hub: Hub, name: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=f"{name}.* (no such|neither)"):
        SteeringVector.from_pretrained(name)


def test_without_the_hub_the_cached_copy_is_loaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = made()
    vector.push_to_hub("user/praise")
    online = SteeringVector.from_pretrained("user/praise")
    made(1).push_to_hub("user/praise")
    asked = len(hub.requests)
    assert same(SteeringVector.from_pretrained("user/praise", local_files_only=True), online)
    switch(monkeypatch, offline=True)
    assert same(SteeringVector.from_pretrained("user/praise"), online)
    assert same(SteeringVector.from_pretrained(**online.metadata["origin"]), online)
    for arguments in ({}, {"filename": VECTOR_FILE}, {"local_files_only": True}):
        with pytest.raises(ConnectionError, match=r"user/other: .*the cache has no copy"):
            SteeringVector.from_pretrained("user/other", **arguments)
    with pytest.raises(ConnectionError, match="user/praise: the hub is switched off"):
        vector.push_to_hub("user/praise")
    assert len(hub.requests) == asked


def test_a_hub_that_does_not_answer_is_as_being_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = made()
    vector.push_to_hub("user/praise")
    online = SteeringVector.from_pretrained("user/praise")
    point_to("http://127.0.0.1:9", monkeypatch)  # the port of discard, which nothing serves
    assert same(SteeringVector.from_pretrained("user/praise"), online)
    with pytest.raises(ConnectionError, match="user/other: the hub cannot be reached"):
        SteeringVector.from_pretrained("user/other")


def test_a_hub_that_is_down_is_as_being_offline(hub: Hub) -> None:
    vector = made()
    vector.push_to_hub("user/praise")
    online = SteeringVector.from_pretrained("user/praise")
    hub.down = True
    assert same(SteeringVector.from_pretrained("user/praise"), online)
    with pytest.raises(ConnectionError, match=r"user/praise: the hub answers .*503"):
        vector.push_to_hub("user/praise")


def test_a_vector_that_is_pushed_again_states_its_new_place(hub: Hub) -> None:
    made().push_to_hub("user/praise")
    first = SteeringVector.from_pretrained("user/praise")
    commit = (2 * first).push_to_hub("user/twice").oid
    twice = SteeringVector.from_pretrained("user/twice")
    assert equal(twice, 2 * made())
    assert (twice.metadata["origin"]["repo_id"], twice.metadata["origin"]["revision"]) == (
        "user/twice",
        commit,
    )
    card = hub.repositories["user/twice"].commits[commit]["README.md"].decode()
    assert f"| origin.revision | {first.metadata['origin']['revision']} |" in card


def test_a_folder_is_loaded_as_its_file_is(tmp_path: Path) -> None:
    vector, folder = made(), tmp_path / "praise"
    folder.mkdir()
    vector.save(folder / "v.safetensors")
    digest = hashlib.sha256((folder / "v.safetensors").read_bytes()).hexdigest()
    assert same(SteeringVector.from_pretrained(folder, sha256=digest), vector)
    assert same(SteeringVector.from_pretrained(str(folder), filename="v.safetensors"), vector)
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (folder, {"sha256": "0" * 64}, f"its SHA-256 is {digest}, expected 0000"),
        (folder, {"revision": "main"}, "is a folder, which has no revision 'main'"),
        (folder / "v.safetensors", {}, r"is a file; SteeringVector\.load reads it"),
    ]
    for place, arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            SteeringVector.from_pretrained(place, **arguments)
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors: no such file"):
        SteeringVector.from_pretrained(folder, filename="w.safetensors")
    vector.save(folder / "w.safetensors")
    with pytest.raises(ValueError, match=r"has v\.safetensors, w\.safetensors; choose one with"):
        SteeringVector.from_pretrained(folder)
