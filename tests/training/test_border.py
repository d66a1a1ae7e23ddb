"""Training of davsp: hinges, sign steps, the direction, what is learnt, going on, what is refused."""

import copy

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from safety_modules.attach import attach_safety
from safety_modules.defences.davsp import DavspSettings, ring
from safety_modules.errors import ConfigError, DataError
from safety_modules.records.record import Record
from safety_modules.training import border as training
from safety_modules.training.border import Aim, BorderRecipe, _Border, projection_loss, sign_step, train_border
from safety_modules.training.steps import STATE, train_steps

SHORT = {"steps": 6, "pictures": 8, "layer": 1, "keep_every": 2}


def record(rng, risky):
    """Risky pictures are reddish, benign ones bluish."""
    pixels = rng.integers(0, 120, (28, 28, 3), dtype=np.uint8)
    pixels[..., 0 if risky else 2] += 120
    label = {"type": "illegal", "level": "high"} if risky else {"type": "clean", "level": "safe"}
    answer = "I'm sorry, I can't help with that." if risky else "a cup of tea"
    return Record(image=Image.fromarray(pixels), question="what is this?", answer=answer, **label)


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    return [record(rng, risky) for risky in (True, False) for _ in range(12)]


def attached(model, processor):
    return attach_safety(model, processor, defence=DavspSettings(width=4))


def test_the_hinges_are_the_papers():
    aim, along = Aim(0, 1.0, top=3.0, bottom=-2.0, direction=torch.ones(1)), torch.tensor([-4.0, 0.0, 5.0])
    assert projection_loss(along, True, aim) == (7 + 3 + 0) / 3
    assert projection_loss(along, False, aim) == (0 + 2 + 7) / 3


def test_a_step_goes_against_the_sign_of_the_gradient_as_far_in_every_pixel_of_a_channel():
    gradient = torch.tensor([[1e-9, -5.0, 0.0], [3.0, 2.0, -1.0]])
    found = sign_step(torch.zeros(2, 3), gradient, torch.tensor([0.1, 0.2]))
    assert torch.allclose(found, torch.tensor([[-0.1, 0.1, 0.0], [-0.2, -0.2, 0.2]]))


def test_a_step_is_one_of_255_grey_levels_in_the_processors_pixels(model, processor, records):
    safety = attached(model, processor)
    trainer = _Border(safety.defences[0], records, BorderRecipe())
    expected = 1 / 255 / torch.tensor(processor.image_processor.image_std)
    assert torch.allclose(trainer.far, expected)


def test_the_direction_tells_pictures_that_it_was_not_fitted_to_and_random_labels_have_none(model, processor, records):
    davsp = attached(model, processor).defences[0]
    aim = _Border(davsp, records, BorderRecipe(pictures=8)).find_aim()
    assert aim.auc > 0.9 and aim.layer in (0, 1) and aim.top > aim.bottom
    assert torch.allclose(aim.direction.norm(), torch.tensor(1.0))
    rng = np.random.default_rng(1)
    shuffled = [rng.permutation([True, False] * 12).tolist() for _ in range(6)]
    random = []
    for flags in shuffled:
        marked = [
            one.model_copy(update={"type": "illegal" if flag else "clean", "level": "high" if flag else "safe"})
            for one, flag in zip(records, flags, strict=True)
        ]
        random.append(_Border(davsp, marked, BorderRecipe(pictures=8, layer=1)).find_aim().auc)
    assert np.mean(random) < 0.8 < aim.auc


def gap(trainer, records, on):
    """Between the mean projections of risky and benign pictures, with the border or without."""
    aim, davsp = trainer.aim, trainer.davsp
    border = davsp.border.detach().clone()
    with torch.no_grad():
        davsp.border.mul_(float(on))
        means = []
        for risky in (True, False):
            part = [one for one in records if one.is_risky is risky]
            features = davsp.look(trainer._pixels(part)).projected
            states = training.last_states(davsp.backbone, [aim.layer], trainer._samples(part, features, False))[:, 0]
            means.append(float((states @ aim.direction).mean()))
        davsp.border.copy_(border)
    return means[0] - means[1]


def test_the_border_moves_risky_and_benign_pictures_apart_and_leaves_the_base_as_it_was(
    model, processor, tiny_base, records
):
    safety = attached(model, processor)
    rng = np.random.default_rng(5)
    others = [record(rng, risky) for risky in (True, False) for _ in range(12)]
    aim, losses = train_border(
        safety, records, BorderRecipe(steps=60, pictures=8, batch_size=6, answer_weight=0), progress=False
    )
    trainer = _Border(safety.defences[0], records, BorderRecipe())
    trainer.aim = aim
    assert len(losses) == 60 and safety.defences[0].trained
    trained, untrained = gap(trainer, others, True), gap(trainer, others, False)
    assert trained > 1.1 * untrained, (trained, untrained)
    border = safety.defences[0].border
    with torch.no_grad():
        border.copy_(border[:, torch.randperm(border.shape[1], generator=torch.Generator().manual_seed(0))])
    assert gap(trainer, others, True) < trained, "the same pixels in another order"
    for (name, now), expected in zip(model.named_parameters(), tiny_base.parameters(), strict=True):
        assert torch.equal(now, expected) and now.grad is None and now.requires_grad, name


def test_answers_of_benign_pictures_are_learnt_where_nothing_else_is(model, processor, records):
    safety = attached(model, processor)
    trainer = _Border(safety.defences[0], records, BorderRecipe(answer_weight=1.0, batch_size=8))
    trainer.aim = Aim(1, 1.0, -1e6, 1e6, torch.zeros(32))  # no projection costs
    benign = [one for one in records if not one.is_risky]
    with torch.no_grad():
        before = trainer.loss(benign, risky=False, answers=True)
        assert trainer.loss(benign, risky=False, answers=False) == 0
        bare = [one.model_copy(update={"answer": None}) for one in benign]
        assert trainer.loss(bare, risky=False, answers=True) == 0
    with torch.enable_grad(), safety.base_frozen():
        trainer.kinds[True] = benign  # every step
        trainer.recipe = trainer.recipe.model_copy(update={"steps": 30, "risky_answers": 1.0})
        train_steps(trainer, 0, 30, None, 1, progress=False)
    with torch.no_grad():
        assert trainer.loss(benign, risky=False, answers=True) < before


def test_the_same_seed_trains_the_same_and_every_pixel_of_the_border_moves(tiny_base, processor, records):
    found = []
    for seed in (1, 1, 2):
        safety = attached(copy.deepcopy(tiny_base), processor)
        train_border(safety, records, BorderRecipe(**SHORT, seed=seed), progress=False)
        found.append(safety.defences[0].border.detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].shape == (3, int(ring((28, 28), 4).sum())) and (found[0] != 0).float().mean() > 0.5


class Stop(Exception):
    pass


def test_an_interrupted_training_goes_on_to_the_same_border(tiny_base, processor, records, tmp_path, monkeypatch):
    def train(folder):
        safety = attached(copy.deepcopy(tiny_base), processor)
        aim, losses = train_border(safety, records, BorderRecipe(**SHORT), runs=folder, progress=False)
        return safety.defences[0].border.detach(), aim, losses

    whole, aim, losses = train(tmp_path / "whole")
    assert len(losses) == 6
    steps, real = [], training.sign_step

    def fails(*args):
        steps.append(None)
        if len(steps) == 4:
            raise Stop
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "sign_step", fails)
        with pytest.raises(Stop):
            train(tmp_path / "parts")
    again, other, rest = train(tmp_path / "parts")
    assert len(rest) == 4 and rest == losses[2:] and torch.equal(again, whole)
    assert other[:4] == aim[:4] and torch.equal(other.direction, aim.direction)
    finished, _, none = train(tmp_path / "parts")
    assert none == [] and torch.equal(finished, whole)
    with pytest.raises(ConfigError, match="not resumed: expected the recipe"):
        train_border(
            attached(copy.deepcopy(tiny_base), processor),
            records,
            BorderRecipe(**SHORT, seed=1),
            runs=tmp_path / "whole",
        )
    with pytest.raises(ConfigError, match="not resumed: expected the data"):
        train_border(
            attached(copy.deepcopy(tiny_base), processor), records[1:], BorderRecipe(**SHORT), runs=tmp_path / "whole"
        )
    for spoilt in (b"nothing", safetensors.torch.save({"border": torch.zeros(3, 4)}, {"step": "2"})):
        (tmp_path / "parts" / STATE).write_bytes(spoilt)
        with pytest.raises(ConfigError, match="run damaged"):
            train(tmp_path / "parts")


def test_what_cannot_be_trained_is_refused(model, processor, records):
    safety = attached(model, processor)
    with pytest.raises(ConfigError, match="expected a layer from 0 to 1, got 2"):
        train_border(safety, records, BorderRecipe(layer=2))
    for short, name in ((records[:12], "benign"), (records[9:], "risky")):
        with pytest.raises(DataError, match=f"got fewer {name} ones"):
            train_border(safety, short)
    text_only = [one.model_copy(update={"image": None}) for one in records]
    with pytest.raises(DataError, match="at least 4 risky and 4 benign records with pictures"):
        train_border(safety, text_only)
    safety.detach()
    safety = attach_safety(model.half(), processor, defence="davsp")
    with pytest.raises(ConfigError, match="got float16"):
        train_border(safety, records)
    safety.detach()
    with pytest.raises(ConfigError, match="expected an attachment with davsp"):
        train_border(attach_safety(model, processor, defence="adashield-s"), records)
