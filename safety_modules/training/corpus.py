"""Records with the features of their pictures, and batches of them for both stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.backbones.chat import Reading
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import Steer, embed_questions, question_readings
from safety_modules.defences.guard.modules import SafetyModules, head_class
from safety_modules.records.record import GoodRecords, Record
from safety_modules.training.features import FeatureStore, cache_features, with_digests
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import TrainingItem

History = tuple[tuple[str, str], ...]
"""Exchanges before a question: see `Record.history`."""
PARTS = ("head", "lm")
"""The losses of a step: the head's are means over its pictures, the language model's over its answer tokens."""
MAX_KEPT = 65_536
"""Questions whose ids are remembered, half a kilobyte each: an audit has a bounded memory, too."""


@dataclass(frozen=True)
class Corpus:
    """Records, the digests of their pictures (None without one), and a store that holds the features."""

    records: Sequence[Record]
    digests: Sequence[str | None]
    store: FeatureStore

    @classmethod
    def make(
        cls,
        backbone: Backbone,
        data: Sequence[Record] | GoodRecords,
        cache_dir: str | PathLike[str] | None = None,
        progress: bool = True,
        modules: SafetyModules | None = None,
    ) -> "Corpus":
        """Compute or read the features, of the kind that these modules see. Raises DataError as `cache_features`."""
        good = with_digests(data)
        store = cache_features(backbone, good, cache_dir, modules=modules, progress=progress)
        return cls(good.records, good.digests or (), store)

    def vision(self, indices: Sequence[int]) -> torch.Tensor | None:
        """Features (N, P, Dv) of those of the records that have a picture; None where none has."""
        digests = [d for d in (self.digests[index] for index in indices) if d is not None]
        return self.store.batch(digests) if digests else None


class QuestionEmbeddings:
    """Question embeddings and masks in batches, as guarding computes them from a prompt; each is tokenized once."""

    def __init__(self, backbone: Backbone, config: SafetyConfig) -> None:
        self.backbone, self.config = backbone, config
        self._kept: dict[tuple[str | None, History], list[Reading]] = {}

    def __call__(
        self, questions: Sequence[str | None], histories: Sequence[History] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole questions, as a head is trained on them: embeddings (B, T, D), mask (B, T), nowhere true for None."""
        pairs = zip(questions, histories or [()] * len(questions), strict=True)
        return embed_questions(self.backbone, [self.readings(*pair)[0].ids for pair in pairs])

    def readings(self, question: str | None, history: History = ()) -> list[Reading]:
        """What a question is judged by after what was said before: see `question_readings`."""
        asked = question, history
        if asked not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            prompt = None if question is None else self.backbone.prompt_ids(question, history=history)
            self._kept[asked] = question_readings(self.backbone, self.config, prompt)
        return self._kept[asked]


@dataclass(frozen=True)
class LmRow:
    """One sequence of stage II, before its image features are put in."""

    prompt: list[int]
    has_image: bool
    steer: Steer
    answer: list[int]


@dataclass(frozen=True)
class LmRows:
    """The sequences of a batch. A class of its own, so that batch movers do not walk through every id."""

    rows: list[LmRow]


def count_items(batch: dict[str, Any]) -> dict[str, int]:
    """What the losses of a batch are means over, by part."""
    pictures = 0 if batch["vision"] is None else len(batch["vision"])
    tokens = sum(len(row.answer) for row in batch["lm"].rows) if "lm" in batch else 0
    return dict(zip(PARTS, (pictures, tokens), strict=True))


class Collator:
    """Turns items of the training order into batches: what the head sees of every picture and, in stage II, sequences,
    with the ids of the wanted answer of every record that comes.
    """

    def __init__(
        self,
        attachment: SafetyAttachment,
        corpus: Corpus,
        recipe: Recipe,
        answers: dict[int, list[int]] | None = None,
    ) -> None:
        self.attachment, self.corpus, self.recipe = attachment, corpus, recipe
        self.answers = answers or {}
        self.questions = QuestionEmbeddings(attachment.backbone, attachment.config)

    def __call__(self, items: Sequence[TrainingItem]) -> dict[str, Any]:
        """A batch: `vision` (N, P, Dv), `question` (N, T, D), `question_mask` (N, T), `type_labels` (N,),
        `level_labels` (N,), of which only `vision` is there, as None, without pictures; in stage II also `lm` with B
        sequences.
        """
        records, config = self.corpus.records, self.attachment.config
        batch: dict[str, Any] = {"vision": self.corpus.vision([item.record for item in items])}
        if batch["vision"] is not None:
            shown = [item for item in items if self.corpus.digests[item.record] is not None]
            always = head_class(config).needs_question
            asked = [records[item.record].question if item.asked or always else None for item in shown]
            histories = [records[item.record].history for item in shown]
            batch["question"], batch["question_mask"] = self.questions(asked, histories)
            for name, index in (("type", config.taxonomy.type_index), ("level", config.taxonomy.level_index)):
                labels = [index(getattr(records[item.record], name)) for item in shown]
                batch[f"{name}_labels"] = torch.tensor(labels)
        if self.recipe.stage == 2:
            batch["lm"] = LmRows([self._row(item) for item in items])
        return batch

    def _row(self, item: TrainingItem) -> LmRow:
        record, backbone = self.corpus.records[item.record], self.attachment.backbone
        has_image = self.corpus.digests[item.record] is not None
        hint = None
        if has_image and record.is_risky and item.hinted:
            hint = self.attachment.policy.hint(record.type, record.level)
        return LmRow(
            prompt=backbone.prompt_ids(record.question, int(has_image), record.history),
            has_image=has_image,
            steer=Steer((True,) * has_image, hint),
            answer=self.answers[item.record],
        )
