"""Options that several commands share, and how commands load what they work on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.attach import SafetyAttachment
    from safety_modules.records import Record
    from safety_modules.taxonomy import Taxonomy

Model = Annotated[
    Path | None, typer.Option(help="Folder of a base model (transformers' LLaVA); default: llava-pocket.")
]
Adapter = Annotated[Path | None, typer.Option(help="Adapter folder; default: the one shipped for llava-pocket.")]
Images = Annotated[Path | None, typer.Option(help="Where relative image paths start; default: beside the data.")]
Cache = Annotated[Path | None, typer.Option(help="Keep vision features here between runs.")]
Quantize = Annotated[str | None, typer.Option(help="Load the base in nf4 (4 bit) or int8, by bitsandbytes.")]
Dtype = Annotated[str | None, typer.Option(help="Load the base in bfloat16 or float32; default: as the checkpoint is.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")]


def load_base(model: Path | None, quantize: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """Base and processor: pocket on the CPU, another one on this process's own device."""
    if dtype not in (None, "bfloat16", "float32"):
        raise ConfigError(f"unknown dtype: expected bfloat16 or float32, got {dtype!r}. Pick one of them.")
    if model is None:
        from safety_modules import pocket as world

        if quantize or dtype:
            raise ConfigError(
                f"llava-pocket stays as it is: expected --model with {quantize or dtype}, got none. Name a base."
            )
        return world.load()
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from safety_modules.bases import quantisation

    if not (model / "config.json").is_file():
        raise ConfigError(f"no base model: expected a folder with config.json, got {model}. Check --model.")
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    options: dict[str, Any] = {"dtype": dtype or "auto"}
    if quantize is not None:
        options["quantization_config"] = quantisation(quantize, torch.bfloat16)
        options["device_map"] = {"": device}
    base = LlavaForConditionalGeneration.from_pretrained(model, **options)
    # One that is to be spread over processes (FSDP) may fit on no single device.
    if quantize is None and not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        base = base.to(device)
    return base.eval(), AutoProcessor.from_pretrained(model)


def attach(model: Path | None, adapter: Path | None) -> "SafetyAttachment":
    from safety_modules.attach import attach_safety
    from safety_modules.paths import adapter_dir

    if adapter is None and model is not None:
        raise ConfigError("no adapter: expected --adapter with --model, got none. Name the adapter's folder.")
    base, processor = load_base(model)
    return attach_safety(base, processor, adapter=adapter or adapter_dir())


def load_records(
    data: str,
    images: Path | None,
    format: str | None = None,
    taxonomy: "Taxonomy | None" = None,
    left_out: Path | None = None,
) -> "list[Record]":
    """Records to train on, every picture decoded once before any work.

    Args:
        data: file, folder or address.
        images: where relative image paths start.
        format: of the data; None = recognised.
        taxonomy: names of types and levels; None = the default ones.
        left_out: train without bad records, and list them in this file; None = refuse data with any.
    """
    from safety_modules.records import read_good_records
    from safety_modules.records.record import raise_problems
    from safety_modules.taxonomy import DEFAULT_TAXONOMY
    from safety_modules.training.files import write_whole

    records, problems = read_good_records(data, images, taxonomy or DEFAULT_TAXONOMY, format)
    if left_out is None or not records:
        raise_problems(
            [str(problem) for problem in problems] or ([] if records else ["expected records, got none."]), data
        )
        return records
    left_out.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{problem.model_dump_json()}\n" for problem in problems)
    write_whole(left_out, lambda file: file.write(lines.encode()))
    typer.echo(f"{len(problems)} of {data} left out: see {left_out}")
    return records
