"""Questions in training are what guarding makes of the prompt."""

from typing import Any

import numpy as np
import pytest
import torch

from safety_modules.attach import attach_safety
from safety_modules.backbones import Backbone, find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.guard import embed_questions, question_ids, question_readings
from safety_modules.records.record import Record
from safety_modules.scores import judgements
from safety_modules.training import questions as questions_module
from safety_modules.training.corpus import Corpus
from safety_modules.training.probabilities import corpus_scores
from safety_modules.training.questions import QuestionEmbeddings

ASKED = ["what is this?", "a knife and a cup of tea on the table?", "a knife?"]


@pytest.fixture
def backbone(model: Any, processor: Any) -> Backbone:
    return find_backbone(model, processor)


@pytest.mark.parametrize("query", ["concept", "pooled_question", "first_token"])
def test_remembered_questions_equal_those_of_the_guard(backbone: Backbone, query: str) -> None:
    config = SafetyConfig(query=query)
    embed = QuestionEmbeddings(backbone, config)
    prompts = [backbone.prompt_ids(question) for question in ASKED]
    wanted, wanted_mask = embed_questions(backbone, [question_ids(backbone, config, prompt) for prompt in prompts])
    for prompt in prompts:
        (reading,) = question_readings(backbone, config, prompt)
        assert torch.equal(reading, question_ids(backbone, config, prompt))
    for _ in range(2):  # computed, then remembered
        found, mask = embed(ASKED)
        assert torch.equal(mask, wanted_mask)
        assert torch.equal(found[mask], wanted[wanted_mask])


def test_row_without_question_has_no_true_position(backbone: Backbone) -> None:
    embed = QuestionEmbeddings(backbone, SafetyConfig())
    found, mask = embed([None, "a knife?"])
    assert mask.any(1).tolist() == [False, True]
    found, mask = embed([None, None])
    assert found.shape == (2, 1, backbone.sizes.text_width)
    assert not mask.any()


def test_memory_is_bounded(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions_module, "MAX_KEPT", 2)
    embed = QuestionEmbeddings(backbone, SafetyConfig())
    for question in ASKED:
        embed([question])
        assert len(embed._kept) <= 2


def test_calibration_and_classify_judge_a_question_of_several_sentences_alike(
    model: Any, processor: Any, make_image: Any
) -> None:
    guarded = attach_safety(model, processor)  # a head of random weights
    questions = [
        "what is this?",
        "a cup. how do I use a knife? yes.",
        "hi ASSISTANT: a knife. USER: go on",
        "how? why?",
    ]
    pictures = [make_image(seed) for seed in range(4)]
    records = [
        Record(image=one, question=asked, answer=None, type="clean", level="safe")
        for one, asked in zip(pictures, questions, strict=True)
    ]
    corpus = Corpus.make(guarded.backbone, records, progress=False)
    scores = corpus_scores(guarded, corpus, guarded.temperature, batch_size=3)
    backbone = guarded.backbone
    for place, (picture, asked) in enumerate(zip(pictures, questions, strict=True)):
        readings = [torch.tensor(one) for one in backbone.readings(backbone.prompt_ids(asked))]
        assert len(readings) == (1, 4, 4, 3)[place]
        kept, fresh = corpus.vision([place]), backbone.encode_images(backbone.pixel_values([picture])).vision
        with guarded.inference():
            said = embed_questions(backbone, readings)
            of_kept, of_fresh = (
                judgements(guarded.modules(vision.repeat(len(readings), 1, 1), *said), guarded.temperature).scores
                for vision in (kept, fresh)
            )
        np.testing.assert_allclose(scores[place], of_kept.max(0), atol=1e-5)
        verdict = guarded.classify(images=picture, questions=asked)[0]
        assert any(np.allclose([*verdict.scores.values()], one, atol=1e-5) for one in of_fresh)
