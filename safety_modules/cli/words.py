"""`safety-modules train --words`: an adapter from sentences; and `--teacher`, which labels pictures for a training."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from safety_modules.cli.outcome import Outcome
from safety_modules.errors import ConfigError

if TYPE_CHECKING:
    from safety_modules.records import Record

DEFAULT = "default"
"""As --words: those in the CLIP's own folder, else those that come along."""
OWN = "types.yaml"
"""Words in a CLIP's folder, for one that knows few."""
CONFIDENCE = 0.8


class FromWords(NamedTuple):
    """What makes a zero-shot head (see `options.grouped`)."""

    words: Annotated[
        str | None,
        typer.Option(
            help="Make the adapter of this file of sentences, without a picture; `default`: those that come along."
        ),
    ] = None
    clip: Annotated[
        str | None,
        typer.Option(
            help="With --words: the CLIP whose vision tower is the base's: folder or hub id; default: MODEL/words."
        ),
    ] = None


class Taught(NamedTuple):
    """What labels pictures for a training (see `options.grouped`)."""

    teacher: Annotated[
        str | None, typer.Option(help="Adapter (of words, as a rule) that labels --pictures: folder, hub id or name.")
    ] = None
    pictures: Annotated[
        list[str] | None, typer.Option(help="With --teacher: folder of pictures without labels. Repeat for several.")
    ] = None
    confidence: Annotated[
        float | None, typer.Option(help=f"With --teacher: least probability of a label; default: {CONFIDENCE}.")
    ] = None

    def chosen(self) -> dict[str, Any]:
        """As they are typed."""
        return self._asdict()

    def check(self, data: list[str] | None) -> None:
        """Raises ConfigError where these do not go together."""
        if (self.teacher is None) != (not self.pictures) or (self.teacher is None and self.confidence is not None):
            raise ConfigError(
                "no teaching: expected --teacher and --pictures together, got one of them (or --confidence alone). "
                "Name both."
            )
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ConfigError(
                f"confidence refused: expected a number between 0 and 1, got {self.confidence:g}. Choose another."
            )

    def record(self, count: int) -> dict[str, Any]:
        """For an adapter's metadata."""
        return {"adapter": self.teacher, "confidence": self.confidence or CONFIDENCE, "pictures": count}


def train_words(
    out: Path, base: Callable[[], tuple[Any, Any]], model: str | None, options: FromWords, overwrite: bool
) -> None:
    """Make an adapter of words and save it. Raises ConfigError as `attach_words`."""
    from safety_modules.backbones.bases import find_base
    from safety_modules.paths import checkpoint_dir
    from safety_modules.policy.policy import Policy
    from safety_modules.training.words import Words, attach_words

    outcome = Outcome(out, None, overwrite=overwrite)
    outcome.check()
    clip = options.clip
    if clip is None:
        beside = (checkpoint_dir() if model is None else find_base(model)) / "words"
        if not beside.is_dir():
            raise ConfigError(
                "no CLIP: expected --clip, got none, and the base has none beside it. Name the one its vision tower "
                "comes from: openai/clip-vit-large-patch14-336 for LLaVA-1.5."
            )
        clip = str(beside)
    own = Path(clip) / OWN
    if options.words != DEFAULT:
        words = Words.from_yaml(str(options.words))
    else:
        words = Words.from_yaml(own) if own.is_file() else Words.default()
    safety = attach_words(*base(), words, clip)
    shipped = Policy.default().rules
    safety.rules = {name: rule for name, rule in safety.policy.rules.items() if name not in shipped}
    outcome.save(safety, {"words": options.words, "clip": options.clip or "beside the base"})
    design = safety.config.words
    assert design is not None
    typer.echo(
        f"{out}: {len(design.sentences)} sentences, {', '.join(safety.config.taxonomy.types)}. It judges pictures, not "
        f"what is asked, and logs only until it is calibrated: safety-modules calibrate {out} --benign FILE"
    )


def teach(base: Any, processor: Any, taught: Taught, features: Path | None) -> "list[Record]":
    """What the teacher is sure of, of the pictures; it is off the base again afterwards."""
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.attach.attach import attach_safety
    from safety_modules.records.readers import read_pictures
    from safety_modules.training.words import pseudo_labelled

    safety = attach_safety(base, processor, adapter=find_adapter(str(taught.teacher)))
    try:
        records = read_pictures(taught.pictures or [], safety.config.taxonomy)
        kept, _ = pseudo_labelled(safety, records, taught.confidence or CONFIDENCE, cache_dir=features)
    finally:
        safety.detach()
    risky = sum(record.is_risky for record in kept)
    typer.echo(f"{taught.teacher}: sure of {len(kept)} of {len(records)} pictures, {risky} of them risky.")
    return kept
