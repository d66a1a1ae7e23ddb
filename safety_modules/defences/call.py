"""One call of `generate` as defences see it: prompts and images, what is switched on, how the base answers it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from safety_modules.backbones import Backbone, ImageFeatures
from safety_modules.backbones.generation import (
    RowStreamer,
    answer_length,
    cache_length_restored,
    end_ids,
    images_of_rows,
    moved_lengths,
    new_token_budget,
    option,
    pad_id,
    rows_per_prompt,
    seen_through,
    with_prompts,
)
from safety_modules.defences.answer import Answer, Row, stitch
from safety_modules.errors import GuardError, PromptError

# A defence could not see, or not re-plan, images that come in by these.
_HIDDEN_IMAGES = (
    "inputs_embeds",
    "mm_encoder_outputs",
    "image_sizes",
    "batch_num_images",
    "pixel_values_videos",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
_PROMPTS = ("input_ids", "inputs", "attention_mask", "position_ids")
_UNMOVABLE = ("past_key_values", "cache", "custom_generate", "position_ids")  # one cache, renamed in transformers 5.24


class Mount(NamedTuple):
    """What stands on the model while a call runs: given one flag for each row the model is called with, how to mount it
    for these rows; and whether it acts on each row of the call: a flag, or a number from 1 on that tells it the row."""

    enter: Callable[[list[Any]], AbstractContextManager[Any]]
    rows: list[Any]


@dataclass(frozen=True)
class Call:
    """A batch of prompts to answer: the caller's whole call, some of its rows, or other prompts in their place.

    Attributes:
        backbone: the base.
        kwargs: the caller's arguments of `generate`, for the whole batch.
        ids: prompts (B, T), left-padded.
        mask: (B, T).
        pixels: as `Backbone.pixel_values` gives them, (N, C, H, W) as a rule; None without images.
        counts: images of each of the B rows; they sum to N.
        rows: which rows of the caller's batch these are.
        switches: per defence, whether it is on for each of the caller's rows.
        choices: what the caller asked of defences for this call, such as `policy`; a defence reads its own.
        records: per row of the caller's batch, what became known about it; shared by all calls made of this one.
        vision: the tower's features (N, P, Dv), where it ran already.
        projected: what the base's projector made of them, N tensors (P, D); somewhere in each of `features`.
        looking: how it ran, where that is not the base's own way.
        features: what the language model is to see as each image, N tensors (n_i, D); None = the base's own run.
        origin: these rows as the caller asked them, where the prompts are others: what judges look at.
        mounts: what stands on the model while the base answers, the outermost first.
    """

    backbone: Backbone
    kwargs: dict[str, Any]
    ids: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor | None
    counts: list[int]
    rows: list[int]
    switches: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    records: list[Row] = field(default_factory=list)
    vision: torch.Tensor | None = None
    projected: list[torch.Tensor] | None = None
    looking: Callable[[torch.Tensor], ImageFeatures] | None = None
    features: list[torch.Tensor] | None = None
    origin: "Call | None" = None
    mounts: tuple[Mount, ...] = ()

    @classmethod
    def read(
        cls,
        backbone: Backbone,
        kwargs: dict[str, Any],
        switches: Mapping[str, bool | Sequence[bool]],
        choices: Mapping[str, Any],
    ) -> "Call":
        """The caller's whole call.

        Raises:
            GuardError: images come in where no defence can judge them, or a switch does not fit the rows.
            PromptError: image tokens and images do not match.
        """
        own = backbone.image_arguments
        hidden = [name for name in _HIDDEN_IMAGES if kwargs.get(name) is not None and name not in own]
        if hidden:
            raise GuardError(
                f"call not guarded: expected input_ids and {' and '.join(own)}, got {', '.join(hidden)}, in which the "
                f"guard cannot judge images. Pass input_ids and {' and '.join(own)}, or safety=False."
            )
        pixels, ids = kwargs.get("pixel_values"), kwargs.get("input_ids")
        if ids is None:
            ids = kwargs.get("inputs")
        if ids is None and pixels is None:
            ids = torch.empty(1, 0, dtype=torch.long)  # generate then begins with the start token
        if ids is None:
            raise GuardError("call not guarded: expected input_ids, got none. Pass all the processor gave.")
        for name, value, axes in (("input_ids", ids, 2), ("pixel_values", pixels, None)):
            if value is not None and not (isinstance(value, torch.Tensor) and axes in (None, value.ndim)):
                raise GuardError(
                    f"call not guarded: expected {name} as a tensor{' (B, T)' if axes else ''}, got {_form(value)}. "
                    'Pass what the processor gave, by name: generate(**processor(..., return_tensors="pt")).'
                )
        pixels = backbone.images_given(kwargs)
        counts, rows = _image_counts(backbone, ids, pixels), len(ids)
        mask = kwargs.get("attention_mask")
        if mask is None:  # as generate does: pads are masked, unless the pad id also ends sequences
            pad = pad_id(backbone.model, kwargs, backbone.pad_token_id)
            mask = torch.ones_like(ids) if pad in end_ids(backbone.model, kwargs) else (ids != pad).long()
        on = {name: _per_row(switch, rows) for name, switch in switches.items()}
        records = [Row() for _ in range(rows)]
        return cls(backbone, kwargs, ids, mask, pixels, counts, [*range(rows)], on, choices, records)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def whole(self) -> bool:
        """Whether this is the caller's own call, all rows and no other prompts."""
        return self.origin is None and len(self.rows) == len(self.records)

    def on(self, name: str) -> list[bool]:
        """Whether the defence of this name is on, row by row."""
        switches = self.switches[name]
        return [switches[row] for row in self.rows]

    def option(self, name: str, default: Any = None) -> Any:
        """A generation setting as transformers resolves it."""
        return option(self.backbone.model, self.kwargs, name, default)

    @property
    def answers_per_row(self) -> int:
        """`num_return_sequences`."""
        return int(self.option("num_return_sequences", 1))

    @property
    def pad_id(self) -> int:
        """The id generate pads with."""
        return pad_id(self.backbone.model, self.kwargs, self.backbone.pad_token_id)

    @property
    def new_token_budget(self) -> int | None:
        """How many new tokens the caller allows; None = no limit given."""
        width = self.caller_ids.shape[1]
        return new_token_budget(self.backbone.model, self.kwargs, width)

    @property
    def caller_ids(self) -> torch.Tensor:
        """The caller's prompts for these rows (B, T0)."""
        return self.ids if self.origin is None else self.origin.ids

    def prompt(self, row: int) -> list[int]:
        """Ids of a row without padding."""
        return self.ids[row][self.mask[row].bool()].tolist()

    def question(self, row: int, text: str, images: bool = True) -> list[int]:
        """Ids of a prompt with this text about a row's images, with image tokens for the features these have here."""
        lengths = [len(one) for one in self.features_of(row)] if images and self.features is not None else None
        return self.backbone.prompt_ids(text, self.counts[row] if images else 0, lengths=lengths)

    def images_of(self, rows: Sequence[int]) -> list[int]:
        """Indices of the images of these rows."""
        ends = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        return [image for row in rows for image in range(ends[row], ends[row + 1])]

    def features_of(self, row: int) -> list[torch.Tensor]:
        """Features of the images of a row, of an encoded call."""
        return [self.features[image] for image in self.images_of([row])] if self.features is not None else []

    def encoded(self, looking: Callable[[torch.Tensor], ImageFeatures] | None = None) -> "Call":
        """With the features of all its images; the vision tower runs (`looking`: in that way), unless it did."""
        if self.pixels is None or (self.features is not None and looking in (None, self.looking)):
            return self
        for row, count in zip(self.rows, self.counts, strict=True):
            self.records[row].usage.tower_runs += count
        images = (looking or self.backbone.encode_images)(self.pixels)
        features = images.projected if self.features is None else self.features  # a defence may have added to them
        return replace(self, vision=images.vision, projected=images.projected, features=features, looking=looking)

    def shown(self, rows: Sequence[int], look: Callable[[torch.Tensor], ImageFeatures]) -> "Call":
        """With the images of these rows as one more run of the vision tower sees them.

        What defences further out put beside an image stays there. No run but this one, where it sees all images and
        none was seen before.

        Args:
            rows: which.
            look: from their pixels to as many features for each as the base's own run gives.
        """
        if not (images := self.images_of(rows)):
            return self
        assert self.pixels is not None
        for row in rows:
            self.records[self.rows[row]].usage.tower_runs += self.counts[row]
        seen = look(self.pixels[images])
        if self.features is None and len(images) == len(self.pixels):
            return replace(self, vision=seen.vision, projected=seen.projected, features=seen.projected)
        call = self.encoded()
        assert call.vision is not None and call.projected is not None and call.features is not None
        vision = call.vision[:, -seen.vision.shape[1] :].clone()  # without a class token, which stands first
        vision[images] = seen.vision.to(vision)
        projected, features = [*call.projected], [*call.features]
        for image, own in zip(images, seen.projected, strict=True):
            features[image] = in_place(features[image], projected[image], own)
            projected[image] = own
        return replace(call, vision=vision, projected=projected, features=features, looking=None)

    def take(self, rows: Sequence[int]) -> "Call":
        """Some of its rows, with their own padding."""
        if [*rows] == [*range(len(self))]:
            return self
        chosen, images = [*rows], self.images_of(rows)
        return replace(
            self,
            ids=self.ids[chosen],
            mask=self.mask[chosen],
            pixels=None if self.pixels is None or not images else self.pixels[images],
            counts=[self.counts[row] for row in chosen],
            rows=[self.rows[row] for row in chosen],
            vision=None if self.vision is None else self.vision[images],
            projected=None if self.projected is None else [self.projected[image] for image in images],
            features=None if self.features is None else [self.features[image] for image in images],
            origin=None if self.origin is None else self.origin.take(rows),
            mounts=tuple(Mount(enter, [flags[row] for row in chosen]) for enter, flags in self.mounts),
        )

    def mounting(
        self, enter: Callable[[list[Any]], AbstractContextManager[Any]], rows: Sequence[int] | None = None
    ) -> "Call":
        """The same call, with something on the model while it runs.

        Args:
            enter: how to mount it, given one flag for each row the model is called with.
            rows: whether it acts on each row of this call; None = on all. Instead of flags, numbers that tell `enter`
                which row is which, however the call is divided later; 0 = it does not act.
        """
        flags: list[Any] = [True] * len(self) if rows is None else [*rows]
        return replace(self, mounts=(*self.mounts, Mount(enter, flags)))

    def reworded(self, ids: torch.Tensor, mask: torch.Tensor, features: list[torch.Tensor] | None = None) -> "Call":
        """The same rows with other prompts (B, T'), left-padded, and features where theirs are others.

        The answers, and the caller's criteria, processors and streamers, still see the caller's prompts.
        """
        self.check_divisible()
        return replace(self, ids=ids, mask=mask, features=features or self.features, origin=self.origin or self)

    def asked(self, prompts: Sequence[Sequence[int]], images: bool = True) -> "Call":
        """As `reworded`, from ids without padding; with its images, or without any."""
        width = max(map(len, prompts))
        pads = [width - len(ids) for ids in prompts]
        padded = [[self.backbone.pad_token_id] * n + [*ids] for n, ids in zip(pads, prompts, strict=True)]
        mask = self.mask.new_tensor([[0] * n + [1] * (width - n) for n in pads])
        call = self.reworded(self.ids.new_tensor(padded), mask)
        none: dict[str, Any] = dict.fromkeys(("pixels", "vision", "projected", "features"))
        return call if images else replace(call, counts=[0] * len(self), **none)

    def aside(self, new_tokens: int | None) -> "Call":
        """The same prompts, to be answered for a defence alone: greedily, and none of the caller's callbacks sees it.

        Args:
            new_tokens: at most; None = as many as the base's own settings allow.
        """
        own: dict[str, Any] = {name: self.kwargs[name] for name in ("pad_token_id",) if name in self.kwargs}
        own |= {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        own |= {} if new_tokens is None else {"max_new_tokens": new_tokens}
        return replace(self, kwargs=own, origin=self.origin or self)

    def check_divisible(self, parts: int = 1) -> None:
        """Refuse options that rows cannot have once they are answered in several ways, or from other prompts.

        Raises:
            GuardError: naming them.
        """
        given = {name: value for name, value in self.kwargs.items() if value is not None}
        problems: list[str] = [name for name in _UNMOVABLE if name in given]
        problems += [name for name in ("output_attentions", "output_hidden_states") if self.option(name, False)]
        problems += [
            name
            for name, value in self.kwargs.items()
            if name not in (*_PROMPTS, *self.backbone.image_arguments)
            and isinstance(value, torch.Tensor)
            and value.ndim > 1
            and len(value) == len(self.records)
        ]
        if "streamer" in given and parts > 1 and not isinstance(given["streamer"], RowStreamer):
            problems.append("a streamer for rows that are not answered together")
        if problems:
            flagged = any(record.verdict is not None and record.verdict.flagged for record in self.records)
            raise GuardError(
                f"{'risky image' if flagged else 'call'} not answered: expected a call whose rows can be answered one "
                f"way or another, got {', '.join(problems)}, which does not fit "
                f"{'steered' if flagged else 'changed'} prompts. Leave it out, or pass safety=False."
            )

    @contextmanager
    def running(self, repeats: int = 1) -> Iterator[None]:
        """Inside this block the model uses the planned features, with all that is to stand on it.

        Args:
            repeats: how many of each row the model is called with, one after the other (beams).
        """
        with ExitStack() as stack:
            if self.features is not None:
                stack.enter_context(self.backbone.planned(self.features, self.counts))
            for mount in self.mounts:
                stack.enter_context(mount.enter([flag for flag in mount.rows for _ in range(repeats)]))
            yield

    def base_answer(self) -> Answer:
        """What the base answers."""
        model, width = self.backbone.model, self.ids.shape[1]
        repeats = int(max(self.option("num_beams", 1), self.answers_per_row))
        with self.running(repeats), nullcontext() if self.origin is None else cache_length_restored(model):
            output = self.backbone.base_generate(**self._arguments())
        sequences = getattr(output, "sequences", output)
        if not self._are_answers(sequences):  # of a decoding of the caller's own (custom_generate)
            return Answer(self.ids.new_zeros(len(self), 0), output, self.whole)
        answer = Answer(sequences[:, width:], output, self.whole)
        self._count(answer)
        return answer

    def fixed_answer(self, answers: Sequence[Sequence[int]]) -> Answer:
        """The same ids for all answers of a row, within the caller's limit of new tokens; no language model."""
        budget, streamer = self.new_token_budget, self._told_apart(self.kwargs).get("streamer")
        texts = [torch.tensor([*ids][:budget]) for ids in answers]
        new = self.ids.new_full((len(self), max(map(len, texts))), self.pad_id)
        for row, text in enumerate(texts):
            new[row, : len(text)] = text.to(new)
        n = self.answers_per_row
        new = new.repeat_interleave(n, 0)
        if streamer is not None:
            streamer.put(self.caller_ids.repeat_interleave(n, 0).cpu())
            for step in new.unbind(1):
                streamer.put(step.cpu())
            streamer.end()
        return Answer(new)

    def divided(self, parts: Sequence[tuple[list[int], Callable[["Call"], Answer]]]) -> Answer:
        """One answer of parts (rows, and how they are answered), one after the other; those without a row fall out.

        Raises:
            GuardError: as `check_divisible`, before the first is answered.
        """
        parts = [(rows, answer) for rows, answer in parts if rows]
        self.check_divisible(len(parts))
        return self.joined([(rows, answer(self.take(rows))) for rows, answer in parts])

    def joined(self, parts: Sequence[tuple[list[int], Answer]]) -> Answer:
        """One answer of parts: their rows in this call, every row in exactly one of them."""
        n, beams = self.answers_per_row, self.option("num_beams", 1)
        return stitch(parts, n=n, beams=beams if beams > 1 else n, pad=self.pad_id, like=self.ids)

    def _arguments(self) -> dict[str, Any]:
        """For the base's `generate`: the caller's own, or those of a part of them or of other prompts."""
        if self.whole:
            return self._told_apart(self.kwargs)
        model, kwargs = self.backbone.model, self._told_apart(dict(self.kwargs))
        asked = (*_PROMPTS, *self.backbone.image_arguments)
        arguments = {name: value for name, value in kwargs.items() if name not in asked}
        arguments |= {"input_ids": self.ids, "return_dict_in_generate": True}
        if self.origin is not None or kwargs.get("attention_mask") is not None:
            arguments["attention_mask"] = self.mask
        if self.pixels is not None:
            arguments |= self.backbone.images_taken(self.pixels)
        width, prompts = self.ids.shape[1], self.caller_ids
        if self.origin is not None:
            arguments |= moved_lengths(model, kwargs, width - prompts.shape[1])
        n, allowed = rows_per_prompt(model, kwargs), kwargs.get("prefix_allowed_tokens_fn")
        if allowed is not None:

            def allowed_here(row: int, ids: torch.Tensor) -> list[int]:
                here, answer = divmod(row, n)
                return allowed(self.rows[here] * n + answer, ids)

            kwargs["prefix_allowed_tokens_fn"] = allowed_here
        return arguments | seen_through(with_prompts(prompts, width, n), kwargs)

    def _told_apart(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The caller's arguments, with a streamer that tells rows apart in its form for these."""
        streamer = kwargs.get("streamer")
        if not isinstance(streamer, RowStreamer):
            return kwargs
        return {**kwargs, "streamer": streamer.of_rows(self.rows, self.records)}

    def _are_answers(self, sequences: Any) -> bool:
        """Whether these are what `generate` gives: (B x n, T or more) ids."""
        if not isinstance(sequences, torch.Tensor) or sequences.ndim != 2:
            return False
        return len(sequences) == len(self) * self.answers_per_row and sequences.shape[1] >= self.ids.shape[1]

    def _count(self, answer: Answer) -> None:
        ends, lengths = end_ids(self.backbone.model, self.kwargs), self.mask.sum(1).tolist()
        new = answer.new_ids.view(len(self), -1, answer.new_ids.shape[1]).tolist()
        for place, row in enumerate(self.rows):
            used = self.records[row].usage
            used.lm_passes += 1
            used.prompt_tokens += lengths[place]
            used.new_tokens += sum(answer_length(ids, ends, self.pad_id) for ids in new[place])
            used.tower_runs += self.counts[place] if self.features is None else 0


def in_place(feature: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A feature (n, D) with the projector's rows (P, D) in it, to which others may have added, replaced.

    As it is, where a defence has put other things in their place: the language model then sees no picture.
    """
    starts = range(len(feature) - len(old) + 1)
    start = next((at for at in starts if torch.equal(feature[at : at + len(old)], old)), None)
    return feature if start is None else torch.cat([feature[:start], new.to(feature), feature[start + len(old) :]])


def _image_counts(backbone: Backbone, ids: torch.Tensor, pixels: torch.Tensor | None) -> list[int]:
    tokens = (ids == backbone.image_token_id).sum(1).tolist()
    patches = [] if pixels is None else backbone.patch_counts(pixels)
    shared = images_of_rows(tokens, patches)
    if shared is None:
        raise PromptError(
            f"images and prompts do not match: expected {sum(patches)} image tokens for {len(patches)} images, got "
            f"{tokens} per row. Pass input_ids and pixel_values of one processor call."
        )
    return [*map(len, shared)]


def _form(value: Any) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _per_row(switch: bool | Sequence[bool], rows: int) -> list[bool]:
    if isinstance(switch, bool):
        return [switch] * rows
    if len(switch) != rows:
        raise GuardError(
            f"call not guarded: expected safety to be a bool or {rows} bools, one per row, got "
            f"{len(switch)}. Pass one per row of input_ids."
        )
    return list(switch)
