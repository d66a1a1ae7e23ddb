"""Training of tga: losses with gradients, each form learns, the base stays, what is refused."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from safety_modules.attach import attach_safety
from safety_modules.config import LoraSettings
from safety_modules.defences.tga import TgaSettings, retold
from safety_modules.errors import ConfigError, DataError, SafetyModulesError
from safety_modules.records.captions import CAPTION
from safety_modules.records.record import Record
from safety_modules.training import transfer as training
from safety_modules.training.steps import STATE
from safety_modules.training.transfer import (
    TransferRecipe,
    answer_loss,
    guide_loss,
    state_loss,
    train_transfer,
)

LORA = LoraSettings(r=4, alpha=8, dropout=0.0, target_modules=("linear_1", "linear_2"))
FORMS = {
    "pooled": TgaSettings(form="pooled", lora=LORA),
    "last": TgaSettings(form="last", lora=LORA),
    "answers": TgaSettings(form="answers", lora=LORA),
    "queries": TgaSettings(tokens=3, width=8, rank=2),
    "beside": TgaSettings(tokens=3, width=8, rank=2, place="beside"),
}
WORDS = ("a knife", "a cup of tea", "the table", "illegal activity")


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)) for _ in WORDS]
    return [
        Record(image=image, question="what is this?", answer=None, type="clean", level="safe", meta={CAPTION: word})
        for image, word in zip(pictures, WORDS, strict=True)
    ]


def test_the_papers_loss_pulls_a_picture_to_its_caption_and_away_from_what_was_retrieved():
    torch.manual_seed(0)
    image, caption, retrieved = torch.randn(3, 2, 2, 8).unbind(0)
    image.requires_grad_(True)
    loss = guide_loss(image, caption, retrieved)
    loss.backward()
    assert image.grad.norm() > 0  # the published code's has none
    with torch.no_grad():
        assert guide_loss(image - 0.1 * image.grad, caption, retrieved) < loss
        assert guide_loss(caption, caption, retrieved) < loss < guide_loss(-caption, caption, retrieved)
        assert guide_loss(image, caption, -caption) < guide_loss(image, caption, caption)


def test_equal_states_and_equal_answers_cost_nothing():
    torch.manual_seed(0)
    states, other = torch.randn(2, 2, 3, 8).unbind(0)
    assert state_loss(states, states) == 0 < state_loss(states, other)
    logits, teacher = torch.randn(2, 1, 4, 5).unbind(0)
    labels = torch.tensor([[-100, -100, 1, 2]])
    assert answer_loss(teacher, teacher, labels).abs() < 1e-6 < answer_loss(logits, teacher, labels)
    changed = logits.clone()
    changed[:, [0, 3]] += torch.randn(5)  # predict what is no answer
    assert torch.equal(answer_loss(changed, teacher, labels), answer_loss(logits, teacher, labels))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_learns_and_leaves_the_base_as_it_was(model, processor, tiny_base, records, form):
    safety = attach_safety(model, processor, defence=FORMS[form])
    tga = safety.defences[0]
    before = {name: one.detach().clone() for name, one in tga.named_parameters()}
    recipe = TransferRecipe(steps=30, batch_size=4, learning_rate=1e-2, warmup_steps=0, answer_tokens=4)
    losses = train_transfer(safety, records, recipe, progress=False)
    assert len(losses) == 30 and sum(losses[-5:]) < sum(losses[:5]), losses
    changed = [name for name, one in tga.named_parameters() if not torch.equal(one, before[name])]
    assert changed and tga.trained
    assert not any(one.training for one in (tga.modules.modules() if tga.modules else ()))
    for (name, now), expected in zip(model.named_parameters(), tiny_base.parameters(), strict=True):
        assert torch.equal(now, expected) and now.grad is None and now.requires_grad, name


def test_the_same_seed_trains_the_same(tiny_base, processor, records):
    found = []
    for seed in (1, 1, 2):
        safety = attach_safety(copy.deepcopy(tiny_base), processor, defence=FORMS["queries"])
        recipe = TransferRecipe(steps=4, batch_size=2, answer_tokens=3, seed=seed)
        found.append(train_transfer(safety, records, recipe, progress=False))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("form", ["queries", "pooled"])
def test_an_interrupted_training_goes_on_to_the_same_weights_and_threshold(
    tiny_base, processor, records, tmp_path, monkeypatch, form
):
    bare = [one.model_copy(update={"question": ""}) for one in records]  # questions are drawn
    recipe = TransferRecipe(steps=6, batch_size=2, answer_tokens=3, warmup_steps=2, keep_every=2)

    def train(folder, recipe=recipe, records=bare):
        safety = attach_safety(copy.deepcopy(tiny_base), processor, defence=FORMS[form])
        losses = train_transfer(safety, records, recipe, runs=folder, progress=False)
        tga = safety.defences[0]
        return losses, {name: one.detach().clone() for name, one in tga.named_parameters()}, tga.settings

    whole = train(tmp_path / "whole")
    real = training._Transfer.step

    def killed(self, number):
        if number == 5:
            raise KeyboardInterrupt
        return real(self, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training._Transfer, "step", killed)
        train(tmp_path / "parts")
    for losses in (whole[0][4:], []):  # interrupted, then finished
        rest = train(tmp_path / "parts")
        assert rest[0] == losses and rest[2] == whole[2]
        assert all(torch.equal(one, whole[1][name]) for name, one in rest[1].items())
    for name, other in (
        ("recipe", {"recipe": recipe.model_copy(update={"seed": 1})}),
        ("data", {"records": [one.model_copy(update={"meta": {CAPTION: "a boat"}}) for one in bare[:2]] + bare[2:]}),
    ):
        with pytest.raises(ConfigError, match=f"not resumed: expected the {name}"):
            train(tmp_path / "whole", **other)
    (tmp_path / "parts" / STATE).write_bytes(b"torn")
    with pytest.raises(ConfigError, match="expected a checkpoint of a tga"):
        train(tmp_path / "parts")


def test_aligned_pictures_are_nearer_to_their_own_captions(model, processor, records):
    """Not to one direction that all captions share."""
    safety = attach_safety(model, processor, defence=FORMS["queries"])
    tga, backbone = safety.defences[0], safety.backbone

    def hits():
        with torch.no_grad():
            found = tga.captions(
                torch.stack(backbone.encode_images(backbone.pixel_values([r.image for r in records]))[1])
            )
            prompts = [backbone.prompt_ids(f"{word}\nwhat is this?", 0) for word in WORDS]
            wanted = [model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1) for ids in prompts]
            got = []
            for one in found:
                ids = retold(backbone, backbone.prompt_ids("what is this?", 1), [backbone.sizes.num_patches], [one])
                with backbone.planned([one]):
                    out = model(input_ids=torch.tensor([ids]), pixel_values=backbone.pixel_stub(1))
                got.append(out.logits[0, -1].log_softmax(-1))
        gaps = torch.stack([torch.stack([(p * (p.log() - q)).sum() for p in wanted]) for q in got])
        return float(gaps.diag().mean() / gaps.mean())

    before = hits()
    recipe = TransferRecipe(steps=150, batch_size=4, learning_rate=1e-2, warmup_steps=0, answer_tokens=2)
    train_transfer(safety, records, recipe, progress=False)
    assert hits() < 0.8 * before


def test_a_caption_without_a_question_is_asked_about(model, processor, records):
    safety = attach_safety(model, processor, defence=FORMS["queries"])
    bare = [one.model_copy(update={"question": ""}) for one in records]
    assert (
        len(train_transfer(safety, bare, TransferRecipe(steps=2, batch_size=2, answer_tokens=2), progress=False)) == 2
    )


def test_what_cannot_be_trained_is_refused(model, processor, records):
    short = TransferRecipe(steps=1, batch_size=2, answer_tokens=2)
    safety = attach_safety(model, processor, defence="lora")
    with pytest.raises(ConfigError, match="expected an attachment with tga"):
        train_transfer(safety, records, short)
    safety.detach()
    safety = attach_safety(model, processor, defence=FORMS["pooled"])
    with pytest.raises(ConfigError, match="no such block: expected layers from 0 to 1, got 2"):
        train_transfer(safety, records, TransferRecipe(layers=(0, 2)), progress=False)
    for wrong in ([], [records[0].model_copy(update={"meta": {}})], [records[0].model_copy(update={"image": None})]):
        with pytest.raises(DataError, match="records with picture and caption"):
            train_transfer(safety, wrong, short, progress=False)
    with pytest.raises(DataError, match="several captions, got one"):
        train_transfer(safety, [records[0]] * 2, short, progress=False)
    with pytest.raises(SafetyModulesError, match="training diverged at step"):
        diverging = TransferRecipe(steps=20, batch_size=2, answer_tokens=2, learning_rate=1e30, warmup_steps=0)
        train_transfer(safety, records, diverging, progress=False)
    assert not safety.defences[0].trained
    model.half()
    safety.detach()
    safety = attach_safety(model, processor, defence=FORMS["queries"])
    with pytest.raises(ConfigError, match="got float16"):
        train_transfer(safety, records, short, progress=False)


def test_the_threshold_spares_what_the_teacher_does_not_refuse(model, processor, records):
    safety = attach_safety(model, processor, defence=FORMS["queries"])
    tga = safety.defences[0]
    recipe = TransferRecipe(steps=2, batch_size=2, answer_tokens=2, false_alarm=0.3)
    train_transfer(safety, records, recipe, progress=False)
    assert 0.05 <= tga.settings.threshold <= 1
    safety.detach()
    safety = attach_safety(model, processor, defence=FORMS["beside"])
    train_transfer(safety, records, recipe, progress=False)
    assert safety.defences[0].settings.threshold == TgaSettings().threshold  # nothing is decided there


def test_the_threshold_is_the_share_of_spared_questions_that_is_asked_for(model, processor, records, monkeypatch):
    safety = attach_safety(model, processor, defence=FORMS["queries"])
    tga, chances = safety.defences[0], iter([[0.1, 0.2, 0.9, 0.1], [0.2, 0.4, 1.0, 0.6]])  # told, then shown
    monkeypatch.setattr(type(tga), "refusal_chances", lambda self, samples: torch.tensor(next(chances)))
    recipe = TransferRecipe(steps=1, batch_size=2, answer_tokens=2, false_alarm=0.4)
    train_transfer(safety, records, recipe, progress=False)
    assert 0.4 < tga.settings.threshold < 0.41  # one of three that are not refused in words: 0.2, 0.4, 0.6
