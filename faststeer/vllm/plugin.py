"""The entry point that vLLM calls in every process."""

from __future__ import annotations

import importlib
import os
from typing import Any

from faststeer.vllm.configuration import FOLDER_VARIABLE, KEY

# The private names of a version of vLLM are in one folder each.
SUPPORTED = {"0.32": "faststeer.vllm.v032"}


class UnsupportedVersionError(RuntimeError):
    """Another version of vLLM than those whose private names are known."""


def register() -> None:
    """Install the plugin, which does nothing until vectors are configured.

    Raises:
        UnsupportedVersionError: vectors are configured, and this version of vLLM is not supported.
            Where they are configured by `additional_config`, that is said once it is read.
    """
    import vllm

    try:
        module = private_names()
    except UnsupportedVersionError as error:
        if os.environ.get(FOLDER_VARIABLE):
            raise
        _refuse_when_configured(vllm.config.VllmConfig, str(error))
    else:
        importlib.import_module(f"{module}.install").install()


def private_names() -> str:
    """Return the name of the package of this vLLM's private names.

    Raises:
        UnsupportedVersionError: this version is not supported.
    """
    import vllm

    minor = ".".join(vllm.__version__.split(".")[:2])
    if minor in SUPPORTED:
        return SUPPORTED[minor]
    names = ", ".join(f"{own}.x" for own in SUPPORTED)
    raise UnsupportedVersionError(
        f"faststeer steers vLLM {names}, and this is {vllm.__version__}: nothing is steered"
    )


def _refuse_when_configured(config_class: Any, reason: str) -> None:
    """Let the configuration of an engine be refused if it has vectors."""
    stock = config_class.__post_init__

    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        additional = self.additional_config
        if isinstance(additional, dict) and KEY in additional:
            raise UnsupportedVersionError(reason)

    config_class.__post_init__ = checked
