"""What an adapter holds, or how large one would be: as plain data, and as text."""

from os import PathLike
from typing import Any

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.plan import Plan, planned_parameters
from safety_modules.backbones.bases import published_sizes
from safety_modules.config import PRESETS, SafetyConfig
from safety_modules.io.strict import quote, without_controls


def adapter_record(path: str | PathLike[str]) -> dict[str, Any]:
    """Everything about an adapter but its tensors, all of it checked; plain JSON types.

    Raises:
        AdapterError: naming every problem of the folder.
    """
    config = read_adapter(path).config
    return {
        "path": str(path),
        "valid": True,
        "dtype": config.dtype,
        "parts": _sizes(planned_parameters(config.safety, config.base.sizes), config.dtype),
        "base": config.base.fingerprint,
        "design": config.safety.model_dump(mode="json", exclude={"taxonomy"}),
        "types": list(config.safety.taxonomy.types),
        "levels": list(config.safety.taxonomy.levels),
        "thresholds": config.thresholds,
        "temperature": config.temperature,
        "rules": {name: rule.model_dump(mode="json") for name, rule in config.rules.items()},
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
    limits = ", ".join(f"{name} {value:.2f}" for name, value in record["thresholds"].items())
    lines = [
        f"{record['path']}: a valid adapter, {record['dtype']}",
        *_table(record["parts"]),
        f"base: {_pairs(base)}",
        f"      digest of version {version}{old}: {digest}",
        f"design: {_pairs(record['design'])}",
        f"types: {', '.join(record['types'])}",
        f"levels: {', '.join(record['levels'])}",
        f"thresholds (log-odds): {limits or 'not calibrated'}",
        f"temperature: {record['temperature']:.3f}",
        *(f"rule it brings for {name}: {quote(rule)}" for name, rule in record["rules"].items()),
        f"pixels: {_pairs(record['processor'])}",
        *(f"SHA-256 of {name}: {value}" for name, value in record["files"].items()),
        f"made with: {_pairs(record['versions'])}",
        *(f"metadata: {name} {quote(value)}" for name, value in record["metadata"].items()),
    ]
    return "\n".join(map(without_controls, lines))


def plan_record(base: str) -> dict[str, Any]:
    """Sizes of every preset on a published base, in 16 bit, from configurations alone; plain JSON types.

    Args:
        base: llava-1.5-7b or llava-1.5-13b.

    Raises:
        ConfigError: unknown base.
    """
    sizes, dtype = published_sizes(base), "float16"
    plans = {name: planned_parameters(SafetyConfig.preset(name), sizes) for name in PRESETS}
    return {"base": base, "dtype": dtype, "presets": {name: _sizes(plan, dtype) for name, plan in plans.items()}}


def plan_text(record: dict[str, Any]) -> str:
    """A `plan_record` for people."""
    lines = []
    for name, parts in record["presets"].items():
        lines += [f"{name} design on {record['base']}, 16 bit:", *_table(parts)]
    return "\n".join(lines)


def _sizes(plan: Plan, dtype: str) -> dict[str, dict[str, float]]:
    sizes = {
        part: {"parameters": count, "megabytes": plan.megabytes(dtype, part)} for part, count in plan.parts.items()
    }
    return {**sizes, "all": {"parameters": plan.total, "megabytes": plan.megabytes(dtype)}}


def _table(parts: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"  {name:<28} {size['parameters']:>13,} parameters {size['megabytes']:>9.2f} MB"
        for name, size in parts.items()
    ]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
