"""Libraries that only some things need: imported when used, and what to type where they are absent."""

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from safety_modules.errors import DataError

DISTRIBUTION = "safety-modules"


def needed(module: str, what: str, extra: str = "data") -> Any:
    """The module.

    Args:
        module: its name.
        what: needs it; for the message.
        extra: of pyproject.toml that brings it.

    Raises:
        DataError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"library missing: expected {module.partition('.')[0]} to be installed for {what}, got {error}. "
            f"{install(extra)}"
        ) from error


def install(extra: str) -> str:
    """The sentence that says how to get what an extra brings: true wherever the package came from.

    Args:
        extra: its name in pyproject.toml.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        lines = []
    wanted = [line.partition(";")[0].strip() for line in lines if re.search(rf"""extra == ['"]{extra}['"]""", line)]
    packages = " ".join(f'"{package}"' for package in wanted) or f'".[{extra}]"'
    return f"Run pip install {packages}."
