"""Attacks that know what they attack: on the pixels by gradients, and by verdicts alone."""

from safety_modules.evaluation.attacks.adversary import METHODS, PixelAttack
from safety_modules.training.perturbation import Ball, apgd, pgd, square

__all__ = ["METHODS", "Ball", "PixelAttack", "apgd", "pgd", "square"]
