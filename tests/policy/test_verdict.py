import json

import pytest
import torch
from PIL import Image

from safety_modules.errors import SafetyModulesError
from safety_modules.policy import Verdict


def make_verdict(**changes):
    fields = {
        "probabilities": {"illegal": 0.9, "privacy": 0.06, "clean": 0.04},
        "level_probabilities": {"safe": 0.1, "low": 0.2, "high": 0.7},
        "type": "illegal",
        "level": "high",
        "risk": 0.96,
        "flagged": True,
        "rule": "illegal: score 2.20 >= 0.00 -> hint",
        "action": "hint",
        "scores": {"illegal": 2.2, "privacy": -2.0},
        "limits": {"illegal": 0.0, "privacy": 0.5},
    }
    return Verdict(**{**fields, **changes})


def one_hot_attention(row, column):
    attention = torch.zeros(2, 4, 4)
    attention[0, row, column] = 0.8
    attention[1] = 1 / 16
    return attention


def test_the_line_names_type_level_risk_and_rule():
    assert str(make_verdict()) == "image 0: illegal, level high [illegal: score 2.20 >= 0.00 -> hint]"
    quiet = {"flagged": False, "rule": None, "action": "allow", "type": "clean", "image_index": 3}
    scores = {"illegal": -4.0, "privacy": -1.25}
    assert str(make_verdict(**quiet, scores=scores)) == "image 3: not flagged; nearest: privacy, score -1.25 < 0.50"
    assert str(make_verdict(**quiet, limits={})) == "image 3: not flagged: every type is switched off"


def test_to_dict_is_plain_json_without_tensors():
    record = make_verdict(attention=one_hot_attention(0, 0)).to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["action"] == "hint" and record["probabilities"]["illegal"] == 0.9
    assert "attention" not in record


def test_verdicts_compare_by_what_they_say_not_by_their_maps():
    assert make_verdict(attention=one_hot_attention(0, 0)) == make_verdict(attention=one_hot_attention(3, 3))
    assert make_verdict() != make_verdict(image_index=1)


def test_heatmap_is_the_map_of_the_type_asked_for():
    verdict = make_verdict(attention=one_hot_attention(1, 2))
    assert verdict.heatmap()[1, 2] == pytest.approx(0.8)
    assert torch.equal(verdict.heatmap("privacy"), torch.full((4, 4), 1 / 16))


def test_heatmap_of_a_clean_verdict_is_the_most_probable_risk_s():
    verdict = make_verdict(
        type="clean",
        flagged=False,
        probabilities={"illegal": 0.01, "privacy": 0.02, "clean": 0.97},
        attention=one_hot_attention(0, 0),
    )
    assert torch.equal(verdict.heatmap(), torch.full((4, 4), 1 / 16))


def test_heatmap_refuses_what_it_does_not_have():
    with pytest.raises(SafetyModulesError, match="expected a verdict with an attention map, got one without"):
        make_verdict().heatmap()
    with pytest.raises(SafetyModulesError, match="expected one of illegal, privacy, got 'clean'"):
        make_verdict(attention=one_hot_attention(0, 0)).heatmap("clean")


def test_overlay_glows_where_the_head_looked_and_nowhere_else():
    picture = Image.new("RGB", (64, 64), "blue")
    overlay = make_verdict(attention=one_hot_attention(0, 3)).overlay(picture, alpha=1.0)
    assert overlay.size == picture.size and overlay.mode == "RGB"
    red, _, blue = overlay.getpixel((60, 4))
    assert red > 200 and blue < 60
    assert overlay.getpixel((4, 60)) == (0, 0, 255)
    assert picture.getpixel((60, 4)) == (0, 0, 255)  # the original is untouched


@pytest.mark.parametrize(
    ("fit", "hot", "untouched"),
    [("crop", (34, 2), (5, 2)), ("stretch", (5, 2), (60, 2)), ("pad", (5, 5), (90, 5))],
)
def test_overlay_covers_what_the_processor_showed_the_model(fit, hot, untouched):
    # 96 x 32; the crop is the middle 32 x 32. The padded square is 96 x 96, the picture its middle band.
    row = 1 if fit == "pad" else 0
    picture = Image.new("RGB", (96, 32), "blue")
    overlay = make_verdict(attention=one_hot_attention(row, 0)).overlay(picture, alpha=1.0, fit=fit)
    assert overlay.getpixel(hot)[0] > 150
    assert overlay.getpixel(untouched) == (0, 0, 255)


def test_an_even_map_changes_nothing():
    picture = Image.new("RGB", (32, 32), "blue")
    overlay = make_verdict(attention=one_hot_attention(0, 0)).overlay(picture, type="privacy")
    assert list(overlay.tobytes()) == list(picture.tobytes())
