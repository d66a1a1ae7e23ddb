"""Libraries that only some formats need: imported when used, named with their extra when absent."""

from importlib import import_module
from typing import Any

from safety_modules.errors import DataError


def needed(module: str, what: str) -> Any:
    """The module.

    Args:
        module: its name.
        what: needs it; for the message.

    Raises:
        DataError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"library missing: expected {module.partition('.')[0]} to be installed for {what}, got {error}. "
            'Run pip install "safety-modules[data]".'
        ) from error
