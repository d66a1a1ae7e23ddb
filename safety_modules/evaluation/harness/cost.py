"""What a defence costs over the bare base: time on the same batches, prompt tokens, passes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from safety_modules.evaluation.harness.transcripts import Transcript
from safety_modules.metrics import mean, paired_difference


class Spread(NamedTuple):
    """Middle and spread of ratios.

    Attributes:
        median: of the ratios.
        low: first quartile.
        high: third quartile.
        n: number of ratios.
    """

    median: float
    low: float
    high: float
    n: int


def batch_seconds(lines: Sequence[Transcript]) -> dict[tuple[int, int], float]:
    """Seconds of each batch, by session and batch: times of another session are of another machine, perhaps."""
    found: dict[tuple[int, int], float] = {}
    for line in lines:
        found[line.session, line.batch] = found.get((line.session, line.batch), 0.0) + line.seconds
    return found


def benign_lines(lines: Sequence[Transcript], benign: Mapping[str, bool]) -> list[Transcript]:
    """Those of batches that hold benign cases alone.

    A refusal is short: over all batches a defence that refuses much looks quick, over these it does not.
    """
    attacked = {line.batch for line in lines if not benign[line.case]}
    return [line for line in lines if line.batch not in attacked]


def common(lines: Sequence[Transcript], others: Sequence[Transcript]) -> tuple[list[float], list[float]]:
    """Seconds of both on the batches that were timed for both in one session."""
    one, other = batch_seconds(lines), batch_seconds(others)
    keys = [key for key in one if key in other]
    return [one[key] for key in keys], [other[key] for key in keys]


def time_ratio(lines: Sequence[Transcript], base: Sequence[Transcript]) -> Spread | None:
    """Time of a batch over the base's time of the same batch: median and quartiles; None if no batch has both."""
    times, before = common(lines, base)
    if not times:
        return None
    low, median, high = np.quantile(np.array(times) / np.array(before), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(times))


def cost(lines: Sequence[Transcript], base: Sequence[Transcript], benign: Mapping[str, bool]) -> dict[str, Any]:
    """What a system's replies took, beside the base's of the same cases in the same order.

    Returns:
        `time_ratio` and `time_ratio_benign` (`Spread` or None), `extra_prompt_tokens` (estimate), and means per case:
        `seconds`, `prompt_tokens`, `new_tokens`, `tower_runs`, `lm_passes`.
    """
    means = {
        name: float(np.mean([getattr(line.reply, name) for line in lines]))
        for name in ("prompt_tokens", "new_tokens", "tower_runs", "lm_passes")
    }
    return {
        "time_ratio": time_ratio(lines, base),
        "time_ratio_benign": time_ratio(benign_lines(lines, benign), base),
        "extra_prompt_tokens": paired_difference(
            [line.reply.prompt_tokens for line in lines], [line.reply.prompt_tokens for line in base]
        ),
        "seconds": mean([line.seconds for line in lines]).value,
        **means,
    }
