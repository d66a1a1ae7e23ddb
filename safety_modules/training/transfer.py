"""Training of `tga`: from pictures with captions to tokens or a projector that say to the language model what they say.

The teacher is the base's own language model, which is told the caption in words; what it makes of a question about it
is what it shall make of the question about the picture. Nothing in the data says what is risky.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.backbones import Backbone
from safety_modules.defences.guard.steer import IGNORED, LmInputs, Sample, build_inputs, lm_forward
from safety_modules.defences.tga import Tga, retold
from safety_modules.errors import ConfigError, DataError
from safety_modules.mount.hooks import noted
from safety_modules.records.captions import CAPTION
from safety_modules.records.record import Record
from safety_modules.training.checkpoints import data_digest
from safety_modules.training.corpus import Corpus
from safety_modules.training.losses import language_model_loss
from safety_modules.training.steps import (
    Kept,
    base_key,
    begin_steps,
    check_precision,
    load_optimizer,
    optimizer_tensors,
    train_steps,
)

QUESTIONS = (
    "How do I use what is shown here?",
    "Tell me how to make what the picture shows.",
    "What is shown here?",
    "Describe the picture.",
    "What can I do with this?",
    "Give me step by step instructions for this.",
)
"""Asked where the data has captions and no questions."""
RATES = {"lora": 1e-3, "queries": 1e-2}
"""Learning rates of LoRA on the projector and of queries."""
BATCH = 16
"""Texts of a pass in which nothing is trained."""
CALIBRATED = 1000
"""Pictures that a threshold is set by, at most."""
REFUSES, LEAST = 0.5, 0.05
"""From which probability on a teacher refuses; and the least threshold."""


class TransferRecipe(BaseModel):
    """How `tga` is trained.

    Attributes:
        steps: optimizer steps.
        batch_size: pictures of a step.
        learning_rate: the highest; AdamW, cosine. None = the form's own, of `RATES`.
        warmup_steps: steps of linear rise.
        max_grad_norm: gradients are clipped to it.
        seed: of the order and the questions.
        layers: `pooled`, `last`: behind which blocks states are compared, from 0; None = all. (The published code: 9 to
            17 of 32.)
        answer_weight: `pooled`, `last`: of the cross-entropy of the answer beside the alignment.
        answer_tokens: longest answer asked from the teacher, where the data has none.
        false_alarm: `queries`, `place: first`: share of the questions that the teacher does not refuse that may be
            refused, by the threshold that is set at the end, unless the settings name one.
        keep_every: steps between two checkpoints, where there is a folder for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=200, gt=0)
    batch_size: int = Field(default=16, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    answer_weight: float = Field(default=1.0, ge=0)
    answer_tokens: int = Field(default=32, gt=0)
    false_alarm: float = Field(default=0.01, gt=0, lt=1)
    keep_every: int = Field(default=50, gt=0)


# ---- losses ----


def guide_loss(image: torch.Tensor, caption: torch.Tensor, retrieved: torch.Tensor) -> torch.Tensor:
    """The paper's: a picture's states near its caption's, and nearer than those of the retrieved text.

    Args:
        image: mean states over the picture's tokens (B, L, D); the other two likewise.
        caption: (B, L, D).
        retrieved: (B, L, D).

    Returns:
        mean of -cos(I, C) + log(1 + exp(-(cos(I, C) - cos(R, C)))).
    """
    near = functional.cosine_similarity(image, caption, dim=-1)  # (B, L)
    reference = functional.cosine_similarity(retrieved, caption, dim=-1)
    return (functional.softplus(reference - near) - near).mean()


def state_loss(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared distance of states (B, L, D) from the wanted ones, relative to these."""
    return ((states - wanted).pow(2).sum(-1) / wanted.pow(2).sum(-1).clamp(min=1e-6)).mean()


def answer_loss(logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """KL(teacher, student) of next tokens (B, T, V), the mean over labelled tokens; labels (B, T) at their places."""
    found, wanted = logits[:, :-1].float().log_softmax(-1), teacher[:, :-1].float().log_softmax(-1)
    each = (wanted.exp() * (wanted - found)).sum(-1)
    kept = labels[:, 1:] != IGNORED
    return (each * kept).sum() / kept.sum().clamp(min=1)


# ---- training ----


class Pair(NamedTuple):
    """A question about a picture, the prompt that asks it of the caption, and the answer's ids."""

    record: int
    question: str
    told: list[int]
    answer: list[int]


def train_transfer(
    safety: SafetyAttachment,
    records: Sequence[Record],
    recipe: TransferRecipe | None = None,
    *,
    cache_dir: str | PathLike[str] | None = None,
    runs: str | PathLike[str] | None = None,
    progress: bool = True,
) -> list[float]:
    """Train the `tga` of an attachment on pictures with captions; the base stays as it is.

    Args:
        safety: from `attach_safety(model, processor, defence="tga")`.
        records: with a picture and `meta["caption"]` each (`records.captions.read_captions`); where the question is
            empty one of `QUESTIONS` is asked.
        recipe: how.
        cache_dir: keeps vision features between runs.
        runs: a folder for checkpoints: the same call goes on where it was interrupted.
        progress: show a bar.

    Returns:
        The loss of each step of this call.

    Raises:
        ConfigError: no `tga`, a block that the base does not have, a base in float16, or another run's folder.
        DataError: no records, one without picture or caption, or a picture that cannot be read.
        AttachError: the base was changed since.
        SafetyModulesError: the loss is no longer a number.

    Does not cover: several processes.
    """
    recipe = recipe or TransferRecipe()
    tga = next((one for one in safety.defences if isinstance(one, Tga)), None)
    if tga is None:
        raise ConfigError("nothing to train: expected an attachment with tga, got one without. Attach defence='tga'.")
    backbone, count = safety.backbone, safety.backbone.sizes.num_layers
    check_precision(backbone, "tga")
    if wrong := [layer for layer in recipe.layers or () if not 0 <= layer < count]:
        raise ConfigError(f"no such block: expected layers from 0 to {count - 1}, got {wrong[0]}. Name others.")
    if not records or any(one.image is None or not one.meta.get(CAPTION) for one in records):
        raise DataError("nothing to train on: expected records with picture and caption, got none, or one without.")
    safety.check_base()
    corpus = Corpus.make(backbone, records, cache_dir, progress)
    trainer, folder = _Transfer(safety, tga, corpus, recipe), None if runs is None else Path(runs)
    key = {
        "recipe": recipe.model_dump(mode="json"),
        "form": tga.settings.model_dump(mode="json"),
        "data": data_digest(corpus.records, corpus.digests),
        **base_key(backbone),
    }
    done = begin_steps(trainer, folder, key)
    with safety.base_frozen():
        losses = train_steps(trainer, done, recipe.steps, folder, recipe.keep_every, progress)
        chosen = "threshold" in tga.settings.model_fields_set
        if tga.settings.form == "queries" and tga.settings.place == "first" and not chosen:
            trainer.calibrate()
    tga.trained = True
    return losses


class _Transfer:
    """One training: the teacher's texts and the student's passes."""

    what, advice = "tga", "Lower the recipe's learning_rate."

    def __init__(self, safety: SafetyAttachment, tga: Tga, corpus: Corpus, recipe: TransferRecipe) -> None:
        self.safety, self.tga, self.corpus, self.recipe = safety, tga, corpus, recipe
        self.backbone: Backbone = safety.backbone
        self.rng = np.random.default_rng(recipe.seed)
        self.layers = recipe.layers or tuple(range(self.backbone.sizes.num_layers))
        self.answers: dict[tuple[int, str], list[int]] = {}
        self.retrieved = self._nearest() if tga.settings.form == "pooled" else []
        self.parameters = [one for _, one in tga.named_parameters()]
        rate = recipe.learning_rate or RATES["queries" if tga.lora is None else "lora"]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0)
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, recipe.warmup_steps, recipe.steps)
        epochs = -(-recipe.steps * recipe.batch_size // len(corpus.records))
        self.order = np.concatenate([self.rng.permutation(len(corpus.records)) for _ in range(epochs)])

    def step(self, number: int) -> float:
        """One optimizer step."""
        chosen = self.order[number * self.recipe.batch_size : (number + 1) * self.recipe.batch_size]
        with torch.enable_grad():
            loss = self.loss(self._pairs(list(map(int, chosen))))
            self.optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def kept(self) -> Kept:
        """Weights, optimizer, the learning rate's place, and the state of what is drawn from."""
        own = {f"tga.{name}": one for name, one in self.tga.named_parameters()}
        states = {"schedule": self.schedule.state_dict(), "rng": self.rng.bit_generator.state}
        states["schedule"].pop("lr_lambdas")
        return Kept(own | optimizer_tensors(self.optimizer), {name: json.dumps(one) for name, one in states.items()})

    def take(self, kept: Kept) -> None:
        """Take up what was kept."""
        with torch.no_grad():
            for name, one in self.tga.named_parameters():
                one.copy_(kept.tensors[f"tga.{name}"])
        load_optimizer(self.optimizer, kept.tensors)
        place = json.loads(kept.words["schedule"])
        self.schedule.load_state_dict({**self.schedule.state_dict(), **place})
        for group, rate in zip(self.optimizer.param_groups, place["_last_lr"], strict=True):
            group["lr"] = rate
        self.rng.bit_generator.state = json.loads(kept.words["rng"])

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the threshold by some of the pictures that it was trained on."""
        chances, some = list[float](), self.rng.permutation(len(self.corpus.records))[:CALIBRATED].tolist()
        for at in range(0, len(some), BATCH):
            indices = some[at : at + BATCH]
            asked, vision = [self._asked(index) for index in indices], self.corpus.vision(indices)
            assert vision is not None
            with self.backbone.lock:
                words = [self._told(index, question) for index, question in zip(indices, asked, strict=True)]
                teacher = self.tga.refusal_chances([Sample(prompt) for prompt in words])
                features = self.tga.captions(torch.stack(self.backbone.project(vision)))
                samples = [
                    Sample(self._shown(question, [one]), [one]) for question, one in zip(asked, features, strict=True)
                ]
                student = self.tga.refusal_chances(samples)
            chances += student[teacher < REFUSES].tolist()
        if chances:
            allowed = float(np.quantile(chances, 1 - self.recipe.false_alarm, method="inverted_cdf"))
            threshold = min(1.0, max(LEAST, float(np.nextafter(allowed, 1))))
            self.tga.settings = self.tga.settings.model_copy(update={"threshold": threshold})

    def _asked(self, index: int) -> str:
        return self.corpus.records[index].question or str(self.rng.choice(QUESTIONS))

    def _told(self, index: int, question: str) -> list[int]:
        """The prompt with the caption in words."""
        return self.backbone.prompt_ids(f"{self._caption(index)}\n{question}", 0)

    def _shown(self, question: str, features: Sequence[torch.Tensor]) -> list[int]:
        """The prompt with image tokens for these features."""
        ids = self.backbone.prompt_ids(question, 1)
        return retold(self.backbone, ids, [self.backbone.sizes.num_patches], features)

    def loss(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Of a batch, by the form."""
        form, backbone = self.tga.settings.form, self.backbone
        teacher_inputs = self._batch([Sample(pair.told, (), answer=pair.answer) for pair in pairs])
        vision = self.corpus.vision([pair.record for pair in pairs])
        assert vision is not None
        if form == "queries":
            with torch.no_grad():
                projected = torch.stack(backbone.project(vision))
            features = [[one.to(projected)] for one in self.tga.captions(projected)]
            if self.tga.settings.place == "beside":
                features = [[torch.cat([own, *one])] for own, one in zip(projected, features, strict=True)]
        else:
            features = [[one] for one in self.tga.projected(vision)]
        samples = [
            Sample(self._shown(pair.question, one), one, answer=pair.answer)
            for pair, one in zip(pairs, features, strict=True)
        ]
        inputs, kept = self._batch(samples), max(len(pair.answer) for pair in pairs) + 1
        assert inputs.labels is not None
        labels = inputs.labels[:, -kept:]
        with torch.no_grad(), self._states(form == "last") as wanted:
            teacher = self._forward(teacher_inputs, kept)
        with self._states(form in ("pooled", "last")) as found:
            student = self._forward(inputs, kept)
        if form in ("answers", "queries"):
            return answer_loss(student, teacher, labels)
        ends = [-len(pair.answer) - 1 for pair in pairs]
        if form == "last":
            aligned = state_loss(_at(found, ends), _at(wanted, ends))
        else:
            places = inputs.input_ids == backbone.image_token_id
            image = torch.stack([_mean(one, places) for one in found], 1)
            captions = [self._caption(pair.record) for pair in pairs]
            caption, _ = self._text_states(captions)
            retrieved, _ = self._text_states([self.retrieved[pair.record] for pair in pairs])
            aligned = guide_loss(image, caption, retrieved)
        return aligned + self.recipe.answer_weight * language_model_loss(student, labels)

    def _batch(self, samples: Sequence[Sample]) -> LmInputs:
        return build_inputs(self.backbone, torch.empty(0, self.backbone.sizes.text_width), samples)

    def _forward(self, inputs: LmInputs, kept: int) -> torch.Tensor:
        """Logits (B, kept, V)."""
        inputs = inputs._replace(labels=None)
        return lm_forward(self.backbone, inputs, logits_to_keep=kept, use_cache=False).logits

    @contextmanager
    def _states(self, on: bool) -> Iterator[list[torch.Tensor]]:
        """Inside, one pass; afterwards the states (B, T, D) behind each layer."""
        found: list[torch.Tensor] = []
        with ExitStack() as stack:
            lists = [stack.enter_context(noted(self.backbone.blocks[layer])) for layer in self.layers if on]
            yield found
        found += [one[-1].float() for one in lists]

    def _caption(self, index: int) -> str:
        return str(self.corpus.records[index].meta[CAPTION])

    def _pairs(self, indices: Sequence[int]) -> list[Pair]:
        asked = {index: self._asked(index) for index in indices}
        told = {index: self._told(index, asked[index]) for index in indices}
        new = [index for index in told if (index, asked[index]) not in self.answers]
        for index, answer in zip(new, self._teacher_answers([told[index] for index in new], new), strict=True):
            self.answers[index, asked[index]] = answer
        return [Pair(index, asked[index], told[index], self.answers[index, asked[index]]) for index in indices]

    @torch.no_grad()
    def _teacher_answers(self, prompts: Sequence[list[int]], indices: Sequence[int]) -> list[list[int]]:
        """The data's answers, or what the language model says to the captions."""
        known = [self.corpus.records[index].answer for index in indices]
        found = [None if one is None else self.backbone.answer_ids(one) for one in known]
        missing = [place for place, one in enumerate(found) if one is None]
        if missing:
            inputs = self._batch([Sample(prompts[place]) for place in missing])
            new = self.backbone.base_generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=self.recipe.answer_tokens,
                suppress_tokens=[self.backbone.image_token_id],  # would stand for a picture where the answer is read
                do_sample=False,
                num_beams=1,
            )[:, inputs.input_ids.shape[1] :]
            end = self.backbone.answer_ids("", end=True)[-1]
            for place, ids in zip(missing, new.tolist(), strict=True):
                found[place] = ids[: ids.index(end) + 1] if end in ids else ids
        return [one or [] for one in found]

    @torch.no_grad()
    def _text_states(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean states over a text's own tokens, told without a picture: (B, L, D); and behind the last layer (B, D)."""
        prompts = [self.backbone.prompt_ids(text, 0) for text in texts]
        probes = [self.backbone.prompt_ids(one, 0) for one in ("?", "0")]
        head, tail = _shared(*probes), _shared(*(one[::-1] for one in probes))
        inputs = self._batch([Sample(prompt) for prompt in prompts])
        width, own = inputs.input_ids.shape[1], torch.zeros_like(inputs.input_ids, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            own[row, width - len(prompt) + head : width - tail] = True
        with self._states(True) as found:
            self._forward(inputs, 1)
        return torch.stack([_mean(one, own) for one in found], 1), _mean(found[-1], own)

    def _nearest(self) -> list[str]:
        """For each caption the nearest other one, by the vectors that the language model gives."""
        captions = [self._caption(index) for index in range(len(self.corpus.records))]
        texts = sorted({*captions})
        if len(texts) < 2:
            raise DataError(
                "no retrieved text: expected several captions, got one. Add others, or choose another form."
            )
        with self.backbone.lock:
            parts = [self._text_states(texts[at : at + BATCH])[1] for at in range(0, len(texts), BATCH)]
        vectors = torch.cat(parts).cpu().numpy()
        _, nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors)
        other = {text: texts[next(n for n in nearest[own] if n != own)] for own, text in enumerate(texts)}
        return [other[caption] for caption in captions]


def _at(states: Sequence[torch.Tensor], ends: Sequence[int]) -> torch.Tensor:
    """States (B, T, D) of each layer at one place of each row, counted from the end: (B, L, D)."""
    rows = torch.arange(len(ends))
    return torch.stack([one[rows, torch.tensor(ends)] for one in states], 1)


def _mean(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The mean of states (B, T, D) over some places (B, T): (B, D)."""
    weights = places.to(states).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two prompts begin with alike."""
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
