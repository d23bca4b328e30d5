"""`faststeer data fetch`: from a pinned address, verified, completely or not at all."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from faststeer import data
from faststeer.data import fetching
from faststeer.data.fetching import Pinned

CONTENT = {"one.json": b"[1]", "two.json": b"[2]"}


@dataclass
class Server:
    """A server with its files and the requests it received."""

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    served = Server(dict(CONTENT))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[-1]
            served.asked.append(name)
            self.send_response(200 if name in served.files else 404)
            self.end_headers()
            self.wfile.write(served.files.get(name, b""))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        serve = partial(listening.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        pinned = Pinned(
            f"http://127.0.0.1:{listening.server_port}/at/commit/",
            {name: hashlib.sha256(c).hexdigest() for name, c in CONTENT.items()},
        )
        monkeypatch.setitem(fetching.SETS, "numbers", pinned)
        monkeypatch.setenv("FASTSTEER_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "*")
        yield served
        listening.shutdown()


def test_a_set_is_fetched_once_into_the_cache(server: Server, tmp_path: Path) -> None:
    files = data.fetch("numbers")
    assert [file.read_bytes() for file in files] == list(CONTENT.values())
    assert {file.parent for file in files} == {tmp_path / "cache" / "data" / "numbers"}
    assert data.fetch("numbers") == files
    assert server.asked == ["one.json", "two.json"]


def test_a_changed_file_is_fetched_again_into_the_named_folder(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.json").write_bytes(b"[3]")
    (tmp_path / "mine" / "two.json").write_bytes(CONTENT["two.json"])
    assert [file.read_bytes() for file in data.fetch("numbers", tmp_path / "mine")] == [
        b"[1]",
        b"[2]",
    ]
    assert server.asked == ["one.json"]


@pytest.mark.parametrize("content", [b"[3]", b"[1", b"[1] and a gigabyte more", b""])
def test_a_file_with_another_hash_is_not_kept(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    server.files["one.json"] = content
    with pytest.raises(ValueError, match=r"one\.json is not what it was: .* nothing was kept"):
        data.fetch("numbers", tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def test_a_wrong_download_leaves_the_existing_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(b"mine")
    server.files["one.json"] = b"[3]"
    with pytest.raises(ValueError, match=r"invalid hash value .* nothing was kept"):
        data.fetch("numbers", tmp_path)
    assert [file.read_bytes() for file in tmp_path.iterdir() if file.is_file()] == [b"mine"]


def test_an_address_may_be_a_folder_of_files(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, content in CONTENT.items():
        (mirror / name).write_bytes(content)
    pinned = Pinned(f"{mirror.as_uri()}/", fetching.SETS["numbers"].files)
    monkeypatch.setitem(fetching.SETS, "numbers", pinned)
    files = data.fetch("numbers", tmp_path / "mine")
    assert [file.read_bytes() for file in files] == list(CONTENT.values())
    assert server.asked == []


def test_a_folder_in_place_of_a_file_is_left_unchanged(server: Server, tmp_path: Path) -> None:
    (tmp_path / "one.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"one\.json: is a folder"):
        data.fetch("numbers", tmp_path)
    assert not list((tmp_path / "one.json").iterdir())


def test_without_the_file_or_a_network_the_error_states_what_to_do(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files.clear()
    with pytest.raises(ConnectionError, match=r"one\.json cannot be reached \(HTTP Error 404"):
        data.fetch("numbers")
    closed = Pinned("http://127.0.0.1:9/", fetching.SETS["numbers"].files)
    monkeypatch.setitem(fetching.SETS, "numbers", closed)
    with pytest.raises(ConnectionError, match=r"Without a network, put the files into .*mine"):
        data.fetch("numbers", tmp_path / "mine")


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="data 'words' is unknown; there are behaviours"):
        data.fetch("words")


def test_the_pinned_address_names_a_commit() -> None:
    for pinned in fetching.SETS.values():
        assert any(len(part) == 40 for part in pinned.address.split("/"))
        assert pinned.address.startswith("https://")
