"""The distance from what was trained: a p-value that holds what it says, and touches nothing else."""

import pytest
import torch

from safety_modules.config import BaseSizes, OutsideSettings, SafetyConfig, ViewsSettings
from safety_modules.defences.guard.modules import SafetyModules
from safety_modules.defences.guard.outside import Outside, pool
from safety_modules.training.outside import fitted

WIDTH, PATCHES = 16, 4
SIZES = BaseSizes(vision_width=WIDTH, text_width=32, num_patches=PATCHES, grid=(2, 2), vocab_size=64, num_layers=2)


def pictures(count: int, seed: int, moved: float = 0.0) -> torch.Tensor:
    """Patches (count, P, Dv) around a mean; moved ones lie elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    mean = torch.linspace(-1, 1, WIDTH) + moved * torch.linspace(1, -1, WIDTH).abs()
    return mean + 0.3 * torch.randn(count, PATCHES, WIDTH, generator=draw)


@pytest.fixture(scope="module")
def outside() -> Outside:
    return fitted(pool(pictures(600, 0)), pool(pictures(999, 1)), pool(pictures(100, 2, moved=0.5)))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_of_pictures_like_the_trainings_no_more_get_a_p_value_than_it_says(outside: Outside, share: float) -> None:
    found = (outside(pictures(20_000, 3)) <= share).float().mean()
    assert found == pytest.approx(share, abs=3 * (share * (1 - share) / 999) ** 0.5)


def test_pictures_like_the_made_up_ones_and_pictures_like_none_are_outside(outside: Outside) -> None:
    least = 1 / 1000
    for moved in (0.5, 2.0, -2.0):
        p_values = outside(pictures(100, 4, moved))
        assert (p_values <= 0.01).float().mean() > 0.95 and p_values.min() == pytest.approx(least)


def test_places_without_a_patch_and_the_batch_change_nothing(outside: Outside) -> None:
    some = pictures(50, 5)
    padded = torch.cat([some, torch.zeros(50, 3, WIDTH)], 1)
    assert torch.equal(outside(padded), outside(some))
    assert torch.allclose(torch.cat([outside(one[None]) for one in some]), outside(some), atol=2 / 1000)


def test_in_the_precision_of_adapters_it_says_the_same(outside: Outside) -> None:
    saved = Outside(outside.settings, WIDTH)
    saved.load_state_dict({name: tensor.half() for name, tensor in outside.state_dict().items()})
    some = pictures(500, 6)
    assert torch.allclose(saved(some), outside(some), atol=5 / 1000)


def test_a_calibration_is_kept_beside_and_changes_no_p_value(outside: Outside) -> None:
    p_values, risks = outside(pictures(300, 7)), torch.linspace(3, -9, 300)
    kept = outside.with_calibration(p_values, risks)
    assert kept.settings == OutsideSettings(trained=999, calibrated=300, scored=300)
    assert torch.equal(kept.calibrated, p_values.sort().values) and torch.equal(kept.risks, risks.flip(0))
    assert torch.equal(kept(pictures(9, 8)), outside(pictures(9, 8)))
    assert kept.calibration({"illegal": 2.5, "privacy": 2.0}).limit == 2.0


def test_without_risks_it_is_as_adapters_from_before_have_it(outside: Outside) -> None:
    kept = outside.with_calibration(outside(pictures(300, 7)), torch.zeros(0))
    assert "scored" not in kept.settings.model_dump() and "risks" not in kept.state_dict()
    assert not len(kept.calibration({}).risks)


def test_risks_of_another_way_to_judge_are_forgotten(outside: Outside) -> None:
    modules = SafetyModules(SafetyConfig(width=16), SIZES)
    modules.know(outside.with_calibration(outside(pictures(300, 7)), torch.zeros(300)))
    modules.judge_by(None)
    assert modules.config.outside is not None and modules.config.outside.scored == 300  # as it judged before
    modules.judge_by(ViewsSettings(count=2))
    assert modules.config.outside.scored is None and modules.config.outside.calibrated == 300


def test_the_head_says_the_same_with_and_without_it(outside: Outside) -> None:
    modules, some = SafetyModules(SafetyConfig(width=16), SIZES).eval(), pictures(8, 9)
    with torch.no_grad():
        before = modules(some)
        modules.know(outside=outside)
        after = modules(some)
    assert before.outside is None and after.outside is not None and torch.equal(after.outside, outside(some))
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    assert modules.config.outside == outside.settings
    assert not [name for name, _ in modules.named_parameters() if name.startswith("outside")]  # nothing to train
    modules.know(outside=None)
    assert modules.config.outside is None and modules(some).outside is None


def test_it_is_small_enough_for_its_place_in_an_adapter() -> None:
    """From shapes alone, in 16 bit: 0.3 MB on pocket, 3 MB on LLaVA-1.5's tower."""
    for width, most in ((192, 0.3), (1024, 3.0)):
        with torch.device("meta"):
            found = Outside(OutsideSettings(trained=2000, calibrated=2000, scored=2000), width)
        assert sum(tensor.numel() for tensor in found.state_dict().values()) * 2 / 1e6 <= most


def test_added_types_and_peers_do_not_have_one_of_their_own() -> None:
    config = SafetyConfig(width=16, outside=OutsideSettings(trained=9)).with_added(("allergens",))
    names = SafetyModules(config, SIZES).state_dict()
    assert {name for name in names if "outside" in name} == {
        f"outside.{part}" for part in ("mean", "whiten", "direction", "trained", "calibrated")
    }
