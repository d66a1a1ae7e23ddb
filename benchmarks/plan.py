"""Memory of each process, disk and arithmetic that a stage needs, from configurations alone (nothing is loaded).

    python benchmarks/plan.py llava-1.5-7b --recipe llava-1.5-7b/stage2-qlora --quantize nf4 --gpu-memory 16

How it is worked out: `safety_modules/training/plan.py`.
"""

import json
from typing import Annotated, Any

import typer
from script import command_line, run
from transformers import LlavaConfig

from safety_modules.backbones.bases import PUBLISHED, find_base, local_config, published_config
from safety_modules.cli.options import Preset, Quantize
from safety_modules.config import SafetyConfig
from safety_modules.errors import ConfigError
from safety_modules.paths import recipe_file
from safety_modules.training.plan import Resources, Setting, stage_resources
from safety_modules.training.recipe import Recipe


def base_config(base: str) -> LlavaConfig:
    """The configuration of a base: a published name, a folder with config.json, or a hub id.

    Raises:
        ConfigError: neither, or not a LLaVA-1.5.
    """
    if base in PUBLISHED:
        return published_config(base)
    folder = find_base(base)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"no base to plan for: expected one of {', '.join(PUBLISHED)}, a folder with config.json or a hub id, got "
            f"{base}. Check the name."
        )
    return local_config(folder)


def plan(
    base: Annotated[str, typer.Argument(help="llava-1.5-7b, llava-1.5-13b, or a base model: folder or hub id.")],
    recipe: Annotated[str, typer.Option(help="A stage's YAML file, or a shipped one's name: llava-1.5-7b/stage1.")],
    preset: Preset = "default",
    quantize: Quantize = None,
    processes: Annotated[int, typer.Option(min=1, help="Devices that train together.")] = 1,
    sharded: Annotated[bool, typer.Option("--sharded", help="The base is spread over them (FSDP).")] = False,
    text_tokens: Annotated[int, typer.Option(min=2, help="Of a sample: question, hint and answer.")] = 256,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Those of them that are the answer.")] = 128,
    pictures: Annotated[int, typer.Option(min=0, help="Distinct pictures in the data.")] = 0,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="What one device sustains, in 10^12 operations a second.")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="GB (10^9 bytes) of one; exit code 1 if it does not fit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Memory, disk and time of a stage, worked out without loading anything."""
    if answer_tokens >= text_tokens:
        raise ConfigError(
            f"no question left: expected fewer answer tokens than the {text_tokens} of the text, got {answer_tokens}. "
            "Raise --text-tokens."
        )
    setting = Setting(
        quantise=quantize,
        processes=processes,
        sharded=sharded,
        text_tokens=text_tokens,
        answer_tokens=answer_tokens,
        pictures=pictures,
    )
    needed = stage_resources(
        base_config(base), SafetyConfig.preset(preset), Recipe.from_yaml(recipe_file(recipe)), setting
    )
    record = _record(needed, tflops)
    fits = gpu_memory is None or needed.total <= gpu_memory * 1e9
    typer.echo(json.dumps(record, indent=2) if as_json else _text(record, gpu_memory))
    if not fits:
        raise typer.Exit(1)


def _record(needed: Resources, tflops: float | None = None) -> dict[str, Any]:
    """Plain JSON types: GB are 10^9 bytes, times are at `tflops` x 10^12 operations a second."""
    record: dict[str, Any] = {
        "memory_gb": {name: size / 1e9 for name, size in needed.memory.items()},
        "total_gb": needed.total / 1e9,
        "activations_gb": {name: size / 1e9 for name, size in needed.activations.items()},
        "features_gb": needed.features / 1e9,
        "features_read_gb": needed.read / 1e9,
        "steps": needed.steps,
        "step_tflop": needed.step_flops / 1e12,
        "tower_tflop": needed.tower_flops / 1e12,
    }
    if tflops is not None:
        second = tflops * 1e12
        record["at_tflops"] = tflops
        record["seconds_a_step"] = needed.step_flops / second
        record["stage_hours"] = needed.steps * needed.step_flops / second / 3600
        record["features_hours"] = needed.tower_flops / second / 3600
    return record


def _text(record: dict[str, Any], gpu_memory: float | None = None) -> str:
    """For people."""
    lines = ["memory of each device, GB:"]
    lines += [f"  {name:<44} {size:>8.2f}" for name, size in record["memory_gb"].items() if size]
    verdict = ""
    if gpu_memory is not None:
        word = "fits in" if record["total_gb"] <= gpu_memory else "does not fit in"
        verdict = f"   {word} {gpu_memory:g}"
    lines.append(f"  {'all, without CUDA context and gaps':<44} {record['total_gb']:>8.2f}{verdict}")
    kept = record["activations_gb"]
    lines.append(f"activations, GB: {kept['kept']:.2f} kept, {kept['checkpointed']:.2f} with activation checkpointing")
    size = f"{record['features_gb']:.2f} on disk, " if record["features_gb"] else ""
    lines.append(f"feature cache, GB: {size}{record['features_read_gb']:.3f} read in a step")
    lines.append(
        f"arithmetic of each device, 10^12 operations: {record['step_tflop']:.2f} a step, {record['steps']} steps"
        + (f"; {record['tower_tflop']:.1f} for the feature cache" if record["tower_tflop"] else "")
    )
    if "at_tflops" in record:
        lines.append(
            f"at {record['at_tflops']:g} x 10^12 operations a second: {record['seconds_a_step']:.3g} s a step, "
            f"{record['stage_hours']:.3g} h in all"
            + (f", {record['features_hours']:.3g} h for the feature cache" if record["features_gb"] else "")
        )
    return "\n".join(lines)


app = command_line(plan)


if __name__ == "__main__":
    run(app)
