"""The libraries as they are installed, CUDA's among them; and what they consist of."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from built_wheel import BuiltOnce, Installed, installed

import cuda_toolkit


def missing(what: str) -> NoReturn:
    """Skips the test, but not where everything has to be there."""
    if "CI" in os.environ:
        pytest.fail(what)
    pytest.skip(what)


def with_cuda(built_once: BuiltOnce) -> Installed:
    try:
        cuda_toolkit.find_nvcc()
    except cuda_toolkit.NoToolkitError as error:
        missing(str(error))
    return installed(built_once)


def cuobjdump(*arguments: object) -> str:
    """What the toolkit's cuobjdump tells, or PyPI's."""
    path = os.environ.get("PATH", "")
    packages = importlib.util.find_spec("nvidia")
    for folder in packages.submodule_search_locations or () if packages else ():
        path += "".join(f"{os.pathsep}{tools}" for tools in Path(folder).glob("cu*/bin"))
    programs = [shutil.which(name, path=path) for name in ("cuobjdump", "nvdisasm")]
    if programs[0] is None or programs[1] is None:
        missing("there is no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return subprocess.run(
        (programs[0], *map(str, arguments)),
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
