"""Options that say how data is read, and how commands read it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from safety_modules.errors import ConfigError, DataError

if TYPE_CHECKING:
    from safety_modules.attach.attachment import SafetyAttachment
    from safety_modules.records import GoodRecords, ReadOptions
    from safety_modules.taxonomy import Taxonomy

AUTO = "auto"
_EACH = f"Once for all data, or once for each in order; {AUTO} = default."
ImageKey = Annotated[
    str | None,
    typer.Option(
        help="Key or column that names the pictures, or several with commas; default: image, img, image_path ..."
    ),
]
KEPT_BYTES = 1_000_000_000
"""Memory for pictures that the check has decoded and the vision tower has not seen yet."""


class Reading(NamedTuple):
    """What the command line says about reading (see `options.grouped`)."""

    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"jsonl, llava, vlguard, csv, parquet, folder, hf, webdataset; default: recognised. {_EACH}",
        ),
    ] = None
    images: Annotated[
        list[str] | None, typer.Option(help=f"Where relative image paths start; default: beside the data. {_EACH}")
    ] = None
    image_key: ImageKey = None
    categories: Annotated[Path | None, typer.Option(help="vlguard: a table of categories of your own.")] = None
    level: Annotated[str | None, typer.Option(help="folder: level of pictures in no folder of a level.")] = None
    question: Annotated[str | None, typer.Option(help="folder: what is asked about every picture.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="hf: read while loading.")] = False

    def given(self) -> bool:
        """Whether it says anything."""
        return any(self)

    def options(self, taxonomy: "Taxonomy", *sets: Sequence[str]) -> "list[list[ReadOptions]]":
        """For each source of each set. What was said once holds for the sources whose format knows it.

        Raises:
            ConfigError: --format or --images neither once nor once for each.
            DataError: no source's format knows an option, or a format is not clear.
        """
        from safety_modules.records import ReadOptions
        from safety_modules.records.formats import FORMATS
        from safety_modules.records.readers import open_source

        paths = [path for one in sets for path in one]
        asked = self._asdict()
        formats = _for_each("--format", asked.pop("formats"), len(paths))
        images = _for_each("--images", asked.pop("images"), len(paths))
        shared = ReadOptions(**asked)
        each = [replace(shared, format=form, image_dir=place) for form, place in zip(formats, images, strict=True)]
        once = shared.given() + (["image_dir"] if len(self.images or ()) == 1 else [])
        if len(paths) > 1 and once:
            sources = [
                open_source(path, ReadOptions(form), taxonomy) for path, form in zip(paths, formats, strict=True)
            ]
            known = [FORMATS[source.format].options for source in sources]
            for option in once:
                if not any(option in one for one in known):
                    raise DataError(
                        f"option {option} means nothing to the formats of the data: expected it with "
                        f"{', '.join(name for name, one in FORMATS.items() if option in one.options)}. Leave it out."
                    )
            for number, one in enumerate(known):
                unknown = [option for option in once if option not in one]
                each[number] = replace(each[number], **{option: getattr(ReadOptions, option) for option in unknown})
        left = iter(each)
        return [[next(left) for _ in one] for one in sets]


def _for_each(name: str, given: Sequence[str] | None, count: int) -> list[str | None]:
    given = given or [AUTO]
    if len(given) not in (1, count):
        raise ConfigError(
            f"{name} refused: expected it once for all data, or once for each of {count}, got it {len(given)} times. "
            f"Name each one's in order, or {AUTO}."
        )
    each = [*given] * (count if len(given) == 1 else 1)
    return [None if value == AUTO else value for value in each]


def load_records(
    data: Sequence[str],
    options: "Sequence[ReadOptions]",
    safety: "SafetyAttachment",
    taxonomy: "Taxonomy | None" = None,
    cache: Path | None = None,
    left_out: Path | None = None,
) -> "GoodRecords":
    """Records to work on, every picture decoded once before any work, except those with vision features in `cache`.

    The data, each source with its own options, are one set. `taxonomy`: another one than the attachment's. `left_out`:
    go on without bad records, and list them in this file; None = refuse data with any.
    """
    from safety_modules.io.files import write_whole
    from safety_modules.records import read_good_records
    from safety_modules.records.record import raise_problems
    from safety_modules.training import distributed
    from safety_modules.training.features import known_pictures

    found = read_good_records(
        data,
        options,
        taxonomy or safety.config.taxonomy,
        progress=distributed.rank() == 0,
        known=known_pictures(safety.backbone, cache, safety.modules),
        keep_bytes=KEPT_BYTES,
    )
    names = ", ".join(data)
    if left_out is None or not found.records:
        raise_problems(found.left_out, names)
    if distributed.rank() > 0:
        return found
    for what, count in found.passed_over.items():
        typer.echo(f"{count} of {names} passed over: {what}")
    if left_out is not None:
        left_out.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{problem.model_dump_json()}\n" for problem in found.left_out)
        write_whole(left_out, lambda file: file.write(lines.encode()))
        typer.echo(f"{len(found.left_out)} of {names} left out: see {left_out}")
    return found
