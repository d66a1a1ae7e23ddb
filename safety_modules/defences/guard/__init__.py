"""The guarded call. `generate.py` is the way through it, top down; the other files are its steps."""

from safety_modules.defences.guard.generate import BatchMode, check_batch_mode, guarded_generate
from safety_modules.defences.guard.judge import classify, embed_questions, judge, question_ids, question_readings
from safety_modules.defences.guard.prepare import Prepared, prepare
from safety_modules.defences.guard.steering import IGNORED, LmInputs, Sample, Steer, build_inputs, lm_forward
from safety_modules.defences.guard.stitch import GuardedOutput, as_guarded
from safety_modules.defences.guard.switches import Switch, read_switches

__all__ = [
    "IGNORED",
    "BatchMode",
    "GuardedOutput",
    "LmInputs",
    "Prepared",
    "Sample",
    "Steer",
    "Switch",
    "as_guarded",
    "build_inputs",
    "check_batch_mode",
    "classify",
    "embed_questions",
    "guarded_generate",
    "judge",
    "lm_forward",
    "prepare",
    "question_ids",
    "question_readings",
    "read_switches",
]
