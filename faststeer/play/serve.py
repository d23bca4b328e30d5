"""Serve the page: on this machine alone, or with a password."""

from __future__ import annotations

import importlib
import os
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
USER = "play"


def require_gradio() -> None:
    """Raise ModuleNotFoundError, with the command that helps, where Gradio is not installed."""
    # Read while Gradio is imported: it would report the use of its functions otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "faststeer play needs Gradio: pip install 'faststeer[play]'"
        ) from error


def require_password(host: str, password: str | None) -> None:
    """Raise ValueError where others could reach the page and no password is given."""
    if host not in LOOPBACK and not password:
        raise ValueError(
            f"--host {host} lets other machines use the page; give --password, or leave --host out"
        )


def launch(app: Any, host: str, port: int | None, password: str | None) -> str:
    """Start the server and return its address; it runs in a thread.

    No file of this machine is served by name, nothing is shared through a tunnel, and uploads are
    limited to what a vector can have.

    Args:
        app: as `build` returns it.
        host: an address of this machine.
        port: the port; None takes a free one from 7860 on.
        password: of the user `USER`; None lets everybody in who can reach the host.

    Raises:
        ValueError: as `require_password`.
        OSError: the port is taken.
    """
    from faststeer.play.library import MOST_UPLOADED

    require_password(host, password)
    _, address, _ = app.launch(
        server_name=host,
        server_port=port,
        auth=None if password is None else (USER, password),
        share=False,
        prevent_thread_lock=True,
        show_error=True,
        quiet=True,
        max_file_size=MOST_UPLOADED,
        allowed_paths=[],
        enable_monitoring=False,
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=app.theme,
        css=app.css,
    )
    return str(address)
