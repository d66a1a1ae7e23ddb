"""A zero-shot head: what a CLIP says of a picture beside sentences, from the tower that runs anyway. Pure torch.

Nothing is trained: the sentences' directions come from the text half of the CLIP whose vision tower is the base's own.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from safety_modules.config import SafetyConfig
from safety_modules.policy.scores import HeadOutput


class WordsHead(nn.Module):
    """Cosines between a picture and sentences (CLIP, arXiv 2103.00020, section 3.1), as a classifier with maps.

    The class token behind the tower's last layer goes through post layernorm and visual projection, and each sentence
    gets scale x cosine with it. Every patch gets the same from the value path of the last layer alone (MaskCLIP, arXiv
    2112.01071): its attention mixes what stands in different places. A sentence's evidence is the class token's and,
    by the share `local`, the strongest patch's. A type's logit is the log-sum-exp over its sentences, so is clean's and
    a level's: one softmax over all sentences, added up. A type's map is the softmax over the patches of what its best
    sentence gets there.

    The gains and shifts of both norms are folded into the matrices behind them, and the value and output matrices into
    one, so that no tensor of the base is in here.

    Does not cover: the question. CLIP's text half knows captions; in its space a request and its refusal lie side by
    side. What is risky only by what is asked is not found by this head; stage I learns it.

    Args:
        vision_width: Dv.
        width: of the space that pictures and sentences share (Dt).
        types, levels: class of each sentence (S), clean last; number of levels.
        num_types, num_levels: how many there are, clean not counted.
    """

    needs_question = False
    reads = "nothing"
    takes_tiles = False
    sees_class = True
    EPS = 1e-5

    def __init__(
        self, vision_width: int, width: int, types: list[int], levels: list[int], num_types: int, num_levels: int
    ) -> None:
        super().__init__()
        self.types, self.levels, self.num_types, self.num_levels = types, levels, num_types, num_levels
        self.value = nn.Linear(vision_width, vision_width)
        self.project = nn.Linear(vision_width, width)
        self.directions = nn.Parameter(torch.zeros(len(types), width))
        self.scale = nn.Parameter(torch.ones(()))
        self.local = nn.Parameter(torch.zeros(()))

    @classmethod
    def of(cls, config: SafetyConfig, vision_width: int) -> "WordsHead":
        """The head of a design, whose `words` are there."""
        words: Any = config.words
        taxonomy = config.taxonomy
        types = [taxonomy.type_index(one.type) for one in words.sentences]
        levels = [taxonomy.level_index(one.level) for one in words.sentences]
        return cls(vision_width, words.width, types, levels, len(taxonomy.types), len(taxonomy.levels))

    def cosines(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the class token (B, S) and of every patch (B, P, S); features as in `forward`."""
        sentences = functional.normalize(self.directions, dim=-1)
        seen = torch.cat([features[:, :1], self.value(self.normed(features[:, 1:]))], 1)
        found = functional.normalize(self.project(self.normed(seen)), dim=-1) @ sentences.T  # (B, 1 + P, S)
        return found[:, 0], found[:, 1:]

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=self.EPS)

    def forward(
        self,
        features: torch.Tensor,
        tokens: torch.Tensor,
        question: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> HeadOutput:
        """Judge a batch.

        Args:
            features: class token behind the last layer, then the patches that enter it: (B, 1 + P, Dv).
            tokens: none, (0, width).
            question, question_mask: not looked at.
        """
        whole, patches = self.cosines(features)
        evidence = self.scale * ((1 - self.local) * whole + self.local * patches.amax(1))  # (B, S)
        types = grouped(evidence, self.types, self.num_types + 1)
        levels = grouped(evidence, self.levels, self.num_levels)
        maps = grouped(self.scale * patches, self.types, self.num_types + 1, largest=True)[..., :-1]  # (B, P, types)
        return HeadOutput(types, levels, maps.softmax(1).transpose(1, 2))


def grouped(evidence: torch.Tensor, classes: list[int], count: int, largest: bool = False) -> torch.Tensor:
    """(..., S) -> (..., count): log-sum-exp over the sentences of each class, or the largest of them."""
    groups = [[place for place, one in enumerate(classes) if one == number] for number in range(count)]
    parts = [evidence[..., group] for group in groups]
    lowest = evidence.amin(-1) - 20  # a level that no sentence has
    found = [(part.amax(-1) if largest else part.logsumexp(-1)) if part.shape[-1] else lowest for part in parts]
    return torch.stack(found, -1)
