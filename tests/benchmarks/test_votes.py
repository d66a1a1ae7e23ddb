"""benchmarks/votes.py: what a view is, how votes are calibrated, that an attack follows the views."""

import pytest
import torch
import votes
from attacks import cases_of
from rich.console import Console

from safety_modules import pocket
from safety_modules.evaluation.suites.pocket import pocket_cases
from safety_modules.evaluation.systems import System, make_system
from safety_modules.paths import adapter_dir

LIMITS = torch.zeros(3), torch.ones(3)


def test_a_view_is_another_each_time_and_nearly_the_picture():
    picture = torch.zeros(1, 3, 48, 48)
    picture[..., 16:32, 16:32] = 1
    draw = torch.Generator().manual_seed(0)
    views = [votes.viewed(picture, *LIMITS, draw) for _ in range(2)]
    again = votes.viewed(picture, *LIMITS, torch.Generator().manual_seed(0))
    assert torch.equal(views[0], again) and not torch.equal(*views)
    for view in views:
        assert view.shape == picture.shape
        assert torch.corrcoef(torch.stack([view.flatten(), picture.flatten()]))[0, 1] > 0.6


@pytest.mark.slow
def test_votes_flag_as_few_benign_pictures_as_one_look_and_are_attacked_through_their_views():
    base = pocket.load()
    system = make_system("gated", *base, adapter_dir())
    cases, _ = cases_of("test", "seen", 4)
    benign = pocket_cases(["benign/seen"], samples=100, split="validation", seed=0)
    with system.on_model():
        voting = votes.Voting(system.attachment, 2).calibrated(benign)
        flagged = voting.over(benign, voting.judged) >= 0
        risks = voting.over(cases, voting.each)
    assert flagged.float().mean() <= 0.05 and risks.shape == (2, len(cases)) and not torch.equal(*risks)
    rows = votes.run_votes(system, System("none", *base), cases, benign, [4], views=2, steps=2, through=3)
    assert [(row["way"], row["attack"]) for row in rows] == [
        *((way, "none") for way in votes.WAYS),
        *((way, "4, unaware of views") for way in votes.WAYS),
        *((way, "4, through 3 views") for way in votes.WAYS[1:]),
    ]
    for row in rows:
        assert row["content"]["value"] <= min(row["passed"]["value"], row["any"]["value"])
        assert row["way"] != "one look" or row["content"] == row["any"]
    console = Console(width=160, record=True)
    votes.print_votes(rows, console)
    assert "through 3 views" in console.export_text()
