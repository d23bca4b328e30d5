"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("faststeer")
except PackageNotFoundError:  # imported from a source tree that was built in place
    VERSION = "0+source"
