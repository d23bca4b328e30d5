"""huggingface_hub in this process, or in a subprocess, on the stand-in of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub
from huggingface_hub import constants, file_download, utils


def connect(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
    """Let this process see the stand-in alone, with a token and an empty cache."""
    point_to(hub.endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    switch(monkeypatch, offline=False)


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the address of the hub in this process."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    for module in (constants, file_download):  # huggingface_hub 0.x has a copy in the second
        monkeypatch.setattr(
            module, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template, raising=False
        )
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    forget_sessions()


def switch(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    """Switch huggingface_hub's access to the network on or off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    forget_sessions()


def forget_sessions() -> None:
    """Let huggingface_hub open its connections again: 0.x decides then whether it is offline."""
    (getattr(utils, "close_session", None) or utils.reset_sessions)()


def variables(hub: Hub, cache: Path, token: str = TOKEN) -> dict[str, str]:
    """Return the environment variables that do the same for a subprocess."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN": token,
        "HF_TOKEN_PATH": str(cache / "no-token"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }
