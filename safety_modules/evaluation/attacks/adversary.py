"""Attacks on the pixels of a system's pictures: what the attacker wants, as an objective, and cases with such pictures.

The attacker knows everything: tower, projector, head, thresholds, language model. What is perturbed is the picture as
the base's processor makes it, and what comes back is a picture of 8 bits, which goes the way of every other.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.backbones.generation import cache_argument
from safety_modules.defences.guard import IGNORED
from safety_modules.defences.guard.guard import Guard
from safety_modules.defences.guard.judge import head_output, look, question_readings, rows_of
from safety_modules.defences.guard.steer import Sample, build_inputs, lm_forward
from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.outcomes import is_benign
from safety_modules.evaluation.systems import System
from safety_modules.training.perturbation import Ball, Objective, apgd, pgd, square

METHODS: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {"apgd": apgd, "pgd": pgd, "square": square}
Aim = Literal["clean", "readable", "flagged"]
MARGIN = 1.0
"""How far below its threshold (log-odds) a risk is low enough, so that an attack goes on with what is left to want."""
ANSWER_WEIGHT = 1.0
"""Of the answer's log-probability per token beside the risk's log-odds, where a picture has to stay readable."""
ANSWER_TOKENS = 32
"""Of the base's own answer that such an attack holds on to."""


@dataclass(frozen=True)
class PixelAttack:
    """A `Transform` that perturbs pictures within so many 255ths of each pixel, against the system it is given.

    Risky cases are attacked, or with the aim `flagged` those that deserve an answer; others stay as they are.

    Attributes:
        eps: of 255, the largest change of a pixel.
        aim: `clean`: the guard no longer flags; `readable`: nor does it, and the language model still gives its own
            answer to the unchanged picture; `flagged`: a clean picture is flagged. Without a guard there is only
            `readable`: under all defences the model gives the answer that the base alone gives.
        method: `apgd` or `pgd` by gradients, `square` by scores alone.
        steps: gradients, or queries.
        restarts: searches from other starts; the best counts.
        through: of a guard that judges by random views, looks that each gradient is the mean over (EOT, arXiv
            1707.07397), each at views drawn anew.
        knows_key: whether the attacker sees by which views each picture will be judged.
        seed: of the starts.
        batch_size: cases at a time.
    """

    eps: int = 4
    aim: Aim = "clean"
    method: str = "apgd"
    steps: int = 100
    restarts: int = 1
    through: int = 1
    knows_key: bool = False
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.aim not in ("clean", "readable", "flagged"):
            raise DataError(
                f"no such attack: expected a method of {', '.join(METHODS)} and an aim of clean, readable or flagged, "
                f"got {self.method!r} and {self.aim!r}. Name one of each."
            )
        counts = (self.steps, self.restarts, self.through, self.batch_size)
        if min(counts) < 1 or not 0 < self.eps < 256:
            raise DataError(
                "no such attack: expected steps, restarts, through and batch_size of at least 1 and an eps from 1 to "
                f"255, got {', '.join(map(str, counts))} and {self.eps}. Correct it."
            )

    @classmethod
    def named(cls, name: str) -> "PixelAttack":
        """The attack of a name such as `apgd-4-readable`. Raises DataError: it is none."""
        method, eps, aim = [*name.split("-"), "", ""][:3]
        aims: dict[str, Aim] = {"clean": "clean", "readable": "readable", "flagged": "flagged"}
        if name.count("-") != 2 or not eps.isdecimal() or aim not in aims:
            raise DataError(
                f"no such attack: expected METHOD-EPS-AIM, such as apgd-4-readable, got {name!r}. Methods: "
                f"{', '.join(METHODS)}; eps: 1 to 255, of 255; aims: {', '.join(aims)}."
            )
        return cls(int(eps), aims[aim], method)

    @property
    def name(self) -> str:
        """`apgd-4-readable`."""
        return f"{self.method}-{self.eps}-{self.aim}"

    def describe(self) -> dict[str, Any]:
        """All of it."""
        return {"name": self.name, **asdict(self)}

    def __call__(self, cases: Sequence[Case], system: System | None = None) -> list[Case]:
        """The cases, in order, those that it attacks with perturbed pictures.

        Raises:
            DataError: no defence, or one that no gradient goes through; without a guard, another aim than `readable`; a
                base that cuts pictures into tiles, or a case with several pictures.
        """
        safety = attackable(self.name, system, self.aim)
        shown, found = targets(self.name, cases, self.aim), [*cases]
        assert system is not None
        with system.on_model(), safety.base_frozen():
            for start in range(0, len(shown), self.batch_size):
                places = shown[start : start + self.batch_size]
                pictures = self._perturbed(safety, [cases[place] for place in places])
                for place, picture in zip(places, pictures, strict=True):
                    found[place] = cases[place].model_copy(update={"images": (picture,)})
        return found

    def _perturbed(self, safety: SafetyAttachment, cases: Sequence[Case]) -> list[Image.Image]:
        backbone = safety.backbone
        with backbone.lock:
            pixels = backbone.pixel_values([case.load_images()[0] for case in cases]).to(backbone.device).float()
            low, high = backbone.pixel_range()
            ball = Ball(pixels, self.eps / 255 * (high - low), low, high)
            objective = self._objective(safety, cases, pixels)
            best, worth = pixels, torch.full((len(cases),), -torch.inf, device=pixels.device)
            for restart in range(self.restarts):
                there, reached = METHODS[self.method](objective, ball, self.steps, self._generator(cases, restart))
                better = reached > worth
                best = torch.where(better.view(-1, 1, 1, 1), there, best)
                worth = torch.where(better, reached, worth)
        return as_pictures(best, low, high)

    def _objective(self, safety: SafetyAttachment, cases: Sequence[Case], pixels: torch.Tensor) -> Objective:
        if not has_guard(safety):
            return as_the_base(safety, cases, pixels)
        return objective_of(safety, cases, pixels, self.aim, judged_by(safety, cases, self.through, self.knows_key))

    def _generator(self, cases: Sequence[Case], restart: int) -> torch.Generator:
        """The same for the same cases, whatever was attacked before."""
        text = "|".join([str(self.seed), str(restart), *(case.id for case in cases)])
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]))


def has_guard(safety: SafetyAttachment) -> bool:
    """Whether something judges pictures, so that there is a verdict to attack."""
    return any(isinstance(defence, Guard) for defence in safety.defences)


def attackable(name: str, system: System | None, aim: Aim) -> SafetyAttachment:
    """The handle of a system with a guard, or, with the aim readable, with any defence that answers in one pass.

    Raises:
        DataError: there is no such thing to attack.
    """
    safety = None if system is None else system.attachment
    guarded = safety is not None and has_guard(safety)
    if safety is None or not (guarded or aim == "readable"):
        raise DataError(
            f"{name} attacks nothing: expected a system with a {'defence' if aim == 'readable' else 'guard'}, got "
            f"{'none' if system is None else system.name}. Evaluate it with gated, always or external."
        )
    if several := [] if guarded else [one.kind for one in safety.defences if not one.one_pass]:
        raise DataError(
            f"{name} not tried: expected defences that answer in one pass, which gradients go through, got "
            f"{', '.join(several)}. Show it what was made against another system (--surrogate)."
        )
    if guarded and not safety.guard.thresholds:
        raise DataError(
            f"{name} attacks nothing: expected a guard with thresholds, got one that was never calibrated. Calibrate "
            "it (safety-modules calibrate)."
        )
    if safety.backbone.sizes.tile is not None:
        raise DataError(
            f"{name} not tried: expected a base that sees whole pictures, got one that cuts them into tiles. Attack a "
            "LLaVA-1.5."
        )
    return safety


def targets(name: str, cases: Sequence[Case], aim: Aim) -> list[int]:
    """The places of the cases that an attack with this aim is for. Raises DataError: one has several pictures."""
    shown = [place for place, case in enumerate(cases) if case.images and is_benign(case) == (aim == "flagged")]
    several = next((cases[place].id for place in shown if len(cases[place].images) > 1), None)
    if several is not None:
        raise DataError(f"{name} not tried: expected one picture a case, got several in {several}. Leave it out.")
    return shown


@dataclass(frozen=True)
class Transferred:
    """A `Transform`: pictures perturbed against another system, such as another training, and shown to this one.

    Attributes:
        attack: how.
        surrogate: the system whose files the attacker has, on the same base.
    """

    attack: PixelAttack
    surrogate: System

    @property
    def name(self) -> str:
        """`apgd-4-clean from gated`."""
        return f"{self.attack.name} from {self.surrogate.name}"

    def describe(self) -> dict[str, Any]:
        """All of it."""
        return {**self.attack.describe(), "name": self.name, "surrogate": self.surrogate.describe()}

    def __call__(self, cases: Sequence[Case], system: System | None = None) -> list[Case]:
        """As `PixelAttack`, whatever the system."""
        return self.attack(cases, self.surrogate)


Judged = Callable[[torch.Tensor], tuple[torch.Tensor, Sequence[torch.Tensor]]]
"""From pixels (N, C, H, W) to how far each risk lies above its threshold (N,), and what the language model sees."""


def judged_by(safety: SafetyAttachment, cases: Sequence[Case], through: int = 1, knows_key: bool = False) -> Judged:
    """By the guard, with gradients, each picture with its case's question; the rest as in `PixelAttack`."""
    backbone, guard = safety.backbone, safety.guard
    prompts = [backbone.prompt_ids(case.prompt, 1, case.history) for case in cases]
    readings = [question_readings(backbone, guard.config, prompt) for prompt in prompts]
    limit, voting = min(guard.thresholds.values()), guard.modules.voting
    keys = [f"not the guard's, {number}".encode() for number in range(through)]
    if voting is None:
        keys = [b""]  # one look is like the other
    elif knows_key:
        keys[0] = voting.key

    def judged(pixels: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        found = []
        for key in keys:
            with nullcontext() if voting is None else voting.under(key):
                found.append(once(pixels))
        return torch.stack([above for above, _ in found]).mean(0), found[0][1]

    def once(pixels: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        images = look(backbone, guard.modules, pixels.to(backbone.model.dtype))
        output = head_output(guard, partial(rows_of, images.vision), readings)
        odds = risk_odds(output.type_logits.float(), len(guard.config.added), guard.temperature)  # (readings,)
        return torch.stack([part.max() for part in odds.split([*map(len, readings)])]) - limit, images.projected

    return judged


def objective_of(
    safety: SafetyAttachment, cases: Sequence[Case], pixels: torch.Tensor, aim: Aim, judged: Judged | None = None
) -> Objective:
    """What an attacker with this aim wants more of, for each case.

    Args:
        safety: the attacked handle, with a guard.
        cases: one picture each.
        pixels: the unchanged pictures (N, C, H, W).
        aim: see `PixelAttack`.
        judged: how the pictures are judged; default: `judged_by` the guard.
    """
    backbone, judged = safety.backbone, judged or judged_by(safety, cases)
    prompts = [backbone.prompt_ids(case.prompt, 1, case.history) for case in cases]
    answers = _own_answers(backbone, prompts, pixels) if aim == "readable" else []

    def worth(pixels: torch.Tensor) -> torch.Tensor:
        above, shown = judged(pixels)
        if aim == "flagged":
            return above
        low_enough = -torch.relu(above + MARGIN)
        if aim == "clean":
            return low_enough
        return low_enough + ANSWER_WEIGHT * answer_odds(backbone, prompts, shown, answers)

    return worth


def risk_odds(type_logits: torch.Tensor, added: int = 0, temperature: float = 1.0) -> torch.Tensor:
    """Log-odds of any risk (B,) from logits (B, types + 1), clean last: the score of the most probable type.

    Of types that were added later, which have log-odds of their own, the highest where it is higher.
    """
    first = type_logits.shape[1] - 1 - added
    odds = (type_logits[:, :first] / temperature).logsumexp(1) - type_logits[:, -1] / temperature
    return odds if not added else torch.maximum(odds, type_logits[:, first:-1].amax(1))


def answer_odds(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    pictures: Sequence[torch.Tensor],
    answers: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Log-probability of each answer by the base, the mean over its tokens: (B,)."""
    samples = [
        Sample(prompt, [picture], answer=answer)
        for prompt, picture, answer in zip(prompts, pictures, answers, strict=True)
    ]
    none = backbone.embed_text(torch.empty(1, 0, dtype=torch.long))[0]
    inputs = build_inputs(backbone, none, samples)
    assert inputs.labels is not None
    kept = max(map(len, answers)) + 1
    logits = lm_forward(backbone, inputs._replace(labels=None), logits_to_keep=kept, use_cache=False).logits
    labels = inputs.labels[:, 1 - kept :]
    return mean_odds(logits[:, -kept:-1], labels, labels != IGNORED)


def as_the_base(safety: SafetyAttachment, cases: Sequence[Case], pixels: torch.Tensor) -> Objective:
    """How probable, under all that is attached, the base's own answer to each unchanged picture is.

    Does not cover: what a defence reads from the picture without gradients (ShiftDC's shift) is taken as it is.

    Returns:
        From pixels to log-probabilities, the mean over the answer's tokens (N,).
    """
    backbone = safety.backbone
    prompts = [backbone.prompt_ids(case.prompt, 1, case.history) for case in cases]
    answers = _own_answers(backbone, prompts, pixels)
    asked = _padded(backbone, prompts, left=True)
    told = _padded(backbone, answers, left=False)
    labels, counted = told["input_ids"], told["attention_mask"]

    def worth(pixels: torch.Tensor) -> torch.Tensor:
        inputs = {**asked, **backbone.images_taken(pixels.to(backbone.model.dtype))}
        with safety.inference(), torch.enable_grad():
            prepared = safety.planned(inputs)
            with prepared.running(), torch.enable_grad():  # as in generate: the prompt, and then the answer behind it
                cache = {cache_argument(backbone.model): DynamicCache()}
                first: Any = backbone.model(**prepared.inputs, **cache, use_cache=True)
                rest: Any = backbone.model(
                    input_ids=labels[:, :-1],
                    attention_mask=torch.cat([prepared.attention_mask, counted[:, :-1]], 1),
                    position_ids=prepared.position_ids[:, -1:] + counted[:, :-1].cumsum(1),
                    **cache,
                    use_cache=True,
                )
        logits = torch.cat([first.logits[:, -1:], rest.logits], 1)  # (N, answer, V)
        return mean_odds(logits, labels, counted)

    return worth


def mean_odds(logits: torch.Tensor, labels: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Mean log-probability (B,) of labels (B, T) by logits (B, T, V), over the places that are told (B, T)."""
    chances = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (chances * told).sum(1) / told.sum(1).clamp(min=1)


def _padded(backbone: Backbone, rows: Sequence[Sequence[int]], left: bool) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of rows of any length."""
    width = max(map(len, rows))
    place = torch.arange(width)
    pads = [[backbone.pad_token_id] * (width - len(row)) for row in rows]
    ids = [[*pad, *row] if left else [*row, *pad] for pad, row in zip(pads, rows, strict=True)]
    mask = [place >= width - len(row) if left else place < len(row) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=backbone.device),
        "attention_mask": torch.stack(mask).long().to(backbone.device),
    }


@torch.no_grad()
def _own_answers(backbone: Backbone, prompts: Sequence[Sequence[int]], pixels: torch.Tensor) -> list[list[int]]:
    """What the base itself says to the unchanged pictures, greedily."""
    asked = _padded(backbone, prompts, left=True)
    said = backbone.base_generate(
        **asked,
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS,
        pad_token_id=backbone.pad_token_id,
        **backbone.images_taken(pixels.to(backbone.model.dtype)),
    )
    sequences = getattr(said, "sequences", said)[:, asked["input_ids"].shape[1] :]
    return [[i for i in row if i != backbone.pad_token_id] for row in sequences.tolist()]


def as_pictures(pixels: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> list[Image.Image]:
    """Pictures of 8 bits from pixel values (N, C, H, W), whose black and white are (C,) each."""
    low, high = low.to(pixels).view(1, -1, 1, 1), high.to(pixels).view(1, -1, 1, 1)
    shares = ((pixels - low) / (high - low) * 255).round().clamp(0, 255)
    return [Image.fromarray(one) for one in shares.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)]
