"""Questions in training are what guarding makes of the prompt."""

from typing import Any

import pytest
import torch

from safety_modules.backbones import Backbone, find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard import embed_questions, question_ids, question_readings
from safety_modules.training import corpus as corpus_module
from safety_modules.training.corpus import QuestionEmbeddings

ASKED = ["what is this?", "a knife and a cup of tea on the table?", "a knife?"]


@pytest.fixture
def backbone(model: Any, processor: Any) -> Backbone:
    return find_backbone(model, processor)


@pytest.mark.parametrize("query", ["reading", "concept", "pooled_question", "first_token"])
def test_remembered_questions_equal_those_of_the_guard(backbone: Backbone, query: str) -> None:
    config = SafetyConfig(query=query)
    embed = QuestionEmbeddings(backbone, config)
    prompts = [backbone.prompt_ids(question) for question in ASKED]
    wanted, wanted_mask = embed_questions(backbone, [question_ids(backbone, config, prompt) for prompt in prompts])
    for prompt in prompts:
        (reading,) = question_readings(backbone, config, prompt)
        assert reading.ids == question_ids(backbone, config, prompt).tolist()
    for _ in range(2):  # computed, then remembered
        found, mask = embed(ASKED)
        assert torch.equal(mask, wanted_mask)
        assert torch.equal(found[mask], wanted[wanted_mask])


def test_what_was_said_before_is_part_of_what_is_asked(backbone: Backbone) -> None:
    embed, history = QuestionEmbeddings(backbone, SafetyConfig()), (("what is this?", "a knife"),)
    prompt = backbone.prompt_ids("why?", history=history)
    assert embed.readings("why?", history)[0].ids == question_ids(backbone, embed.config, prompt).tolist()
    assert len(embed.readings("why?", history)[0].ids) > len(embed.readings("why?")[0].ids)


def test_row_without_question_has_no_true_position(backbone: Backbone) -> None:
    embed = QuestionEmbeddings(backbone, SafetyConfig())
    found, mask = embed([None, "a knife?"])
    assert mask.any(1).tolist() == [False, True]
    found, mask = embed([None, None])
    assert found.shape == (2, 1, backbone.sizes.text_width)
    assert not mask.any()


def test_memory_is_bounded(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "MAX_KEPT", 2)
    embed = QuestionEmbeddings(backbone, SafetyConfig())
    for question in ASKED:
        embed([question])
        assert len(embed._kept) <= 2
