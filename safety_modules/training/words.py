"""From words to an adapter: sentences, a CLIP, a base; no picture. And from its verdicts to labels for stage I."""

from collections.abc import Iterable, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from safety_modules.attach.attach import attach_safety
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone, find_backbone
from safety_modules.backbones.clip import Clip
from safety_modules.config import Line, SafetyConfig, Sentence, WordsSettings
from safety_modules.errors import ConfigError, DataError, validation_problems
from safety_modules.io.strict import load_yaml
from safety_modules.records.record import GoodRecords, Record
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Name, Taxonomy
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements

LOCAL = 0.3
"""Share of the strongest patch in a sentence's evidence, beside the class token's: the best on pocket's validation
split (`benchmarks/zero_shot.py ways`)."""
MOST_BYTES = 1_000_000
"""Of a file of words."""
Sentences = Annotated[tuple[Line, ...], Field(min_length=1)]


class Words(BaseModel):
    """A file of words.

    Args:
        extends: True = the sentences stand beside those that come along; False = in their place.
        templates: sentences around a sentence, with {} in its place; none = those that come along.
        types: sentences of each risk type, by level.
        harmless: sentences of pictures that are none, similar ones above all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    extends: bool = False
    templates: tuple[Line, ...] = ()
    types: dict[Name, dict[Name, Sentences]]
    harmless: tuple[Line, ...]

    @model_validator(mode="after")
    def _something(self) -> "Words":
        if not self.extends and not (self.types and self.harmless):
            raise ValueError("no words: expected sentences for a type and for harmless pictures")
        texts = [text for levels in self.types.values() for some in levels.values() for text in some]
        repeated = sorted({text for text in (*texts, *self.harmless) if [*texts, *self.harmless].count(text) > 1})
        if repeated:
            raise ValueError(f"a sentence stands twice: {repeated[0][:80]!r}")
        return self

    @classmethod
    def default(cls) -> "Words":
        """The words in `safety_modules/data/words.yaml`."""
        text = resources.files("safety_modules").joinpath("data", "words.yaml").read_text(encoding="utf-8")
        return cls._parse(text, "data/words.yaml")

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> "Words":
        """Read a file, and take what it extends. Raises ConfigError naming every problem."""
        try:
            raw = Path(path).read_bytes()
            text = raw.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"words {path} not read: expected a YAML file, got {error}. Check the path.") from error
        if len(raw) > MOST_BYTES:
            raise ConfigError(f"words {path} refused: expected at most {MOST_BYTES} bytes, got {len(raw)}. Shorten it.")
        return cls._parse(text, str(path)).whole()

    @classmethod
    def _parse(cls, text: str, where: str) -> "Words":
        try:
            return cls.model_validate(load_yaml(text))
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"words {where} refused: expected YAML, got {error}. Correct the file.") from error
        except ValidationError as error:
            lines = "".join(f"\n  - {line}" for line in validation_problems(error, model=cls))
            raise ConfigError(f"words {where} refused:{lines}\nCorrect the file.") from error

    def whole(self) -> "Words":
        """With the words that come along, where it extends these; and always with templates."""
        if self.extends:
            first = Words.default()
            types: dict[str, dict[str, tuple[str, ...]]] = {name: dict(levels) for name, levels in first.types.items()}
            for name, levels in self.types.items():
                own = types.setdefault(name, {})
                for level, some in levels.items():
                    own[level] = (*own.get(level, ()), *(text for text in some if text not in own.get(level, ())))
            harmless = (*first.harmless, *(text for text in self.harmless if text not in first.harmless))
            return Words(templates=self.templates or first.templates, types=types, harmless=harmless)
        return self if self.templates else self.model_copy(update={"templates": Words.default().templates})

    def sentences(self, taxonomy: Taxonomy) -> tuple[Sentence, ...]:
        """Each with its label.

        Raises:
            ConfigError: a type or a level that the taxonomy does not have, or a type without a sentence.
        """
        problems = [f"unknown type {name!r}" for name in self.types if name not in taxonomy.types]
        problems += [f"no sentence for type {name!r}" for name in taxonomy.types if not self.types.get(name)]
        problems += [
            f"unknown level {level!r} of {name}"
            for name, levels in self.types.items()
            for level in levels
            if level not in taxonomy.risky_levels
        ]
        if problems:
            raise ConfigError(
                f"words do not fit: expected the types {', '.join(taxonomy.types)} with levels of "
                f"{', '.join(taxonomy.risky_levels)}, got {'; '.join(problems)}. Correct the file."
            )
        risky = [
            Sentence(text=text, type=name, level=level)
            for name in taxonomy.types
            for level, some in self.types[name].items()
            for text in some
        ]
        return (*risky, *(Sentence(text=text, type=CLEAN, level=taxonomy.safe_level) for text in self.harmless))


def words_design(
    backbone: Backbone, words: Words, clip: str | PathLike[str]
) -> tuple[SafetyConfig, dict[str, torch.Tensor]]:
    """Design and tensors of a head that is made of words.

    Raises:
        ConfigError: the words do not fit, or the CLIP is refused.
    """
    words = words.whole()
    taxonomy = Taxonomy(types=_types(words), levels=DEFAULT_TAXONOMY.levels)
    sentences = words.sentences(taxonomy)  # refused before any work
    half = Clip(clip, backbone)
    try:
        settings = WordsSettings(
            sentences=sentences, templates=words.templates, width=half.width, tower=backbone.tower_digest()
        )
        config = SafetyConfig(taxonomy=taxonomy, query="words", words=settings, num_lm_tokens=0, ensemble=1, lora=None)
    except ValidationError as error:
        raise ConfigError(f"words refused: {' '.join(validation_problems(error))} Correct the file.") from error
    return config, {
        **half.last_layer(),
        "directions": half.directions([one.text for one in sentences], words.templates),
        "scale": torch.tensor(half.scale),
        "local": torch.tensor(LOCAL),
    }


def _types(words: Words) -> tuple[str, ...]:
    """The published ones in their order, where all of these are there; then others in the file's."""
    first = [name for name in DEFAULT_TAXONOMY.types if name in words.types]
    return (*first, *(name for name in words.types if name not in first))


def attach_words(
    model: Any, processor: Any, words: Words | str | PathLike[str], clip: str | PathLike[str], **options: Any
) -> SafetyAttachment:
    """Safety from words on a base: `attach_safety` with a guard that no picture trained.

    Args:
        model, processor: the base.
        words: or their file.
        clip: the CLIP whose vision tower is the base's own: a folder or a hub id.
        options: of `attach_safety`.

    Raises:
        ConfigError: words or CLIP are refused.
        AttachError: as `attach_safety`.

    Does not cover: what is risky only by the question asked, or by something no sentence names. Until it is calibrated
    (`calibrate`) it only logs: a call whose policy would act on it is refused.
    """
    found = words if isinstance(words, Words) else Words.from_yaml(words)
    config, tensors = words_design(find_backbone(model, processor), found, clip)
    safety = attach_safety(model, processor, config=config, **options)
    safety.modules.head.load_state_dict(tensors)
    safety.trained = True
    return safety


def pseudo_labelled(
    teacher: SafetyAttachment,
    pictures: Sequence[Record] | GoodRecords,
    confidence: float = 0.8,
    *,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[list[Record], list[float]]:
    """Pictures with the labels that a teacher is sure of, for stage I (pseudo-labels: Lee 2013).

    Args:
        teacher: judges each picture with its question.
        pictures: records, of whose labels nothing is taken.
        confidence: least probability of the label, clean or a type; other pictures are left out.
        cache_dir: keeps vision features between runs; None = in memory only.
        progress: show a bar.

    Returns:
        The records with their new labels, and how probable each is.

    Raises:
        DataError: a picture cannot be used, or the teacher is sure of none that is risky, or of none that is clean.
    """
    corpus = Corpus.make(teacher.backbone, pictures, cache_dir, progress, teacher.modules)
    found, taxonomy = corpus_judgements(teacher, corpus), teacher.config.taxonomy
    types, sure = found.types.argmax(1), found.types.max(1)
    kept, confidences = [], []
    for row in np.flatnonzero(sure >= confidence).tolist():
        name = taxonomy.labels[types[row]]
        level = taxonomy.levels[1 + int(found.levels[row, 1:].argmax())] if name != CLEAN else taxonomy.safe_level
        kept.append(corpus.records[row].model_copy(update={"type": name, "level": level, "answer": None}))
        confidences.append(float(sure[row]))
    risky = sum(record.is_risky for record in kept)
    if risky in (0, len(kept)):
        raise DataError(
            f"nothing taught: expected pictures that the teacher surely calls clean, and surely risky ones, got "
            f"{risky} risky of {len(kept)} with a confidence of {confidence:g}. Add pictures, or lower the confidence."
        )
    return kept, confidences


def taught(labelled: Iterable[Record], pseudo: Sequence[Record], share: float = 0.5) -> list[Record]:
    """One set for stage I: labelled records as often as it takes to make up this share of it."""
    own = [*labelled]
    if not own:
        return [*pseudo]
    times = max(1, round(share / (1 - share) * len(pseudo) / len(own)))
    return [*own * times, *pseudo]
