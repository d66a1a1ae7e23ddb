"""The trainable set: projector, two token sets and head, sized for one base (arXiv 2405.13581); and branches.

The projector maps (B, P, Dv) to (B, P, D_s): patches keep their place, so attention over h_s is a map of the picture.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, Protocol

import torch
from torch import nn

from safety_modules.config import HEADS, BaseSizes, SafetyConfig, ViewsSettings
from safety_modules.defences.guard.outside import Outside
from safety_modules.defences.guard.published import CAbstractor
from safety_modules.defences.guard.tiled import put_back
from safety_modules.defences.guard.views import Views
from safety_modules.defences.guard.words import WordsHead
from safety_modules.errors import ConfigError
from safety_modules.policy.scores import HeadOutput

Reads = Literal["turns", "parts", "first token", "nothing"]
"""All that is said up to each turn of the user; all that is said and each part of it alone, for a head that takes the
mean of a text; the prompt's first token, as published; or nothing. See `ChatFormat`.
"""


class Head(Protocol):
    """What classifies. A new one is one file that has this, and a line in `config.HEADS`.

    It is made with (width, text_width, num_types, num_levels, attention_heads), D_s, D, types without clean, levels.
    """

    needs_question: bool
    """Whether it can judge no image without a text."""
    reads: Reads
    """What of a prompt it is shown."""
    takes_tiles: bool
    """Whether it can leave out places where a picture has no patch, and so judge pictures cut into tiles."""

    def __call__(
        self,
        features: torch.Tensor,
        tokens: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        absent: torch.Tensor | None = None,
    ) -> HeadOutput:
        """Features h_s (B, P, D_s), tokens s1 (K, D_s), text embeddings (B, T, D) and their mask (B, T) -> logits.

        `absent` (B, P): where there is no patch; given to heads that take tiles, for a base that has them.
        """


def head_class(config: SafetyConfig) -> Any:
    """The class of the head that a design names."""
    module, _, name = HEADS[config.query].partition(":")
    return getattr(import_module(f"safety_modules.defences.guard.{module}"), name)


class MLPProjector(nn.Module):
    """Two linear layers per patch, after a LayerNorm: the compact default.

    Args:
        vision_width: width of the tower's features (Dv).
        width: width of the safety features (D_s).
    """

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_width)
        self.down = nn.Linear(vision_width, width)
        self.act = nn.GELU()
        self.out = nn.Linear(width, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.down(self.norm(features))))  # (B, P, D_s)


class SafetyTokens(nn.Module):
    """K learned tokens: s1 beside the safety features, s2 beside the image at the language model's input.

    Args:
        count: number of tokens (K); 0 is an empty set.
        width: width of the vectors they stand beside.
        std: standard deviation at the start; take that of the vectors they stand beside.
    """

    def __init__(self, count: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))  # (K, width)
        if count:
            nn.init.normal_(self.weight, std=std)

    def forward(self) -> torch.Tensor:
        return self.weight  # (K, width)


class ModuleSet(nn.Module):
    """One set: projector, head tokens (s1), language-model tokens (s2) and head. See `SafetyModules`, which is one."""

    def __init__(self, config: SafetyConfig, sizes: BaseSizes, lm_token_std: float = 0.02) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        width, shape = config.feature_width(sizes.text_width), (len(config.first_types), len(config.taxonomy.levels))
        if sizes.tile is not None and not (config.projector == "mlp" and head_class(config).takes_tiles):
            raise ConfigError(
                "design not possible on this base: expected projector 'mlp' and query 'reading' or 'concept' where "
                f"pictures are cut into tiles, got {config.projector!r} and {config.query!r}, which want one grid of "
                "patches. Use another preset, or a LLaVA-1.5."
            )
        if config.words is not None:
            self.projector: nn.Module = nn.Identity()  # the head looks at the tower's own features
        elif config.projector == "mlp":
            self.projector = MLPProjector(sizes.vision_width, width)
        else:
            self.projector = CAbstractor(sizes.vision_width, width, sizes.grid)
        self.head_tokens = SafetyTokens(0 if config.words else config.num_head_tokens, width)
        self.lm_tokens = SafetyTokens(config.num_lm_tokens, sizes.text_width, std=lm_token_std)
        if config.words is not None:
            self.head: nn.Module = WordsHead.of(config, sizes.vision_width)
        else:
            self.head = head_class(config)(width, sizes.text_width, *shape, config.attention_heads)

    @property
    def dtype(self) -> torch.dtype:
        """dtype the modules compute in."""
        return self.head_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device the modules are on."""
        return self.head_tokens.weight.device

    def said(
        self, vision: torch.Tensor, question: torch.Tensor | None, question_mask: torch.Tensor | None
    ) -> HeadOutput:
        """What this set alone says; arguments as `SafetyModules.forward`."""
        self._check(vision, question, question_mask)
        features = self.projector(vision.to(self.device, self.dtype))  # (B, P, D_s)
        if question is not None:
            question = question.to(self.device, self.dtype)
        if question_mask is not None:
            question_mask = question_mask.to(self.device)
        absent = () if self.sizes.tile is None else (~vision.any(-1).to(self.device),)  # (B, P)
        output: HeadOutput = self.head(features, self.head_tokens(), question, question_mask, *absent)
        # While training there may be some patches of each picture alone, and no map of them.
        return put_back(output, *absent, self.sizes) if absent and not self.training else output

    def _check(self, vision: torch.Tensor, question: torch.Tensor | None, mask: torch.Tensor | None) -> None:
        patches, width = self.sizes.num_patches + (self.config.words is not None), self.sizes.vision_width
        some = self.training and self.config.projector == "mlp" and not self.config.words
        if (self.sizes.tile or some) and vision.ndim == 3:
            patches = min(patches, vision.shape[1])
        if vision.ndim != 3 or tuple(vision.shape[1:]) != (patches, width):
            raise _misfit("vision features", f"(B, {patches}, {width})", vision)
        batch, text = vision.shape[0], self.sizes.text_width
        if question is None:
            if mask is not None:
                raise ConfigError("question mask without a question: expected None, got a mask. Pass both or neither.")
            return
        if question.ndim != 3 or question.shape[0] != batch or question.shape[2] != text:
            raise _misfit("question embeddings", f"({batch}, T, {text})", question)
        if mask is not None and mask.shape != question.shape[:2]:
            raise _misfit("question mask", str(tuple(question.shape[:2])), mask)


class SafetyModules(ModuleSet):
    """Projector, head tokens (s1), language-model tokens (s2) and head; and a branch for each type added later.

    In an ensemble, further sets of projector, head tokens and head (`peers`) judge beside this one, and the logits and
    attention maps of all are averaged.

    A branch is a small set with one risk type, that was trained apart. It says how likely its type is against
    everything else, and at what level, beside the head and without touching what that says.

    With `views` every picture is judged by random views of it: the logits are the mean over these.

    `outside`, where it was fitted, says of every picture how unlike the training's it is, and touches nothing else.

    Lives beside the base model, never inside it. Parameters are float32 unless moved; inputs are cast to the
    modules' own dtype and device at the border, so the base may run in any.

    Args:
        config: the design.
        sizes: the base to fit.
        lm_token_std: standard deviation of s2 at the start; take that of the projected image features.

    Attributes:
        votes: False = `views` stay unused; every verdict is then bit for bit as without them.

    Raises:
        ConfigError: the attention heads do not divide the width on this base, or there are views and it cuts pictures
            into tiles.
    """

    votes = True

    def __init__(self, config: SafetyConfig, sizes: BaseSizes, lm_token_std: float = 0.02) -> None:
        super().__init__(config, sizes, lm_token_std)
        peer = config.peer()
        self.peers = nn.ModuleList(ModuleSet(peer, sizes) for _ in range(config.ensemble - 1))
        # By place, not by name: torch takes no module called "train" or "keys", and a type may be.
        self.branches = nn.ModuleList(ModuleSet(config.branch(name), sizes) for name in config.added)
        self.outside = None if config.outside is None else Outside(config.outside, sizes.vision_width)
        self.views = None if config.views is None else Views(config.views, sizes)

    @property
    def voting(self) -> Views | None:
        """The views, where there are some and they are on."""
        return self.views if self.votes else None

    @property
    def looks(self) -> int:
        """How often the tower sees a picture: once, and once for each view."""
        return 1 if self.voting is None else 1 + self.voting.settings.count

    @property
    def members(self) -> tuple[ModuleSet, ...]:
        """The sets of the ensemble, this one first."""
        return (self, *(peer for peer in self.peers if isinstance(peer, ModuleSet)))

    def forward(
        self,
        vision_features: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> HeadOutput:
        """Judge images, with or without the question asked about them.

        Args:
            vision_features: features of the frozen tower h_o (B, P, Dv), class token dropped; in training mode the
                mlp projector also takes fewer patches than P. For words (B, 1 + P, Dv), and those of k views before
                them (B, (k + 1) P, Dv): see `judge.look`.
            question: input embeddings of the prompt (B, T, D), or None.
            question_mask: (B, T), true where a position belongs to the question; with `query="first_token"`
                the prompt's attention mask gives the published behaviour. None = every position.

        Returns:
            Logits and the attention map over the patches. An added type's column holds its branch's log-odds against
            everything else; the other columns and the levels are what they would be without it.

        Raises:
            ConfigError: a tensor does not have the base's sizes.
        """
        views, own = self.seen(vision_features)
        output = self._together(own, question, question_mask)
        output = output if views is None else self._voted(output, views, question, question_mask)
        return output if self.outside is None else output._replace(outside=self.outside(self.patches(vision_features)))

    def _together(self, vision: torch.Tensor, question: torch.Tensor | None, mask: torch.Tensor | None) -> HeadOutput:
        """What all sets and branches say of one look."""
        own, added = self._said(vision, question, mask)
        output = own[0]
        if len(own) > 1:
            output = HeadOutput(*(torch.stack(parts).mean(0) for parts in zip(*(o[:3] for o in own), strict=True)))
        return _beside(output, added) if added else output

    def seen(self, vision_features: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Of what the head sees, the views, where it judges by some, and the picture as it is (B, P, Dv)."""
        return (None, vision_features) if self.voting is None else self._apart(vision_features)

    def _apart(self, vision_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views (B, k, P, Dv) and the picture. Raises ConfigError where not so many were seen."""
        each, looks = self.sizes.num_patches + (self.config.words is not None), self.looks
        if vision_features.ndim != 3 or vision_features.shape[1] != looks * each:
            expected = f"(B, {looks * each}, {self.sizes.vision_width}), of {looks - 1} views and the picture as it is"
            raise _misfit("vision features", expected, vision_features)
        several = vision_features.unflatten(1, (looks, each))
        return several[:, :-1], several[:, -1]

    def _voted(
        self, own: HeadOutput, views: torch.Tensor, question: torch.Tensor | None, mask: torch.Tensor | None
    ) -> HeadOutput:
        """The mean of what is said of the views (B, k, P, Dv); where in the picture, of the picture as it is."""
        k = views.shape[1]
        repeated = [None if part is None else part.repeat_interleave(k, 0) for part in (question, mask)]
        said = self._together(views.flatten(0, 1), *repeated)
        parts = (said.type_logits, said.level_logits, said.added_levels)
        types, levels, added = (None if part is None else part.unflatten(0, (-1, k)).mean(1) for part in parts)
        assert types is not None and levels is not None
        return own._replace(type_logits=types, level_logits=levels, added_levels=added)

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Without views inside this block: what head and projector are trained on is the picture as it is."""
        before, self.votes = self.votes, False
        try:
            yield
        finally:
            self.votes = before

    def patches(self, vision_features: torch.Tensor) -> torch.Tensor:
        """Of what the head sees, the patches of the picture as it is (B, P, Dv)."""
        return self.seen(vision_features)[1][:, int(self.config.words is not None) :]

    def know(self, outside: Outside | None) -> None:
        """Take this in the place of `outside`, and note it in the design."""
        self.outside = None if outside is None else outside.to(self.device)
        self.config = self.config.model_copy(update={"outside": None if outside is None else outside.settings})

    def judge_by(self, views: ViewsSettings | None) -> None:
        """By such random views from now on, or by one look. The thresholds are to be set anew then (`calibrate`).

        Raises:
            ConfigError: the base cuts pictures into tiles.
        """
        self.views = None if views is None else Views(views, self.sizes)
        if self.outside is not None and views != self.config.views:  # risks of another way to judge
            self.know(self.outside.with_calibration(self.outside.calibrated, self.outside.risks[:0]))
        self.config = self.config.model_copy(update={"views": views})

    def each(
        self,
        vision_features: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> list[HeadOutput]:
        """For training: one classifier of all types by each set of the ensemble; arguments and errors as in `forward`.

        An added type's logit stands above clean's by its branch's log-odds, and the level is the head's and the
        branches', mixed by the types' probabilities: losses of all types on one scale.
        """
        own, added = self._said(vision_features, question, question_mask)
        return [_joined(output, added) for output in own] if added else own

    def _said(
        self, vision: torch.Tensor, question: torch.Tensor | None, mask: torch.Tensor | None
    ) -> tuple[list[HeadOutput], list[HeadOutput]]:
        """By each set of the ensemble, and by each branch."""
        own = [member.said(vision, question, mask) for member in self.members]
        return own, [branch.said(vision, question, mask) for branch in self.branches if isinstance(branch, ModuleSet)]

    def branch_of(self, name: str) -> ModuleSet:
        """The branch of an added type."""
        branch = self.branches[self.config.added.index(name)]
        assert isinstance(branch, ModuleSet)
        return branch

    @torch.no_grad()
    def with_branches(self, branches: Mapping[str, ModuleSet]) -> "SafetyModules":
        """A copy that has exactly these branches; everything else has the very same values.

        Args:
            branches: by the added type, in the order of its classes; each as `SafetyConfig.branch` describes it.

        Raises:
            ConfigError: a branch of another design or for another base.
        """
        other = SafetyModules(self.config.with_added(tuple(branches)), self.sizes).to(self.device, self.dtype)
        state = {name: value for name, value in self.state_dict().items() if not name.startswith("branches.")}
        for place, (added, branch) in enumerate(branches.items()):
            if branch.config != other.config.branch(added) or branch.sizes != self.sizes:
                raise ConfigError(
                    f"branch refused: expected one made for {added!r} on this base, got another design or other sizes."
                )
            state |= {f"branches.{place}.{name}": value for name, value in branch.state_dict().items()}
        other.load_state_dict(state)
        other.views, other.votes = self.views, self.votes
        return other.train(self.training)


def _misfit(what: str, expected: str, got: torch.Tensor) -> ConfigError:
    return ConfigError(
        f"{what} of another shape: expected {expected}, got {tuple(got.shape)}. Use the base the modules were made for."
    )


def _beside(own: HeadOutput, others: list[HeadOutput]) -> HeadOutput:
    """What a head says, and beside it what the branches say."""
    odds = [other.type_logits[:, :1] - other.type_logits[:, 1:] for other in others]
    return HeadOutput(
        torch.cat([own.type_logits[:, :-1], *odds, own.type_logits[:, -1:]], 1),
        own.level_logits,
        torch.cat([own.attention, *(other.attention for other in others)], 1),
        torch.stack([other.level_logits for other in others], 1),
    )


def _joined(own: HeadOutput, others: list[HeadOutput]) -> HeadOutput:
    """One classifier of all types, of a head and branches."""
    clean = own.type_logits[:, -1:]
    added = [clean + other.type_logits[:, :1] - other.type_logits[:, 1:] for other in others]
    types = torch.cat([own.type_logits[:, :-1], *added, clean], 1)
    # Mixed as logarithms: logits whose softmax is the mixture, exact where one of the parts is all there is.
    shares = types.log_softmax(1)  # (B, types + 1)
    first = own.type_logits.shape[1] - 1
    rest = torch.cat([shares[:, :first], shares[:, -1:]], 1).logsumexp(1, keepdim=True)
    levels = [rest + own.level_logits.log_softmax(1)]
    levels += [
        shares[:, place : place + 1] + other.level_logits.log_softmax(1) for place, other in enumerate(others, first)
    ]
    maps = torch.cat([own.attention, *(other.attention for other in others)], 1)
    return HeadOutput(types, torch.stack(levels).logsumexp(0), maps)
