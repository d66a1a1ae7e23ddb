"""What pocket's safety modules are trained on, chosen on, and calibrated on."""

from safety_modules.pocket import splits
from safety_modules.records.record import Record

TRAINING = 48_000
TEXT_ONLY = 3_400
CALIBRATION = 2_000
LABELLED = 1_000
BORDER = 600
BORDER_KINDS = ("attack", "attack_typographic", "control", "control_typographic", "vqa", "benign")
"""Risky pictures, benign ones in the same layouts with the same kinds of questions, and others."""
MAX_FALSE_ALARM = 0.025


def training_records(count: int = TRAINING, seed: int = 0) -> list[Record]:
    """The training mix: half risky, half clean, and a fourteenth more without pictures. Training styles only.

    Args:
        count: records with a picture; those without are fewer in the same proportion.
        seed: of all of them.
    """
    texts = max(1, count * TEXT_ONLY // TRAINING // 2)
    return [
        *splits.make("safety", count, split="train", seed=seed),
        *splits.make("text_harmful", texts, split="train", seed=seed),
        *splits.make("text_benign", texts, split="train", seed=seed),
    ]


def border_records(count: int = BORDER, seed: int = 0) -> list[Record]:
    """What a border (`davsp`) is trained on: as many of each of `BORDER_KINDS`. Training styles only."""
    return [record for kind in BORDER_KINDS for record in splits.make(kind, count, split="train", seed=seed)]


def calibration_records(count: int = CALIBRATION, seed: int = 0) -> list[Record]:
    """Benign validation records, half in the training styles, half in the style kept for validation.

    One threshold has to serve drawings the modules never saw; a style that no training used stands in for them.
    """
    half = count // 2
    return [
        *splits.make("benign", half, split="validation", style="seen", seed=seed),
        *splits.make("benign", count - half, split="validation", style="unseen", seed=seed),
    ]


def labelled_records(count: int = LABELLED, seed: int = 0) -> list[Record]:
    """Risky and clean validation records, half of each, in the styles of `calibration_records`, none of them there."""
    half = count // 2
    return [
        *splits.make("verdict", half, split="validation", style="seen", seed=seed),
        *splits.make("verdict", count - half, split="validation", style="unseen", seed=seed),
    ]
