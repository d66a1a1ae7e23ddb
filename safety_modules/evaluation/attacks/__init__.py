"""Attacks on systems: on the pixels by gradients or by verdicts alone, and through the prompt."""

from safety_modules.evaluation.attacks.adversary import METHODS, PixelAttack, Transferred
from safety_modules.evaluation.attacks.universal import UniversalAttack, universal
from safety_modules.evaluation.attacks.wording import FORMS, PREFIX, PromptAttack
from safety_modules.training.perturbation import Ball, apgd, pgd, square

__all__ = [
    "FORMS",
    "METHODS",
    "PREFIX",
    "Ball",
    "PixelAttack",
    "PromptAttack",
    "Transferred",
    "UniversalAttack",
    "apgd",
    "attack_named",
    "pgd",
    "square",
    "universal",
]


def attack_named(name: str) -> PixelAttack | PromptAttack:
    """`ask-FORM`, or METHOD-EPS-AIM. Raises DataError: it is none."""
    return PromptAttack(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else PixelAttack.named(name)
