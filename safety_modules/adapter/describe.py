"""What an adapter holds, or how large one would be: as plain data, and as text."""

from os import PathLike
from typing import Any

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.parameters import ParameterCount, count_parameters
from safety_modules.backbones.bases import published_sizes
from safety_modules.config import PRESETS, SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.io.strict import quote, without_controls


def adapter_record(path: str | PathLike[str]) -> dict[str, Any]:
    """Everything about an adapter but its tensors, all of it checked; plain JSON types.

    Raises:
        AdapterError: naming every problem of the folder.
    """
    adapter = read_adapter(path)
    config, sizes = adapter.config, dict[str, int]()
    record: dict[str, Any] = {"kinds": adapter.kinds, "settings": {}}
    for part in adapter.parts:
        counted = count_parameters(part.kind, part.settings, config.base.sizes).parts
        sizes |= {name if part.kind == Guard.kind else f"{part.kind}: {name}": n for name, n in counted.items()}
        settings = part.settings.model_dump(mode="json", exclude={"kind"})
        if part.kind != Guard.kind:
            record["settings"][part.kind] = settings
            continue
        taxonomy = settings["design"].pop("taxonomy")
        record |= {"types": taxonomy["types"], "levels": taxonomy["levels"], **settings}
    return {
        "path": str(path),
        "valid": True,
        "dtype": config.dtype,
        "parts": _sizes(ParameterCount(sizes), config.dtype),
        "base": config.base.fingerprint,
        **record,
        "processor": config.processor,
        "files": config.files,
        "versions": config.versions,
        "metadata": config.metadata,
    }


def adapter_text(record: dict[str, Any]) -> str:
    """An `adapter_record` for people. A stranger's words are shown without control characters."""
    base = dict(record["base"])
    digest, version = base.pop("digest", "not recorded"), base.pop("digest_version", 1)
    old = ", which looked at a few tensors only: load the adapter and save it again" if version == 1 else ""
    lines = [
        f"{record['path']}: a valid adapter, {record['dtype']}",
        f"defences: {', '.join(record['kinds'])}",
        *_table(record["parts"]),
        f"base: {_pairs(base)}",
        f"      digest of version {version}{old}: {digest}",
        *(_guard_lines(record) if Guard.kind in record["kinds"] else ()),
        *(f"{kind}: {_pairs(settings)}" for kind, settings in record["settings"].items()),
        f"pixels: {_pairs(record['processor'])}",
        *(f"SHA-256 of {name}: {value}" for name, value in record["files"].items()),
        f"made with: {_pairs(record['versions'])}",
        *(f"metadata: {name} {quote(value)}" for name, value in record["metadata"].items()),
    ]
    return "\n".join(map(without_controls, lines))


def _guard_lines(record: dict[str, Any]) -> list[str]:
    limits = ", ".join(f"{name} {value:.2f}" for name, value in record["thresholds"].items())
    return [
        f"design: {_pairs(record['design'])}",
        f"types: {', '.join(record['types'])}",
        f"levels: {', '.join(record['levels'])}",
        f"thresholds (log-odds): {limits or 'not calibrated'}",
        f"temperature: {record['temperature']:.3f}",
        *(f"rule it brings for {name}: {quote(rule)}" for name, rule in record["rules"].items()),
    ]


def presets_record(base: str) -> dict[str, Any]:
    """Sizes of every preset on a published base, in 16 bit, from configurations alone; plain JSON types.

    Args:
        base: llava-1.5-7b or llava-1.5-13b.

    Raises:
        ConfigError: unknown base.
    """
    sizes, dtype = published_sizes(base), "float16"
    designs = {name: GuardSettings(design=SafetyConfig.preset(name)) for name in PRESETS}
    counts = {name: count_parameters(Guard.kind, design, sizes) for name, design in designs.items()}
    return {"base": base, "dtype": dtype, "presets": {name: _sizes(count, dtype) for name, count in counts.items()}}


def presets_text(record: dict[str, Any]) -> str:
    """A `presets_record` for people."""
    lines = []
    for name, parts in record["presets"].items():
        lines += [f"{name} design on {record['base']}, 16 bit:", *_table(parts)]
    return "\n".join(lines)


def _sizes(count: ParameterCount, dtype: str) -> dict[str, dict[str, float]]:
    sizes = {part: {"parameters": n, "megabytes": count.megabytes(dtype, part)} for part, n in count.parts.items()}
    return {**sizes, "all": {"parameters": count.total, "megabytes": count.megabytes(dtype)}}


def _table(parts: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"  {name:<28} {size['parameters']:>13,} parameters {size['megabytes']:>9.2f} MB"
        for name, size in parts.items()
    ]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
