"""The adapter folder on disk: its format, the checks on it, reading and writing it whole, what it holds in words."""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.adapter.folder import read_adapter, save_adapter

__all__ = ["read_adapter", "save_adapter"]

__getattr__, __dir__ = lazy_exports(globals(), {"read_adapter": "folder", "save_adapter": "folder"})
