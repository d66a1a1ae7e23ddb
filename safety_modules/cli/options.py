"""Options that several commands share, and how commands load what they work on."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_modules.io.places import check_file, check_writable
from safety_modules.paths import adapter_for

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment

Model = Annotated[
    str | None,
    typer.Option(help="Base model (transformers' LLaVA): folder or hub id (owner/name); default: llava-pocket."),
]
Adapter = Annotated[
    str | None,
    typer.Option(help="Adapter: folder, hub id or shipped name; default: llava-pocket-safe, for llava-pocket."),
]
Preset = Annotated[str, typer.Option(help="Design of the modules: default, no-lora or paper.")]
Quantize = Annotated[str | None, typer.Option(help="Load the base in nf4 (4 bit) or int8, by bitsandbytes.")]
Dtype = Annotated[str | None, typer.Option(help="Load the base in bfloat16 or float32; default: as the checkpoint is.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what a finished run has left there.")]


def new_file(path: Path | None, overwrite: bool) -> None:
    """Refuse, before any work, to replace what another run has written."""
    check_file(path, replace=overwrite)


def writable_file(path: Path | None) -> Path | None:
    """Asked while options are read, so before any work."""
    check_file(path)
    return path


def writable_folder(path: Path | None) -> Path | None:
    """Asked while options are read, so before any work."""
    check_writable(path)
    return path


Json = Annotated[Path | None, typer.Option("--json", callback=writable_file, help="Write the numbers to this file.")]
Cache = Annotated[Path | None, typer.Option(callback=writable_folder, help="Keep vision features here between runs.")]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command one of whose parameters is a NamedTuple of options: on the command line each field is an option."""
    parameters = inspect.signature(command).parameters
    groups = {name: one.annotation for name, one in parameters.items() if hasattr(one.annotation, "_fields")}
    options = [
        option.replace(kind=option.KEYWORD_ONLY)
        for name, one in parameters.items()
        for option in (inspect.signature(groups[name]).parameters.values() if name in groups else [one])
    ]

    @wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(*(given.pop(field) for field in group._fields))
        command(**given)

    run.__annotations__ = {option.name: option.annotation for option in options}
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return run


def load_base(model: str | Path | None, quantize: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """Base and processor: pocket on the CPU, another one on this process's own device."""
    from safety_modules.backbones.bases import check_wish, load_here

    check_wish(model, quantize, dtype)
    if model is None:
        from safety_modules import pocket as world

        return world.load()
    return load_here(model, quantize, dtype)


def attach(
    model: str | Path | None, adapter: str | Path | None, quantize: str | None = None, dtype: str | None = None
) -> "SafetyAttachment":
    """A base with an adapter: the shipped one, where none is named."""
    from safety_modules.attach.attach import attach_safety

    chosen = adapter_for(model, adapter)
    base, processor = load_base(model, quantize, dtype)
    return attach_safety(base, processor, adapter=chosen)
