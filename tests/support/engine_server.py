"""vLLM's OpenAI server as a process of its own, on the loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def served(
    folder: Path, log: Path, *options: str, additional_config: Any = None, **environment: str
) -> Iterator[str]:
    """Serve a model under the name "model" until the context ends. Yields the address.

    Raises:
        RuntimeError: the server ends before it is ready, with the last of what it wrote.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model"),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", *options),
    ]
    if additional_config is not None:
        command += ["--additional-config", json.dumps(additional_config)]
    own = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"} | environment
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=own, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, log)
        yield address
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its engine, which is in the same group of processes."""
    with suppress(ProcessLookupError):  # none of them runs any more
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server is not ready; it wrote\n{log.read_text()[-4000:]}")
