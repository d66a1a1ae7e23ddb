"""Verdict: what the safety head and the policy say about one image; what users read and log."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from PIL import Image

from safety_modules.errors import SafetyModulesError
from safety_modules.pictures import open_picture

Action = Literal["allow", "log", "hint", "refuse"]
"""allow: the base's own answer. log: the same, but flagged. hint: guarded answer. refuse: a fixed answer."""
Fit = Literal["crop", "pad", "stretch"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""From the mildest to the strongest."""


@dataclass(frozen=True)
class Verdict:
    """One image, judged.

    Attributes:
        probabilities: every risk type and `clean`, in taxonomy order; sums to 1, but for types that were added after
            the first training: these have a probability of their own, against everything else.
        level_probabilities: every level, safe to high, given the type; sums to 1.
        type: the type of the rule that fired; where none fired, the most probable label, which may be a risk
            type (below its threshold, or switched off): ask `flagged` whether the policy acts.
        level: where a rule fired, the level the policy acts on (`Policy.level_threshold`), which may be above
            the most probable one; else the most probable level.
        risk: 1 - p(clean); of an added type that fired its probability, where that is more.
        flagged: whether a rule fired.
        rule: the rule that fired and what chose the level, readable ("illegal: score 5.93 >= 3.68 -> hint, level
            high: p=0.62 >= 0.50", the latter given that there is a risk), or None.
        action: what happens to the answer: the rule's action, or the policy's for a picture from outside of what was
            trained where that is stronger; else `allow`.
        scores: what rules compare with their thresholds, for each risk type, as log-odds (`scores.rule_scores`).
        limits: the thresholds, for each type that is not switched off. Not compared by ==.
        attention: where the head looked, (types, rows, columns) over the patches, or None. Not compared by
            ==.
        image_index: which image of its sample (or of the call to classify) this is, from 0.
        turn: of the user, counted from 1, that decides: with the first so many what was said is as risky as all of it.
            None without a question.
        frame: of an animation, the number of the frame this is about, from 0.
        frames_judged: how many frames were judged.
        frames: how many the picture has; 1 where it is no animation.
        fit: how the map lies on the picture, as in `overlay`.
        outside: how like those of the training the picture is, whatever is asked about it: of the training's pictures
            the share that lies as far from the others, or farther (a conformal p-value: of pictures of their kind at
            most 1 % get 0.01 or less). None = not known: the adapter has nothing fitted for it.
        is_outside: whether that is at most the policy's `outside_significance`. Then the rest of this verdict is a
            guess about something the head has seen nothing like: not to be trusted. Unsafe it is not for that.

    Does not cover: whether the answer will be harmful. It is a judgement of the image and the question, as
    good as the data the head was trained on.
    """

    probabilities: dict[str, float]
    level_probabilities: dict[str, float]
    type: str
    level: str
    risk: float
    flagged: bool
    rule: str | None
    action: Action
    scores: dict[str, float]
    limits: dict[str, float] = field(compare=False)
    attention: torch.Tensor | None = field(default=None, repr=False, compare=False)
    image_index: int = 0
    turn: int | None = None
    frame: int = 0
    frames_judged: int = 1
    frames: int = 1
    fit: Fit = "crop"
    outside: float | None = None
    is_outside: bool = False

    @property
    def severity(self) -> int:
        """What is done about it, as a number that grows with the action and then the level acted on; 0: nothing is."""
        levels = [*self.level_probabilities]
        level = levels.index(self.level) if self.flagged else 0
        return ACTIONS.index(self.action) * len(levels) + level

    @property
    def nearest(self) -> str | None:
        """The type that fired, or else the one nearest to its threshold; None where all are switched off."""
        if self.flagged:
            return self.type
        return max(self.limits, key=lambda name: self.scores[name] - self.limits[name], default=None)

    def __str__(self) -> str:
        where, nearest = f"image {self.image_index}", self.nearest
        if self.frames > 1:
            where += f", frame {self.frame + 1} of {self.frames} ({self.frames_judged} judged)"
        if self.is_outside:
            where += f", unlike what was trained (p = {self.outside:.3f})"
        if self.flagged:
            by = "" if self.turn is None else f", turn {self.turn}"
            return f"{where}: {self.type}, level {self.level}{by} [{self.rule}]"
        if nearest is None:
            return f"{where}: not flagged: every type is switched off"
        return (
            f"{where}: not flagged; nearest: {nearest}, score {self.scores[nearest]:.2f} < {self.limits[nearest]:.2f}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the attention map, as plain JSON types."""
        return {
            "image_index": self.image_index,
            "type": self.type,
            "level": self.level,
            "risk": self.risk,
            "flagged": self.flagged,
            "action": self.action,
            "rule": self.rule,
            "scores": dict(self.scores),
            "thresholds": dict(self.limits),
            "turn": self.turn,
            "frame": self.frame,
            "frames_judged": self.frames_judged,
            "frames": self.frames,
            "outside": self.outside,
            "is_outside": self.is_outside,
            "probabilities": dict(self.probabilities),
            "level_probabilities": dict(self.level_probabilities),
        }

    def heatmap(self, type: str | None = None) -> torch.Tensor:
        """The attention map of one risk type over the patches.

        Args:
            type: a risk type; default: the verdict's own, or the most probable risk type where that is
                `clean`.

        Returns:
            (rows, columns) on the CPU, each patch's share of the attention; sums to at most 1.

        Raises:
            SafetyModulesError: the verdict carries no map, or the type is not a risk type.
        """
        if self.attention is None:
            raise SafetyModulesError(
                "no heat map: expected a verdict with an attention map, got one without. "
                "Use a verdict that comes from classify or generate."
            )
        types = list(self.probabilities)[:-1]
        if type is None:
            type = self.type if self.type in types else max(types, key=lambda name: self.probabilities[name])
        if type not in types:
            raise SafetyModulesError(
                f"no heat map: expected one of {', '.join(types)}, got {type!r}. Name a risk type."
            )
        return self.attention[types.index(type)].detach().float().cpu()

    def overlay(self, image: Any, type: str | None = None, alpha: float = 0.6, fit: Fit | None = None) -> Image.Image:
        """The picture with the heat map over it.

        Args:
            image: the picture the verdict is about, or anything that `classify` takes for one.
            type: as in `heatmap`.
            alpha: opacity of the hottest patch, 0 to 1.
            fit: how the processor made the picture square: `crop` (the middle was cut out, LLaVA-1.5 in
                transformers), `pad` (it was padded, the original LLaVA), `stretch` (the map is of the whole picture,
                bases with tiles); None = as the verdict says.

        Returns:
            A new RGB picture of the same size.

        Raises:
            SafetyModulesError: as `heatmap`, or the picture is unreadable.

        Does not cover: an explanation of the verdict. Attention shows where the head looked, not why it
        decided.
        """
        heat = self.heatmap(type)
        picture = open_picture(image, frame=self.frame)
        # Min to max: an even map means "nowhere in particular" and stays invisible.
        spread = float(heat.max() - heat.min())
        heat = (heat - heat.min()) / spread if spread > 0 else torch.zeros_like(heat)
        small = Image.fromarray((heat * 255).round().to(torch.uint8).numpy())
        size = {"crop": min(picture.size), "pad": max(picture.size)}.get(fit or self.fit)
        side = picture.size if size is None else (size, size)
        corner = ((picture.width - side[0]) // 2, (picture.height - side[1]) // 2)
        mask = Image.new("L", picture.size, 0)
        mask.paste(small.resize(side, Image.Resampling.BICUBIC), corner)
        full, none = (Image.new("L", picture.size, value) for value in (255, 0))
        colour = Image.merge("RGB", (full, mask.point(_GLOW), none))
        return Image.composite(colour, picture, mask.point([round(alpha * v) for v in range(256)]))


# Red where warm, yellow where hot.
_GLOW = [max(0, 2 * v - 255) for v in range(256)]


def of_frames(verdicts: Sequence[Verdict], numbers: Sequence[int], total: int) -> Verdict:
    """The verdict on a picture of `total` frames: the riskiest of those on its judged frames, of these numbers."""
    driver = riskiest(verdicts)
    frame = next(number for verdict, number in zip(verdicts, numbers, strict=True) if verdict is driver)
    return replace(driver, frame=frame, frames_judged=len(verdicts), frames=total) if total > 1 else driver


def riskiest(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides: the riskiest of the most severe. In bulk, and why: `scores.most_severe`."""
    return max(verdicts, key=lambda verdict: (verdict.severity, verdict.risk))
