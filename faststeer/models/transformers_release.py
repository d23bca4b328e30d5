"""The releases of transformers that faststeer runs on, checked when a model is patched."""

from __future__ import annotations

import functools
import warnings

from packaging.version import Version

from faststeer.utils.warnings import FaststeerWarning

OLDEST_SUPPORTED = "4.57"
NEWEST_TESTED = "5.24.0"  # the pin in constraints.txt


def check_transformers() -> None:
    """Check the installed transformers; warn once per process if it is newer than was tested.

    Nothing else depends on the version: what faststeer uses of transformers is found from
    signatures and attributes.

    Raises:
        ImportError: transformers is not installed, or older than 4.57.
    """
    wanted = f"faststeer needs transformers {OLDEST_SUPPORTED} or later"
    mend = f"install it with: pip install 'transformers>={OLDEST_SUPPORTED}'"
    try:
        from transformers import __version__ as installed
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError(f"{wanted}, which is not installed; {mend}") from error
    if Version(installed) < Version(OLDEST_SUPPORTED):
        raise ImportError(f"{wanted}, and {installed} is installed; {mend}")
    if Version(Version(installed).public) > Version(NEWEST_TESTED):
        _warn_of_untested(installed)


@functools.cache
def _warn_of_untested(installed: str) -> None:
    warnings.warn(
        f"transformers {installed} is newer than {NEWEST_TESTED}, the newest that this faststeer "
        "was tested with; `faststeer check --model MODEL` tests it on your model",
        FaststeerWarning,
        stacklevel=4,
    )
