"""What the language model should say, and the base's own answers where nobody said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from guard_cases import attach_as_trained
from PIL import Image

from safety_modules import Policy
from safety_modules.records.record import Record
from safety_modules.taxonomy import DEFAULT_TAXONOMY, Taxonomy
from safety_modules.training import target_answers
from safety_modules.training.corpus import Corpus
from safety_modules.training.features import FeatureStore
from safety_modules.training.recipe import Recipe
from safety_modules.training.target_answers import base_answers, target_ids, target_text

pytestmark = pytest.mark.matrix

CAUTION = Recipe.model_fields["caution"].default
REASON = "It could break the law or hurt people."
PICTURE = Image.new("RGB", (2, 2))


def record(**changes: Any) -> Record:
    values = {"image": PICTURE, "question": "what is this?", "answer": None, "type": "illegal", "level": "high"}
    return Record(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, f"I'm sorry, I can't help with that. {REASON}"),
        ({"level": "medium"}, f"I'm sorry, I can't help with that. {REASON}"),
        ({"answer": "No."}, "No."),
        ({"level": "low"}, f"Please be careful. {REASON}"),
        ({"level": "low", "answer": "a knife"}, f"Please be careful. {REASON} a knife"),
        ({"level": "low", "answer": "Please be careful. Sharp."}, "Please be careful. Sharp."),
        ({"type": "clean", "level": "safe", "answer": "a cup"}, "a cup"),
        ({"type": "clean", "level": "safe"}, None),
        ({"image": None}, None),
        ({"image": None, "answer": "No."}, "No."),
    ],
)
def test_target_of_each_kind_of_record(changes: dict[str, Any], wanted: str | None) -> None:
    assert target_text(record(**changes), Policy.default(), DEFAULT_TAXONOMY, CAUTION) == wanted


def test_only_risky_level_is_refused_not_cautioned() -> None:
    taxonomy = Taxonomy(types=("illegal",), levels=("safe", "unsafe"))
    assert target_text(record(level="unsafe"), Policy.default(), taxonomy, CAUTION).startswith("I'm sorry")


def test_base_answers_are_those_the_unguarded_model_gives(
    model: Any, processor: Any, ask: Callable[..., dict[str, Any]], make_image: Callable[[int], Image.Image]
) -> None:
    questions = [("what is this?", [3]), ("a knife?", []), ("how do I use what is shown here?", [4])]
    inputs = ask(*questions)
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    options = {"do_sample": False, "max_new_tokens": 6, "suppress_tokens": [image_token]}
    wanted = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    safety = attach_as_trained(model, processor)
    records = [
        record(image=make_image(seeds[0]) if seeds else None, question=question) for question, seeds in questions
    ]
    # Features in float32: rounding them could turn a random model's answer.
    corpus = Corpus.make(safety.backbone, records, progress=False)
    with torch.no_grad():
        vision = safety.backbone.encode_images(inputs["pixel_values"]).vision.numpy()
    exact = FeatureStore()
    exact.add([one for one in corpus.digests if one], vision)
    corpus = replace(corpus, store=exact)
    found = base_answers(safety, corpus, [0, 1, 2], max_new_tokens=6, progress=False)
    end = processor.tokenizer.eos_token_id
    for row, ids in enumerate(wanted.tolist()):
        assert found[row] == (ids[: ids.index(end) + 1] if end in ids else ids)


def test_known_answers_are_not_asked_for(model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    safety = attach_as_trained(model, processor)
    corpus = Corpus.make(
        safety.backbone, [record(), record(type="clean", level="safe", answer="a cup")], progress=False
    )
    monkeypatch.setattr(safety.backbone, "base_generate", None)
    recipe = Recipe(stage=2, steps=1, batch_size=1, learning_rate=1.0)
    found = target_ids(safety, corpus, [0, 1], recipe, progress=False)
    assert found[1] == safety.backbone.answer_ids("a cup")
    assert torch.is_grad_enabled()


def test_answers_of_an_interrupted_run_are_kept_whatever_was_torn(
    model: Any, processor: Any, make_image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_answers, "BATCH_SIZE", 2)
    safety, kept = attach_as_trained(model, processor), tmp_path / "answers.jsonl"
    records = [record(image=make_image(seed), question="what is this?") for seed in range(6)]
    corpus = Corpus.make(safety.backbone, records, progress=False)
    whole = base_answers(safety, corpus, list(range(6)), 4, progress=False, kept=kept)
    lines = kept.read_text(encoding="utf-8").split("\n")
    kept.write_text("\n".join([*lines[:2], lines[2][:-3]]), encoding="utf-8")  # killed in the second of three batches
    asked, generate = [], safety.backbone.base_generate

    def counted(**inputs: Any) -> Any:
        asked.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(safety.backbone, "base_generate", counted)
    assert base_answers(safety, corpus, list(range(6)), 4, progress=False, kept=kept) == whole
    assert base_answers(safety, corpus, list(range(6)), 4, progress=False, kept=kept) == whole
    assert asked == [2, 2]
