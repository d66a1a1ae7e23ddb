"""Texts that a defence without training is fitted to: unsafe ones and safe ones, shipped or a user's own."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from safety_modules.errors import DataError, validation_problems
from safety_modules.io.strict import load_yaml

MOST_BYTES = 10_000_000
"""Of a file of anchors."""

Text = Annotated[str, Field(min_length=1, max_length=4000)]


class Anchors(BaseModel):
    """Texts as users ask them, without a picture; in a file: YAML or JSON with these two keys.

    Attributes:
        unsafe: what the base alone refuses.
        safe: what it answers; best of the same forms, so that nothing but safety tells the two apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unsafe: tuple[Text, ...] = Field(default=(), max_length=10_000)
    safe: tuple[Text, ...] = Field(default=(), max_length=10_000)

    @field_validator("unsafe", "safe")
    @classmethod
    def _words(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if not text.strip() or not text.replace("\n", "").isprintable():
                raise ValueError(f"expected printable words, got {text[:60]!r}")
        return texts

    @model_validator(mode="after")
    def _once(self) -> "Anchors":
        times = Counter([*self.unsafe, *self.safe])
        if not times:
            raise ValueError("expected texts, got none")
        (text, most), *_ = times.most_common(1)
        if most > 1:
            raise ValueError(f"expected each text once, got {text[:60]!r} again")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all texts."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json")).encode()).hexdigest()

    @classmethod
    def default(cls) -> "Anchors":
        """Those in `safety_modules/data/anchors.yaml`."""
        text = resources.files("safety_modules").joinpath("data", "anchors.yaml").read_text(encoding="utf-8")
        return cls._parse(load_yaml(text), "data/anchors.yaml")

    @classmethod
    def read(cls, source: "Anchors | Mapping[str, Any] | str | PathLike[str]") -> "Anchors":
        """Anchors as they are, from an object with their keys, or from a file.

        Raises:
            DataError: no file, not YAML, or not anchors; every problem is named.
        """
        if isinstance(source, Anchors):
            return source
        if isinstance(source, Mapping):
            return cls._parse(dict(source), "as given")
        if not isinstance(source, str | PathLike):
            raise DataError(
                f"no anchors: expected a file, or texts by the keys unsafe and safe, got {type(source).__name__}. "
                "Pass Anchors(unsafe=[...], safe=[...]) or a path."
            )
        path = Path(source)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes, and at most {MOST_BYTES} are read")
            found = load_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise DataError(
                f"anchors {path} not read: expected YAML or JSON in UTF-8, got {error}. Correct the file."
            ) from error
        return cls._parse(found, str(path))

    @classmethod
    def _parse(cls, found: Any, where: str) -> "Anchors":
        try:
            return cls.model_validate_json(json.dumps(found, default=_refused), strict=True)
        except (ValidationError, TypeError, ValueError) as error:
            lines = validation_problems(error, model=cls) if isinstance(error, ValidationError) else [str(error)]
            raise DataError(
                f"anchors {where} refused: expected lists of texts by the keys unsafe and safe, got another form. "
                f"Correct these:{''.join(f'{chr(10)}  - {line}' for line in lines)}"
            ) from error


def _refused(value: Any) -> Any:
    raise TypeError(f"expected texts, got a {type(value).__name__}")
