"""What the tests of the competitors share: small designs, folders with weights, and a batch of cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from guard_cases import attach_as_trained
from PIL import Image

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import find_backbone
from safety_modules.config import LoraSettings, SafetyConfig
from safety_modules.defences.davsp import Davsp
from safety_modules.defences.lora_tuning import LoraTuning, LoraTuningSettings
from safety_modules.defences.meta_token import MetaToken, MetaTokenSettings
from safety_modules.defences.registry import GUARD_MODES
from safety_modules.defences.tga import Tga, TgaSettings
from safety_modules.evaluation.cases import Case
from safety_modules.policy import Policy
from safety_modules.policy.scores import LIMIT
from safety_modules.taxonomy import DEFAULT_TAXONOMY

LORA = LoraSettings(r=2)
OURS = SafetyConfig(width=16, num_head_tokens=2, num_lm_tokens=3, attention_heads=2, lora=LORA)
PUBLISHED = OURS.model_copy(update={"projector": "c_abstractor", "query": "first_token", "mode": "always"})
TOKENS = 2
META = MetaTokenSettings(tokens=TOKENS, lora=LORA)
NEW = 6


def stir(parameters: Any, std: float = 0.1) -> None:
    """Random values in the place of a LoRA's zeros, so that it changes answers."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in parameters:
            if "lora_B" in name or "tokens" in name:
                parameter.normal_(std=std)


def save_adapter_folder(model: Any, processor: Any, folder: Path, config: SafetyConfig, limit: float) -> Path:
    """An untrained adapter that flags what has a score of at least `limit`."""
    safety = attach_as_trained(model, processor, config=config)
    stir(safety.lora.named_parameters())
    safety.thresholds = dict.fromkeys(DEFAULT_TAXONOMY.types, limit)
    safety.save_pretrained(folder)
    safety.detach()
    return folder


def save_folder(defence: Any, processor: Any, folder: Path) -> Path:
    """An adapter of one untrained defence, that changes answers."""
    defence.trained = True
    stir(defence.named_parameters())
    return SafetyAttachment(defence.backbone, [defence], Policy.default()).save_pretrained(folder)


def save_lora_folder(model: Any, processor: Any, folder: Path) -> Path:
    """A LoRA that changes answers."""
    backbone = find_backbone(model, processor)
    return save_folder(LoraTuning(backbone, LoraTuningSettings(lora=LORA)), processor, folder)


def save_meta_folder(model: Any, processor: Any, folder: Path, limit: float) -> Path:
    """Meta tokens, head and LoRA that change answers; flags what has a score of at least `limit`."""
    settings = META.model_copy(update={"thresholds": dict.fromkeys(DEFAULT_TAXONOMY.types, limit)})
    return save_folder(MetaToken(find_backbone(model, processor), settings), processor, folder)


def make_folders(model: Any, processor: Any, root: Path) -> dict[str, Path]:
    """Weights of everything that is trained: a set that flags every picture, and one that flags none."""
    found = {}
    for name, limit in (("risky", -LIMIT), ("clean", LIMIT)):
        found[f"ours-{name}"] = save_adapter_folder(model, processor, root / f"ours-{name}", OURS, limit)
        found[f"paper-{name}"] = save_adapter_folder(model, processor, root / f"paper-{name}", PUBLISHED, limit)
        found[f"meta-token-{name}"] = save_meta_folder(model, processor, root / f"meta-{name}", limit)
    found["lora"] = save_lora_folder(model, processor, root / "lora")
    backbone = find_backbone(model, processor)
    projector = TgaSettings().lora.model_copy(update={"r": 2})
    tga = Tga(backbone, TgaSettings(form="answers", lora=projector))
    found["tga"] = save_folder(tga, processor, root / "tga")
    found["davsp"] = save_folder(Davsp(backbone), processor, root / "davsp")
    return found


def spec_of(name: str, folders: dict[str, Path], judged: str = "risky") -> str:
    """What `make_system` is asked for."""
    own = "ours" if name in GUARD_MODES else name
    folder = folders.get(own) or folders.get(f"{own}-{judged}")
    return name if folder is None else f"{name}={folder}"


def make_cases(make_image: Callable[[int], Image.Image]) -> list[Case]:
    """One picture, none, two, and one again, in questions of several lengths."""
    rows = [("what is this?", [1]), ("tell me a story", []), ("which of these two is a cup?", [2, 3]), ("why?", [4])]
    return [
        Case(id=str(n), part="p", wanted="answer", prompt=text, images=tuple(make_image(seed) for seed in seeds))
        for n, (text, seeds) in enumerate(rows)
    ]
