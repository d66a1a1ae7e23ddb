"""SafeVLM's defence (arXiv 2405.13581): judge every image, steer what is risky. `guard.py` is the way through."""

from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.guard.judge import embed_questions, judge, question_ids, question_readings
from safety_modules.defences.guard.steer import IGNORED, LmInputs, Sample, Steer, build_inputs, lm_forward

__all__ = [
    "IGNORED",
    "Guard",
    "GuardSettings",
    "LmInputs",
    "Sample",
    "Steer",
    "build_inputs",
    "embed_questions",
    "judge",
    "lm_forward",
    "question_ids",
    "question_readings",
]
