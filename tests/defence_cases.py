"""Every defence, small and as if trained: for the contract, on whatever base."""

import torch

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.cmrm import CmrmSettings
from safety_modules.defences.davsp import DavspSettings
from safety_modules.defences.guard import GuardSettings
from safety_modules.defences.lora_tuning import LoraTuningSettings
from safety_modules.defences.meta_token import MetaTokenSettings
from safety_modules.defences.registry import GUARD_MODES, KINDS, make
from safety_modules.defences.shiftdc import ShiftDcSettings
from safety_modules.defences.tga import TgaSettings
from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT
from safety_modules.taxonomy import DEFAULT_TAXONOMY

SMALL = LoraSettings(r=2)
EVERYTHING = dict.fromkeys(DEFAULT_TAXONOMY.types, -LIMIT)  # is flagged
SETTINGS = {
    "guard": GuardSettings(
        design=SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=3, attention_heads=2, lora=SMALL),
        thresholds=EVERYTHING,
    ),
    "lora": LoraTuningSettings(lora=SMALL),
    "meta-token": MetaTokenSettings(tokens=2, lora=SMALL, thresholds=EVERYTHING),
    "tga": TgaSettings(tokens=2, width=4, rank=2, threshold=0),
}
FORMS = {
    "cmrm-sample": CmrmSettings(level="sample", steps="prefill"),
    "cmrm-all": CmrmSettings(tokens="all", form="pc1_scaled", layers=(-1,)),
    "shiftdc-lite": ShiftDcSettings(form="lite", layers=(0, 1), alpha=4),  # a tiny model is not moved by less
    "tga-pooled": TgaSettings(form="pooled", lora=LoraSettings(r=2, target_modules=("linear_1", "linear_2"))),
    "tga-beside": TgaSettings(tokens=2, width=4, rank=2, place="beside"),
    "davsp-published": DavspSettings(width=3, under="nothing"),
}
EVERY_ONE = [
    *((kind,) for kind in (*KINDS, "always", "external", "selective", *FORMS)),
    ("guard", "davsp", "tga"),
    ("selective", "tga-pooled", "cmrm"),
]
"""Alone, and in two stacks of the later kinds."""


def stirred(defence):
    """As if trained: a LoRA that is not zero, tokens that are not small."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in defence.named_parameters():
            if "lora_B" in name or "lm_tokens" in name or name.startswith("modules.tokens"):
                parameter.normal_(std=0.2)
            if name == "modules.border":
                parameter.normal_()
    defence.trained = True
    return defence


def built(backbone, name):
    kind = kind_of(name)
    defence = stirred(make(backbone, FORMS.get(name) or SETTINGS.get(kind, kind)))
    if name in GUARD_MODES:
        defence.mode = name
    return defence


def put_on(model, processor, names):
    backbone = find_backbone(model, processor)
    attachment = SafetyAttachment(backbone, [built(backbone, name) for name in names], Policy.default())
    attachment.install()
    return attachment


def kind_of(name):
    return "guard" if name in GUARD_MODES else FORMS[name].kind if name in FORMS else name
