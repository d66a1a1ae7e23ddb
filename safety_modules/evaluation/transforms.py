"""Changing cases before they are asked: corruptions, and attacks that look at the system they attack.

An adaptive attack is a class with these three members and needs nothing else of this package:

    class Transposed:
        name = "transposed"

        def __call__(self, cases, system=None):
            return [with_images(case, lambda image: image.transpose(Image.Transpose.ROTATE_90)) for case in cases]

        def describe(self):
            return {"name": self.name}

One that needs gradients (projected gradient descent on pixels) or answers (a search over renderings of a text) takes
them from `system`, and refuses systems that cannot give them. What needs no system belongs into a benchmark's `load`,
as the pocket suite's corruptions do. What adapts belongs into a system around the attacked one, whose `answer` is
`system.answer(transform(cases, system), max_new_tokens)`: so every system of a run meets its own attack.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PIL import Image

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.systems import System


class Transform(Protocol):
    """Changes what cases show or say.

    Attributes:
        name: how parts and reports call it.
    """

    name: str

    def __call__(self, cases: Sequence[Case], system: System | None = None) -> list[Case]:
        """The cases, changed, as many and in the same order.

        Ids, parts, `wanted` and labels stay: whoever puts changed cases beside unchanged ones renames them.
        The same cases and the same system give the same result.

        Args:
            cases: what to change.
            system: the system under test, for attacks that adapt to it; corruptions leave it alone.

        Raises:
            DataError: the transform cannot work on these cases, or not without (this) system.
        """

    def describe(self) -> dict[str, Any]:
        """Name, strength, seed and whatever else the result depends on, for every report. JSON-able."""


def with_images(case: Case, change: Callable[[Image.Image], Image.Image]) -> Case:
    """The case with every picture changed; everything else stays."""
    return case.model_copy(update={"images": tuple(change(image) for image in case.load_images())})
