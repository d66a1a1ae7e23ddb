"""What a set of safety modules looks like (SafetyConfig) and what it must fit (BaseSizes)."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.dataclasses import dataclass

from safety_modules.errors import ConfigError
from safety_modules.taxonomy import CLEAN, DEFAULT_TAXONOMY, Name, Taxonomy

# Upper bounds are far above any real model: they keep a stranger's file from asking for the moon.
Width = Annotated[int, Field(gt=0, le=65_536)]
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
ModulePath = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=128)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BaseSizes:
    """Sizes of a base model, read from it by its backbone.

    Args:
        vision_width: width of the vision tower's features (Dv).
        text_width: width of the language model's embeddings (D).
        num_patches: patches of an image (P), class token not counted; of a base with tiles, the most features that a
            picture can have (`backbones.tiles`).
        grid: rows and columns of the patches; rows x columns = num_patches, unless there are tiles. Of heat maps too.
        vocab_size: rows of the language model's embedding table.
        num_layers: blocks of the language model (L).
        linears: the linear layers of one block that LoRA can go on: (path inside the block, inputs, outputs),
            such as ("self_attn.q_proj", 4096, 4096).
        tile: of a base that cuts pictures into tiles, rows and columns of the patches of one; else None.

    Raises:
        pydantic.ValidationError: a size is not positive, or the grid does not hold the patches.
    """

    vision_width: Width
    text_width: Width
    num_patches: Width
    grid: tuple[Width, Width]
    vocab_size: Annotated[int, Field(gt=0, le=100_000_000)]
    num_layers: Annotated[int, Field(gt=0, le=1024)]
    linears: Annotated[tuple[tuple[ModulePath, Width, Width], ...], Field(max_length=64)] = ()
    tile: tuple[Width, Width] | None = None

    @model_validator(mode="after")
    def _grid_holds_patches(self) -> "BaseSizes":
        rows, columns = self.grid
        if self.tile is None and rows * columns != self.num_patches:
            raise ValueError(f"grid {rows} x {columns} does not hold num_patches = {self.num_patches}")
        return self


class LoraSettings(BaseModel):
    """Low-rank adaptation of the language model (arXiv 2106.09685): W + alpha/r * B A.

    Args:
        r: rank.
        alpha: scale numerator.
        dropout: dropout on the LoRA input while training.
        target_modules: names of the linear layers, in every block of the language model, and nowhere else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=8, gt=0, le=4096)
    alpha: int = Field(default=16, gt=0, le=65_536)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: tuple[ModuleName, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        max_length=32,
    )

    @model_validator(mode="after")
    def _unique_targets(self) -> "LoraSettings":
        if len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules repeat a name")
        return self


Line = Annotated[str, Field(min_length=1, max_length=300)]


class Sentence(BaseModel):
    """What a picture may show, in words, and the label of a picture that does.

    Args:
        text: stands in the templates' place.
        type: a risk type, or clean.
        level: a risky one of a risk type, the safe one of clean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Line
    type: Name
    level: Name


class WordsSettings(BaseModel):
    """What a zero-shot head was made of: sentences, and the CLIP that made directions of them.

    Args:
        sentences: one direction each.
        templates: sentences around a sentence, with {} in its place; a direction is the mean over them.
        width: of the space that pictures and sentences share.
        tower: digest of the CLIP's vision tower, which is the base's own (`identity.tower_digest`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sentences: Annotated[tuple[Sentence, ...], Field(min_length=2, max_length=4096)]
    templates: Annotated[tuple[Line, ...], Field(min_length=1, max_length=256)]
    width: Width
    tower: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _places(self) -> "WordsSettings":
        for text in (*self.templates, *(one.text for one in self.sentences)):
            if not text.isprintable() or not text.strip():
                raise ValueError(f"not words: expected printable characters on one line, got {text[:80]!r}")
        wrong = [template for template in self.templates if template.count("{}") != 1]
        if wrong:
            raise ValueError(f"a template has no place: expected {{}} once, got {wrong[0][:80]!r}")
        return self


class Sparse(BaseModel):
    """A model of which some keys are not written where they are None, so that what is without them reads as before.

    Attributes:
        optional: these keys.
    """

    optional: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = written(self)
        for name in self.optional:
            if getattr(self, name) is None:
                found.pop(name, None)
        return found


class OutsideSettings(Sparse):
    """How much is kept of the pictures that tell which others are unlike them (`guard.outside.Outside`).

    Args:
        trained: pictures of the training whose distances are kept (n): the least p-value is 1 / (n + 1).
        calibrated: pictures of the calibration whose p-values are kept, to be compared with those of today; 0 = none.
        scored: those whose risks are kept too; None = none, and the key is left out (adapters from before).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    optional: ClassVar[tuple[str, ...]] = ("scored",)

    trained: int = Field(gt=0, le=100_000)
    calibrated: int = Field(default=0, ge=0, le=100_000)
    scored: Annotated[int, Field(gt=0, le=100_000)] | None = None


class ViewsSettings(BaseModel):
    """Random views that a picture is judged by (`guard.views`), each drawn evenly up to these limits.

    Args:
        count: views of each picture (k).
        turn: degrees, to either side.
        scale: share of the picture's size that it is larger or smaller.
        shift: how far it is moved across and down, of its size.
        light: of the range of a pixel, how much brighter or darker.
        noise: standard deviation, of that range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=4, ge=2, le=64)
    turn: float = Field(default=12, ge=0, le=180)
    scale: float = Field(default=0.12, ge=0, le=0.5)
    shift: float = Field(default=0.04, ge=0, le=0.5)
    light: float = Field(default=0.15, ge=0, le=0.5)
    noise: float = Field(default=0.04, ge=0, le=0.5)


HEADS = {
    "reading": "reading:ReadingHead",
    "concept": "concept:ConceptHead",
    "pooled_question": "published:PooledQuestionHead",
    "first_token": "published:FirstTokenHead",
    "words": "words:WordsHead",
}
"""Classifiers by name: file in `defences/guard` and class."""

if TYPE_CHECKING:
    HeadName = str
else:
    HeadName = Literal[tuple(HEADS)]


class SafetyConfig(Sparse):
    """Design of a set of safety modules. Unknown keys are errors; sizes come from the base, not from here.

    Args:
        taxonomy: risk types and levels.
        projector: `mlp` (two linears per patch) or `c_abstractor` (Honeybee, arXiv 2312.06742, as published).
        width: width of the safety features (D_s); None = the width of the base's text embeddings, as
            published.
        num_head_tokens: learned tokens beside the patches at the head's input (s1).
        num_lm_tokens: learned tokens beside the image at the language model's input (s2); 0 = none.
        attention_heads: heads of the head's cross-attention; must divide the width.
        query: `reading` (one learned query per risk type, which reads the text), `concept` (the same with the mean of
            the text, as before format 6), `pooled_question` (published head, question pooled from its real tokens),
            `first_token` (published head as published) or `words` (zero-shot: no training, from sentences; has neither
            projector nor tokens, and judges pictures alone).
        ensemble: sets of projector, head tokens and head, each trained on its own losses; the verdict comes from the
            mean of their logits (deep ensembles, arXiv 1612.01474).
        mode: `gated` (a sample judged clean gets the base's own answer) or `always` (every image gets tokens
            and LoRA, as published).
        lora: LoRA on the language model; None = modules only.
        added: risk types that were added after training, each with a branch of its own; the last ones of the taxonomy.
        words: what a head of words was made of; it and no other has this.
        outside: of what tells pictures unlike the training's; None = nothing does.
        views: random ones, by whose mean a picture is judged; None = by one look at the picture as it is.

    Raises:
        pydantic.ValidationError: unknown key, value out of range, heads that do not divide the width, added types
            that are not the taxonomy's last, or all of them, or words that do not fit the taxonomy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    optional: ClassVar[tuple[str, ...]] = ("words", "outside", "views")

    taxonomy: Taxonomy = DEFAULT_TAXONOMY
    projector: Literal["mlp", "c_abstractor"] = "mlp"
    width: Width | None = 128
    num_head_tokens: int = Field(default=8, gt=0, le=1024)
    num_lm_tokens: int = Field(default=8, ge=0, le=1024)
    attention_heads: int = Field(default=4, gt=0, le=256)
    query: HeadName = "reading"
    ensemble: int = Field(default=2, gt=0, le=32)
    mode: Literal["gated", "always"] = "gated"
    lora: LoraSettings | None = LoraSettings()
    added: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    words: WordsSettings | None = None
    outside: OutsideSettings | None = None
    views: ViewsSettings | None = None

    @model_validator(mode="after")
    def _words_fit(self) -> "SafetyConfig":
        if (self.words is None) != (self.query != "words"):
            raise ValueError("the query 'words' and the key 'words' go together: expected both or neither")
        if self.words is None:
            return self
        if self.num_lm_tokens or self.lora or self.ensemble != 1 or self.added:
            raise ValueError("words have no language-model tokens, LoRA, ensemble or added types")
        labels, levels = self.taxonomy.labels, self.taxonomy.levels
        for one in self.words.sentences:
            clean = one.type == CLEAN
            if one.type not in labels or one.level not in levels or clean != (one.level == levels[0]):
                raise ValueError(f"a sentence has no such label: {one.type} of level {one.level} ({one.text[:80]!r})")
        if missing := [name for name in labels if name not in {one.type for one in self.words.sentences}]:
            raise ValueError(f"no sentence for {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _added_types_are_last(self) -> "SafetyConfig":
        types = self.taxonomy.types
        if len(self.added) >= len(types) or types[len(types) - len(self.added) :] != self.added:
            raise ValueError(f"added types are not the last of the taxonomy's: {', '.join(self.added)}")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "SafetyConfig":
        if self.width is not None and self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is not a multiple of attention_heads {self.attention_heads}")
        return self

    @property
    def first_types(self) -> tuple[str, ...]:
        """The types of the first training: all but the added ones, which come last."""
        return self.taxonomy.types[: len(self.taxonomy.types) - len(self.added)]

    def with_added(self, added: tuple[str, ...]) -> "SafetyConfig":
        """The same design with these added types instead of its own.

        Raises:
            ConfigError: it is one of words.
        """
        if added and self.words is not None:
            raise ConfigError(
                f"type not added: expected a trained head, got one of words beside {', '.join(added)}. Name the type "
                "in the file of sentences and make the adapter anew; or train a head (train --teacher)."
            )
        taxonomy = Taxonomy(types=(*self.first_types, *added), levels=self.taxonomy.levels)
        return SafetyConfig.model_validate({**dict(self), "taxonomy": taxonomy, "added": added})

    def peer(self) -> "SafetyConfig":
        """Design of each further set of the ensemble: this one's head on its first types, and nothing else."""
        own = self.with_added(())
        return own.model_copy(update={"num_lm_tokens": 0, "ensemble": 1, "lora": None, "outside": None, "views": None})

    def branch(self, name: str) -> "SafetyConfig":
        """Design of the branch of an added type: the default one, whatever the rest is, with one type. Beside a head
        that does not read, which is asked in other readings, it has one that does not either.
        """
        taxonomy = Taxonomy(types=(name,), levels=self.taxonomy.levels)
        query = "reading" if self.query == "reading" else "concept"
        return SafetyConfig(taxonomy=taxonomy, num_lm_tokens=0, query=query, ensemble=1, lora=None)

    @classmethod
    def preset(cls, name: str) -> "SafetyConfig":
        """A named design: `default` (compact), `no-lora` (the same, for a base that obeys hints) or `paper` (arXiv
        2405.13581, as published).

        Raises:
            ConfigError: unknown name.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset: expected one of {', '.join(PRESETS)}, got {name!r}. Pick one of them.")
        return cls(**PRESETS[name])

    def feature_width(self, text_width: int) -> int:
        """Width of the safety features (D_s) on a base with this text width (D).

        Raises:
            ConfigError: the attention heads do not divide it.
        """
        width = text_width if self.width is None else self.width
        if width % self.attention_heads:
            raise ConfigError(
                f"attention heads do not divide the width: expected a divisor of {width}, "
                f"got {self.attention_heads}. Change attention_heads or width."
            )
        return width


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-lora": {"lora": None},
    "paper": {
        "projector": "c_abstractor",
        "width": None,
        "num_head_tokens": 64,
        "num_lm_tokens": 64,
        "attention_heads": 8,
        "query": "first_token",
        "ensemble": 1,
        "mode": "always",
        "lora": LoraSettings(r=256, alpha=16, dropout=0.05),
    },
}
