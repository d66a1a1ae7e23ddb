"""benchmarks/border.py: which rows there are, the controls of a trained border, and the price first."""

from pathlib import Path
from typing import Any

import border
import pytest
import torch
from rich.console import Console

from safety_modules import pocket
from safety_modules.attach import attach_safety
from safety_modules.backbones import find_backbone
from safety_modules.errors import ConfigError


def saved(model: Any, processor: Any, folder: Path) -> Path:
    safety = attach_safety(model, processor, defence="davsp")
    davsp = safety.defences[0]
    with torch.no_grad():
        davsp.border.copy_(torch.arange(davsp.border.numel()).view_as(davsp.border) / davsp.border.numel())
    davsp.trained = True
    path = safety.save_pretrained(folder, dtype="float32")
    safety.detach()
    return path


def test_beside_a_trained_border_stand_its_values_in_another_order_and_the_text_prefix(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    folder, backbone = saved(model, processor, tmp_path / "mine"), find_backbone(model, processor)
    found = dict(border.forms(backbone, [2], [folder]))
    assert [*found] == [
        "none",
        "untrained, 2 px, edges",
        "untrained, 2 px, nothing",
        "mine, shuffled",
        "mine",
        "mine and adashield-s",
        "adashield-s",
    ]
    (mine,), (other,) = found["mine"], found["mine, shuffled"]
    assert not torch.equal(mine.border, other.border) and mine.settings == other.settings
    assert torch.equal(mine.border.sort(-1).values, other.border.sort(-1).values)
    assert found["untrained, 2 px, edges"][0].border.abs().sum() == 0
    assert [one.kind for one in found["mine and adashield-s"]] == ["adashield-s", "davsp"]


def test_an_adapter_without_a_border_is_refused(model: Any, processor: Any, tmp_path: Path) -> None:
    safety = attach_safety(model, processor, defence="adashield-s")
    folder = safety.save_pretrained(tmp_path / "other")
    safety.detach()
    with pytest.raises(ConfigError, match="expected an adapter with davsp"):
        border.trained(find_backbone(model, processor), folder)


def test_what_is_lost_is_counted_from_the_base() -> None:
    columns = [f"{kind} {style}" for pair in border.CONTROLS.items() for kind in pair for style in border.STYLES]
    rows = [
        {"form": name, "mb": 0.0, "vqa": {"value": value}, **{k: {"value": 0.0} for k in (*columns, "benign")}}
        for name, value in (("none", 0.75), ("mine", 0.5))
    ]
    console = Console(width=220, record=True)
    border.print_border(rows, console)
    text = console.export_text()
    assert "25.0" in text and text.index("lost") < text.index("glyph")


@pytest.mark.slow
def test_there_is_a_row_for_each_form(tmp_path: Path) -> None:
    base = pocket.load()
    records = {name: part[:2] for name, part in border.cases_of(2, "validation").items()}
    rows = border.run_border(base, [4], [saved(*base, tmp_path / "mine")], records)
    assert len(rows) == 7 and rows[0]["form"] == "none" and rows[-3]["mb"] > 0
