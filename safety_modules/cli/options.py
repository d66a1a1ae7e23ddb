"""Options that several commands share, and how commands load what they work on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.attach import SafetyAttachment

Model = Annotated[
    Path | None, typer.Option(help="Folder of a base model (transformers' LLaVA); default: llava-pocket.")
]
Adapter = Annotated[Path | None, typer.Option(help="Adapter folder; default: the one shipped for llava-pocket.")]
Images = Annotated[Path | None, typer.Option(help="Where relative image paths start; default: beside the data.")]
Cache = Annotated[Path | None, typer.Option(help="Keep vision features here between runs.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")]


def load_base(model: Path | None) -> tuple[Any, Any]:
    if model is None:
        from safety_modules import pocket as world

        return world.load()
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    if not (model / "config.json").is_file():
        raise ConfigError(f"no base model: expected a folder with config.json, got {model}. Check --model.")
    base = LlavaForConditionalGeneration.from_pretrained(model, dtype="auto")
    return base.eval(), AutoProcessor.from_pretrained(model)


def attach(model: Path | None, adapter: Path | None) -> "SafetyAttachment":
    from safety_modules.attach import attach_safety
    from safety_modules.paths import adapter_dir

    if adapter is None and model is not None:
        raise ConfigError("no adapter: expected --adapter with --model, got none. Name the adapter's folder.")
    base, processor = load_base(model)
    return attach_safety(base, processor, adapter=adapter or adapter_dir())
