"""evaluation/attacks: searches that reach what can be computed, pictures that fool the guard within their bounds."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safety_modules import pocket
from safety_modules.backbones import find_backbone
from safety_modules.config import ViewsSettings
from safety_modules.defences.cmrm import CmrmSettings
from safety_modules.defences.guard.judge import head_output, question_readings
from safety_modules.defences.registry import make
from safety_modules.defences.shiftdc import ShiftDcSettings
from safety_modules.errors import DataError
from safety_modules.evaluation.attacks import METHODS, Ball, PixelAttack, Transferred, UniversalAttack, apgd, universal
from safety_modules.evaluation.attacks.adversary import (
    _own_answers,
    answer_odds,
    as_pictures,
    as_the_base,
    judged_by,
    objective_of,
    risk_odds,
)
from safety_modules.evaluation.attacks.universal import covered
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.suites.pocket import pocket_cases
from safety_modules.evaluation.systems import System, make_system

LIMITS = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([1.0, 1.0, 1.0])
RADIUS = torch.tensor([0.1, 0.2, 0.3])


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def ball() -> Ball:
    return Ball(torch.rand(4, 3, 6, 6, generator=drawn(1)) * 2 - 1, RADIUS, *LIMITS)


@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_of_a_linear_objective_the_corner_is_found(ball: Ball, method: str) -> None:
    weights = torch.randn(3, 6, 6, generator=drawn(2))
    corner = ball.inside(ball.centre + RADIUS.view(1, 3, 1, 1) * weights.sign())
    pixels, worth = METHODS[method](lambda x: (x * weights).sum((1, 2, 3)), ball, 20, drawn())
    assert torch.equal(pixels, corner)
    assert torch.allclose(worth, (corner * weights).sum((1, 2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_every_search_stays_in_the_ball_and_returns_the_best_it_saw(ball: Ball, method: str) -> None:
    seen: list[torch.Tensor] = []

    def objective(x: torch.Tensor) -> torch.Tensor:
        assert bool(((x - ball.centre).abs() <= RADIUS.view(1, 3, 1, 1) + 1e-6).all())
        assert bool((x.abs() <= 1).all())
        found = torch.sin(40 * x).sum((1, 2, 3))
        seen.append(found.detach())
        return found

    pixels, worth = METHODS[method](objective, ball, 30, drawn())
    assert torch.equal(worth, torch.stack(seen).amax(0))
    assert torch.equal(torch.sin(40 * pixels).sum((1, 2, 3)), worth)
    assert bool((worth > torch.sin(40 * ball.centre).sum((1, 2, 3))).all())
    again = METHODS[method](objective, ball, 30, drawn())[0]
    assert torch.equal(again, pixels)


def test_apgd_halves_its_steps_where_they_do_not_help(ball: Ball) -> None:
    """A target in the middle of the ball: steps of twice the radius can't settle there, halved ones do."""
    target = ball.inside(ball.centre + 0.3 * RADIUS.view(1, 3, 1, 1))

    def near(x: torch.Tensor) -> torch.Tensor:
        return -(x - target).abs().mean((1, 2, 3))

    found, few = (apgd(near, ball, steps, drawn())[1] for steps in (100, 5))
    assert bool((few < -0.02).all()) and bool((found > -0.004).all())


def test_pictures_come_back_as_they_were() -> None:
    low, high = torch.tensor([-1.8, -1.7, -1.5]), torch.tensor([1.9, 2.0, 2.1])
    bits = torch.randint(256, (2, 3, 8, 8), generator=drawn(3))
    pixels = bits / 255 * (high - low).view(1, 3, 1, 1) + low.view(1, 3, 1, 1)
    for picture, expected in zip(as_pictures(pixels, low, high), bits, strict=True):
        assert np.array_equal(np.asarray(picture), expected.permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def system() -> System:
    return make_system("gated", *pocket.load(), pocket.adapter_dir())


@pytest.fixture(scope="module")
def risky() -> list[Case]:
    return [case for case in pocket_cases(["attack/seen"], samples=8, split="validation") if case.wanted == "refuse"][
        :3
    ]


def risks(system: System, cases: list[Case]) -> list[float]:
    assert system.attachment is not None
    verdicts = system.attachment.classify([case.images[0] for case in cases], [case.prompt for case in cases])
    return [max(verdict.scores.values()) for verdict in verdicts]


@pytest.mark.parametrize(("aim", "sign"), [("clean", -1), ("readable", -1), ("flagged", 1)])
def test_an_attack_moves_the_risk_within_its_bounds_and_leaves_the_base_as_it_was(
    system: System, risky: list[Case], aim: Any, sign: int
) -> None:
    cases = risky if sign < 0 else pocket_cases(["benign/seen"], samples=3, split="validation")
    before = {name: value.clone() for name, value in system.model.state_dict().items()}
    attack = PixelAttack(6, aim, steps=8)
    found = attack(cases, system)
    assert [case.id for case in found] == [case.id for case in cases]
    for case, was in zip(found, cases, strict=True):
        change = np.asarray(case.load_images()[0], int) - np.asarray(was.load_images()[0], int)
        assert 0 < np.abs(change).max() <= 6
    for there, here in zip(risks(system, found), risks(system, cases), strict=True):
        assert sign * (there - here) > 0.5
    assert all(torch.equal(value, before[name]) for name, value in system.model.state_dict().items())
    assert all(not parameter.grad for parameter in system.model.parameters() if parameter.grad is not None)
    again = attack(cases, system)
    assert [case.images[0].tobytes() for case in again] == [case.images[0].tobytes() for case in found]  # type: ignore[union-attr]


def test_the_risk_that_is_attacked_is_the_verdicts(system: System, risky: list[Case]) -> None:
    attachment = system.attachment
    assert attachment is not None
    backbone, guard = attachment.backbone, attachment.guard
    pixels = backbone.pixel_values([case.load_images()[0] for case in risky])
    with torch.no_grad():
        vision = backbone.encode_images(pixels).vision
        readings = [question_readings(backbone, guard.config, backbone.prompt_ids(case.prompt, 1)) for case in risky]
        output = head_output(guard, lambda rows: vision[rows], readings)
        odds = risk_odds(output.type_logits, len(guard.config.added), guard.temperature)
        odds = torch.stack([part.max() for part in odds.split([*map(len, readings)])])
    assert odds.tolist() == pytest.approx(risks(system, risky), abs=1e-3)


def test_the_log_probability_of_an_answer_is_the_mean_over_its_tokens(system: System, risky: list[Case]) -> None:
    backbone = system.attachment.backbone  # type: ignore[union-attr]
    case = risky[0]
    prompt, answer = backbone.prompt_ids(case.prompt, 1), backbone.answer_ids("1. Get it.")
    picture = case.load_images()[0]
    with torch.no_grad(), system.on_model():
        projected = backbone.encode_images(backbone.pixel_values([picture])).projected
        found = answer_odds(backbone, [prompt, prompt], [*projected, *projected], [answer, answer[:2]])
        inputs = {"input_ids": torch.tensor([[*prompt, *answer]]), "pixel_values": backbone.pixel_values([picture])}
    logits = system.model(**inputs).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
    chances = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
    assert found.tolist() == pytest.approx([chances.mean().item(), chances[:2].mean().item()], abs=1e-4)


def test_what_cannot_be_attacked_is_refused_by_name(system: System, risky: list[Case]) -> None:
    base = System("none", system.model, system.processor)
    for given in (None, base):
        for aim, missing in (("clean", "guard"), ("readable", "defence")):
            with pytest.raises(DataError, match=f"expected a system with a {missing}"):
                PixelAttack(aim=aim)(risky, given)  # type: ignore[arg-type]
    assert system.attachment is not None
    thresholds, system.attachment.guard.thresholds = system.attachment.guard.thresholds, {}
    try:
        with pytest.raises(DataError, match="expected a guard with thresholds, got one that was never calibrated"):
            PixelAttack()(risky, system)
    finally:
        system.attachment.guard.thresholds = thresholds
    two = risky[0].model_copy(update={"images": (*risky[0].images, Image.new("RGB", (96, 96)))})
    with pytest.raises(DataError, match=f"several in {two.id}"):
        PixelAttack()([two], system)
    for wrong in ({"method": "cw"}, {"aim": "both"}, {"steps": 0}, {"eps": 0}, {"restarts": 0}):
        with pytest.raises(DataError, match="no such attack"):
            PixelAttack(**wrong)  # type: ignore[arg-type]


def test_the_attacker_of_votes_sees_other_views_unless_the_key_is_known(system: System, risky: list[Case]) -> None:
    safety = system.attachment
    assert safety is not None
    backbone, modules = safety.backbone, safety.modules
    pixels = backbone.pixel_values([case.load_images()[0] for case in risky])
    modules.judge_by(ViewsSettings(count=2))
    try:
        assert modules.views is not None
        with torch.no_grad(), system.on_model():
            own = torch.tensor(risks(system, risky)) - min(safety.thresholds.values())
            known = judged_by(safety, risky, knows_key=True)(pixels)[0]
            one, more = (judged_by(safety, risky, through)(pixels)[0] for through in (1, 3))
            with modules.views.under(b"not the guard's, 0"):
                other = torch.tensor(risks(system, risky)) - min(safety.thresholds.values())
        assert torch.allclose(known, own, atol=1e-3) and torch.allclose(one, other, atol=1e-3)
        assert not torch.allclose(one, own, atol=1e-3) and not torch.allclose(one, more, atol=1e-3)
        assert modules.views.key == b""
        found = PixelAttack(8, steps=6, through=2)(risky, system)
        assert np.mean(risks(system, found)) < np.mean(risks(system, risky)) - 0.3
    finally:
        modules.judge_by(None)
    with pytest.raises(DataError, match="through"):
        PixelAttack(through=0)


def with_defence(system: System, settings: Any) -> System:
    return System(
        "other", system.model, system.processor, [make(find_backbone(system.model, system.processor), settings)]
    )


def test_of_a_defence_that_does_nothing_the_answer_is_as_probable_as_the_bases(
    system: System, risky: list[Case]
) -> None:
    safety = with_defence(system, CmrmSettings(alpha=0)).attachment
    assert safety is not None
    backbone = safety.backbone
    pixels = backbone.pixel_values([case.load_images()[0] for case in risky]).float()
    prompts = [backbone.prompt_ids(case.prompt, 1) for case in risky]
    safety.install()
    try:
        with torch.no_grad(), safety.base_frozen():
            answers = _own_answers(backbone, prompts, pixels)
            found = as_the_base(safety, risky, pixels)(pixels)
            with safety.disabled():
                expected = answer_odds(backbone, prompts, backbone.encode_images(pixels).projected, answers)
    finally:
        safety.detach()
    assert len({*map(len, answers)}) > 1 and found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("settings", [CmrmSettings(), ShiftDcSettings(form="lite")])
def test_without_a_guard_an_attack_makes_the_bases_answer_more_probable(
    system: System, risky: list[Case], settings: Any
) -> None:
    attacked = with_defence(system, settings)
    safety = attacked.attachment
    assert safety is not None
    found = PixelAttack(8, "readable", steps=6)(risky, attacked)
    before, after = (
        safety.backbone.pixel_values([case.load_images()[0] for case in cases]).float() for cases in (risky, found)
    )
    with attacked.on_model(), safety.base_frozen():
        worth = as_the_base(safety, risky, before)
        assert worth(after).mean() > 0.7 * worth(before).mean()  # both below 0, which is certainty


def test_what_no_gradient_goes_through_is_refused_by_name(system: System, risky: list[Case]) -> None:
    for settings, kind in ((ShiftDcSettings(), "shiftdc"), ("ecso", "ecso")):
        with pytest.raises(DataError, match=f"answer in one pass, which gradients go through, got {kind}"):
            PixelAttack(8, "readable")(risky, with_defence(system, settings))
    with pytest.raises(DataError, match="expected a system with a guard, got other"):
        PixelAttack(8, "clean")(risky, with_defence(system, CmrmSettings()))


def test_what_is_transferred_is_what_was_made_against_the_other(system: System, risky: list[Case]) -> None:
    attack = PixelAttack(steps=3)
    transferred = Transferred(attack, system)
    base = System("none", system.model, system.processor)
    for own, other in zip(attack(risky[:2], system), transferred(risky[:2], base), strict=True):
        assert np.array_equal(np.asarray(own.load_images()[0]), np.asarray(other.load_images()[0]))
    assert transferred.name == f"{attack.name} from {system.name}" and transferred.describe()["surrogate"]["system"]


def test_cases_without_a_picture_stay_as_they_are(system: System) -> None:
    texts = pocket_cases(["text-attack"], samples=2, split="validation")
    assert PixelAttack(steps=1)(texts, system) == texts


def test_a_shape_covers_what_it_says() -> None:
    border, patch = covered("border", 2, (6, 8)), covered("patch", 3, (6, 8))
    assert int(border.sum()) == 6 * 8 - 2 * 4 and not border[2:4, 2:6].any()
    assert int(patch.sum()) == 9 and patch[3:, 5:].all()


def test_what_is_found_for_all_covers_its_shape_alone_and_does_what_it_is_for(
    system: System, risky: list[Case]
) -> None:
    assert system.attachment is not None
    backbone, safety = system.attachment.backbone, system.attachment
    found = universal(system, risky, width=10, steps=12, batch_size=4, step=32)
    assert found.name == "border-10-clean" and found.describe()["width"] == 10
    inside = covered("border", 10, (96, 96))
    pixels = backbone.pixel_values([case.load_images()[0] for case in risky]).float()
    shown = found(risky, System("none", system.model, system.processor))
    after = backbone.pixel_values([case.load_images()[0] for case in shown]).float()
    assert torch.allclose(after[:, :, ~inside], pixels[:, :, ~inside], atol=0.02)
    assert torch.allclose(after[:, :, inside], found.pixels[:, inside].expand(len(risky), -1, -1), atol=0.02)
    worth = []
    start = universal(system, risky, width=10, steps=0)
    with torch.no_grad(), system.on_model():
        for attack in (start, found):
            moved = torch.where(inside, attack.pixels, pixels)
            worth.append(objective_of(safety, risky, pixels, "clean")(moved).mean().item())
    assert worth[1] > worth[0] + 0.5
    other = found.in_another_order()
    assert other.name == "border-10-clean, shuffled" and not torch.equal(other.pixels, found.pixels)
    for one in (found, other):
        assert torch.equal(one.pixels[:, inside].sort(-1).values, found.pixels[:, inside].sort(-1).values)
    benign = [case.model_copy(update={"wanted": "answer", "type": "clean"}) for case in risky[:1]]
    assert found(benign, system) == benign


def test_what_nothing_can_be_found_for_is_refused(system: System, risky: list[Case]) -> None:
    for wrong in ({"aim": "readable"}, {"aim": "flagged"}):
        with pytest.raises(DataError, match="expected clean or flagged, and cases to find it on"):
            universal(system, risky, steps=1, **wrong)  # type: ignore[arg-type]
    for width in (0, 48):
        with pytest.raises(DataError, match="expected a part of 96 pixels, got all or none"):
            universal(system, risky, width=width, steps=1)
    with pytest.raises(DataError, match="shown to nobody"):
        UniversalAttack("patch", 4, "clean", torch.zeros(3, 96, 96))(risky)
