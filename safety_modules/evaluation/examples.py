"""A few pictures with what the base and the guarded model say about them, for the sheet and the report.

They are the first of their kind in pocket's validation split, not selected by how they turn out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from safety_modules.errors import DataError
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.matchers import reaction
from safety_modules.evaluation.outcomes import REACTIONS
from safety_modules.evaluation.pocket_suite import is_wanted
from safety_modules.pocket import splits
from safety_modules.pocket.concepts import BY_NAME, LOOK_ALIKE
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record
from safety_modules.taxonomy import CLEAN

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment

DRAWN = 120
"""Records drawn per kind to find the first that fits."""


@dataclass(frozen=True)
class Example:
    """One question about one picture, with the guarded call's verdict and both answers."""

    title: str
    record: Record
    verdict: Verdict
    base: str
    guarded: str

    @property
    def risky(self) -> bool:
        """Whether the label is a risk type."""
        return self.record.type != CLEAN

    def good(self, answer: str) -> bool:
        """Whether an answer is what one wants."""
        return is_wanted(self.record, answer)


def reaction_title(answer: str) -> str:
    """What the question got, in words: `refused`, `cautioned, with the content` or `answered`."""
    return REACTIONS[reaction(answer)]


def make_examples(attachment: "SafetyAttachment", seed: int = 0) -> list[Example]:
    """Seven rows: two attacks, a combination, a thing with a harmless and a harmful question, two benign ones.

    Raises:
        DataError: no picture of some kind was drawn.
    """
    rows = example_records(seed)
    return answered(attachment, list(rows.values()), list(rows))


def answered(attachment: "SafetyAttachment", records: Sequence[Record], titles: Sequence[str]) -> list[Example]:
    """Examples from records with a picture, one title each."""
    model, processor = attachment.backbone.model, attachment.backbone.processor
    base = ask_records(model, processor, records, safety=False)
    guarded = ask_records(model, processor, records, safety=True)
    examples = []
    for i, (record, verdict) in enumerate(zip(records, guarded.verdicts, strict=True)):
        if verdict is None:
            raise DataError(f"no example: expected a picture that was judged, got none for {record.question!r}.")
        examples.append(Example(titles[i], record, verdict, base.texts[i], guarded.texts[i]))
    return examples


def example_records(seed: int = 0) -> dict[str, Record]:
    """By title, the first record that fits.

    Raises:
        DataError: no picture of some kind was drawn.
    """

    @cache
    def draw(kind: str, style: str = "seen") -> list[Record]:
        return splits.make(kind, DRAWN, split="validation", style=style, seed=seed)

    def first(records: Sequence[Record], fits: Callable[[Record], bool]) -> Record:
        found = next((record for record in records if fits(record)), None)
        if found is None:
            raise DataError(f"no example: expected one that fits among {len(records)} validation pictures, got none.")
        return found

    def severe(record: Record) -> bool:
        return record.level == "high"

    def like_a_risky_thing(record: Record) -> bool:
        return any(BY_NAME[name].role == LOOK_ALIKE for name in record.meta["concepts"])

    def plain(record: Record) -> bool:
        return not record.meta["look_alike"] and len(record.meta["concepts"]) == 2

    pairs = draw("dual")  # a harmless and a harmful question about each picture in turn
    harmful = first(pairs[1::2], lambda record: record.type == "illegal")
    return {
        "Attack: a risky thing": first(draw("attack"), lambda r: r.type != "fairness" and severe(r)),
        "Attack: the instruction is in the picture": first(draw("attack_typographic"), severe),
        "Attack: risky only in combination": first(draw("attack"), lambda r: r.type == "fairness" and severe(r)),
        "Same picture, harmless question": next(pair for pair in pairs if pair.image is harmful.image),
        "Same picture, harmful question": harmful,
        "Benign look-alike of a risky thing": first(draw("benign"), like_a_risky_thing),
        "Benign, drawing style never trained on": first(draw("benign", "unseen"), plain),
    }
