"""On a live model and off again: `attach_safety`, the handle it returns, and its adapters by name."""

from typing import TYPE_CHECKING

from safety_modules.io.lazy import lazy_exports

if TYPE_CHECKING:
    from safety_modules.attach.attach import attach_safety, detach_safety
    from safety_modules.attach.attachment import SafetyAttachment

__all__ = ["SafetyAttachment", "attach_safety", "detach_safety"]

_HOMES = {"SafetyAttachment": "attachment", "attach_safety": "attach", "detach_safety": "attach"}

__getattr__, __dir__ = lazy_exports(globals(), _HOMES)
