from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from compiling_kernels import NoToolkitError, build
from kernels import Emulator
from libraries import Libraries, build_libraries


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """The CUDA kernels, run on the CPU under AddressSanitizer and UBSan."""
    try:
        program = build(tmp_path_factory.mktemp("kernels"))
    except NoToolkitError as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))
    emulator = Emulator(program)
    yield emulator
    emulator.close()


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    """Both libraries, built with nvcc whatever torch is installed."""
    return build_libraries(tmp_path_factory.mktemp("libraries"))
