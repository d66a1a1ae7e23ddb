"""The maths: pure torch, no files, no flags, no transformers."""

from safety_modules.defences.guard.modules.head import ConceptHead, HeadOutput, PaperHead
from safety_modules.defences.guard.modules.projector import CAbstractor, MLPProjector, build_projector
from safety_modules.defences.guard.modules.safety import SafetyModules
from safety_modules.defences.guard.modules.tokens import SafetyTokens

__all__ = [
    "CAbstractor",
    "ConceptHead",
    "HeadOutput",
    "MLPProjector",
    "PaperHead",
    "SafetyModules",
    "SafetyTokens",
    "build_projector",
]
