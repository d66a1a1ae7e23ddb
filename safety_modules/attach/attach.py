"""attach_safety: safety modules on a live base model; detach_safety: off again without a trace.

The modules and the LoRA live in the attachment, beside the model. All that changes on the model itself is its
class (a static subclass with the same name, whose `generate` is guarded) and one entry in its `__dict__`;
detaching puts both back.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from safety_modules.attach.adapters import DEFAULT_NAME, fit_adapter
from safety_modules.attach.attachment import SafetyAttachment, attached_to
from safety_modules.backbones import find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.anchors import Anchors
from safety_modules.defences.base import Defence, Settings
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.registry import fitted_to
from safety_modules.errors import AttachError, ConfigError
from safety_modules.policy.policy import Policy

__all__ = ["SafetyAttachment", "attach_safety", "detach_safety"]


def attach_safety(
    model: Any,
    processor: Any,
    adapter: str | PathLike[str] | None = None,
    config: SafetyConfig | None = None,
    policy: Policy | None = None,
    *,
    defence: str | Settings | Defence | Sequence[str | Settings | Defence] | None = None,
    anchors: Anchors | Mapping[str, Any] | str | PathLike[str] | None = None,
    batch_mode: str = "split",
    merge_lora: bool = False,
    revision: str | None = None,
    adapter_name: str = DEFAULT_NAME,
) -> "SafetyAttachment":
    """Attach safety modules to a model.

    From now on `model.generate(...)` is guarded. `model(...)`, that is `forward`, is NOT: it stays the base's own and
    judges nothing. A decoding loop of your own is guarded by `safety.prepare(...)`.

    Args:
        model: a base model (see `safety_modules.backbones`).
        processor: its processor.
        adapter: folder of a trained adapter, or its id on the hub ("owner/name"); None = untrained modules, to
            be trained: until then guarded calls are refused.
        config: design of untrained modules; default: SafetyConfig(). An adapter brings its own.
        policy: what to do about verdicts; default: the shipped one, for the types of the adapter that is active
            (`Policy.default`).
        defence: what defends the model, by name, by settings, or several of them in order, the outermost first.
            Default: all of the adapter; without one, a guard. Names: `defences.registry.KINDS`; `gated`, `always`,
            `external` and `selective` are the guard in that mode (of the moment, as a policy is: not saved). An
            adapter's parts keep their order; what is added comes right after the one named before it, else before the
            next one, else last.
        anchors: texts with which `cmrm` and `shiftdc` read their vectors from the base, now: a file, or texts by the
            keys `unsafe` and `safe` (`defences.anchors.Anchors`). Default: the shipped ones. An adapter brings vectors.
        batch_mode: how a batch of risky and other rows is answered: `split` (rows judged clean are bit-identical
            to the base's) or `merged` (equal up to rounding, faster).
        merge_lora: answer risky rows from copies of the language model's linears with LoRA added in, made at the first
            risky call: faster where layers are small or on a GPU, for as much memory as these linears have.
        revision: branch, tag or commit of a hub id.
        adapter_name: what `set_adapter` calls it, once there are several.

    Returns:
        The handle: toggles, classifies, saves, detaches.

    Raises:
        AttachError: the model is not supported, or has safety attached.
        AdapterError: the adapter is refused.
        ConfigError: both adapter and config, a design that does not fit the base, an unknown defence, or an order that
            makes no sense; or anchors that no defence here is fitted to.
        DataError: anchors that are none.
        PolicyError: the policy does not fit the taxonomy.
        GuardError: no such batch mode.
        In every case the model is as it was before.
    """
    if config is not None and not isinstance(config, SafetyConfig):
        raise ConfigError(
            f"no design: expected config to be a SafetyConfig, got {type(config).__name__}. A policy is passed by "
            "name: policy=..."
        )
    if adapter is not None and config is not None:
        raise ConfigError(
            "two designs: expected an adapter or a config, got both. Leave config out: an adapter brings its own."
        )
    if adapter is None and revision is not None:
        raise ConfigError(f"a revision of nothing: expected a hub id with it, got {revision!r} alone. Name it.")
    backbone = find_backbone(model, processor)
    several = isinstance(defence, list | tuple)
    wanted: Any = [] if defence is None else [*defence] if several else [defence]  # type: ignore[misc]
    if adapter is not None:
        parts = fit_adapter(backbone, adapter, revision)
    elif config is not None or not wanted:
        parts = [Guard(backbone, GuardSettings(design=config or SafetyConfig()))]
    else:
        parts = []
    if anchors is not None:
        wanted = fitted_to(backbone, wanted, Anchors.read(anchors))
    attachment = SafetyAttachment(backbone, parts, policy, adapter_name, wanted)
    attachment.batch_mode = batch_mode
    attachment.merge_lora = merge_lora
    attachment.install()
    return attachment


def detach_safety(model: Any) -> None:
    """Take safety off a model. Raises AttachError if none is attached."""
    attachment = attached_to(model)
    if attachment is None:
        raise AttachError("nothing to detach: expected a model with safety modules, got one without.")
    attachment.detach()
