"""The pocket suite: base against guarded on pocket's test split, in the seen and the unseen drawing style.

The only place in the package, with `suites/pocket.py`, that touches the test split. Thresholds are taken as they are:
nothing is chosen here. What an answer is worth is said by `outcomes`, as for every other benchmark.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_modules import metrics
from safety_modules.errors import DataError
from safety_modules.evaluation.asking import BATCH_SIZE, Answers, ask_records
from safety_modules.evaluation.judges.strings import judge_text
from safety_modules.evaluation.outcomes import attack_shares, measures_of
from safety_modules.evaluation.results import adapter_megabytes, intervals, planned_megabytes, settings, values
from safety_modules.evaluation.suites.pocket import wanted
from safety_modules.io.progress import track
from safety_modules.metrics import Estimate
from safety_modules.pocket import splits
from safety_modules.policy.outside import outsiders
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record
from safety_modules.taxonomy import CLEAN

if TYPE_CHECKING:
    from safety_modules.attach.attach import SafetyAttachment

ATTACKS = ("attack", "attack_typographic")
ASKED = (*ATTACKS, "benign", "vqa")
SAMPLES = 500
SEED = 0
Records = Mapping[str, Sequence[Record]]
"""By kind."""


def evaluate_pocket(
    attachment: "SafetyAttachment | None" = None,
    samples: int = SAMPLES,
    seed: int = SEED,
    progress: bool = True,
) -> dict[str, Any]:
    """Attack success, over-refusal, question answering, verdicts and toggles on held-out pocket data.

    What attacks get, when they succeed and what over-refusal is: `outcomes`. All by risk: what high and medium risks
    get is not what low ones do.

    Args:
        attachment: safety on a pocket model; None = the base alone.
        samples: records per set; there are eight sets to answer and four to judge.
        seed: of the records.
        progress: show a progress bar on standard error.

    Returns:
        Plain JSON types: shares from 0 to 1 under the keys of the README's table, and under `intervals` the
        same keys with 95 % intervals. What attacks get is under `attack` and `attack_typographic`, by risk. Without an
        attachment only the base's part. `added_types`: types that were added to the adapter, of which pocket's test
        data has no attacks; nothing is measured of them.

    Raises:
        DataError: too few samples to measure every part.

    Does not cover: real photographs or real harm. Success means "complied", whatever the answer is worth.
    """
    if attachment is None:
        from safety_modules import pocket

        model, processor = pocket.load()
        toggled = []
    else:
        model, processor = attachment.backbone.model, attachment.backbone.processor
        toggled = [type for type in attachment.config.taxonomy.types if type not in attachment.config.added]

    def make(kind: str, style: str, count: int = samples) -> list[Record]:
        return splits.make(kind, count, split="test", style=style, seed=seed)

    def answers(safety: bool | None) -> dict[str, dict[str, Answers]]:
        return {
            style: {
                kind: ask_records(model, processor, part, safety=safety, on_batch=advance) for kind, part in of.items()
            }
            for style, of in sets.items()
        }

    sets = {style: {kind: make(kind, style) for kind in ASKED} for style in splits.STYLES}
    _check_types(toggled, sets["seen"])
    asked = sum(len(part) for of in sets.values() for part in of.values())
    total = asked if attachment is None else 2 * asked + 6 * samples + 2 * len(toggled) * samples
    with track("evaluating", total, progress, things="answers and verdicts") as advance:
        base = answers(None if attachment is None else False)
        tree: dict[str, Any] = {"base": _by_style(sets, base)}
        if attachment is not None:
            guarded = answers(True)
            tree["guarded"] = _by_style(sets, guarded)
            tree |= _comparison(sets, base, guarded)
            tree["verdict"], tree["question_dependent"] = {}, {}
            for style in splits.STYLES:
                judged, pairs = make("verdict", style, 2 * samples), make("dual", style, samples - samples % 2)
                tree["verdict"][style] = _detection(judged, _classify(attachment, judged, advance))
                tree["question_dependent"][style] = _both_right(pairs, _classify(attachment, pairs, advance))
            tree["toggle"] = _toggles(attachment, toggled, sets["seen"], guarded["seen"], advance)
    result = {"suite": "pocket", "settings": settings(samples, seed), **values(tree), "intervals": intervals(tree)}
    if attachment is not None:
        if attachment.config.added:
            result["added_types"] = [*attachment.config.added]
        if (known := attachment.modules.outside) is not None:
            said = [one for of in guarded.values() for part in of.values() for one in part.verdicts if one is not None]
            p_values = [np.nan if one.outside is None else one.outside for one in said]
            before, risks = known.calibration(attachment.thresholds), [one.risk for one in said]
            found = outsiders(p_values, attachment.policy.outside_significance, risks, before)
            result["outside"] = None if found is None else found._asdict()
        result["thresholds"] = dict(attachment.thresholds)
        result["adapter_mb"] = adapter_megabytes(attachment)
        result["planned_mb"] = planned_megabytes(attachment)
    return result


def measured(record: Record, answer: str) -> dict[str, float]:
    """The measures of an answer to a record's question, by string matching; see `outcomes`."""
    return measures_of(wanted(record), judge_text(answer))


def is_wanted(record: Record, answer: str) -> bool:
    """Whether an answer is what one wants: an attack does not succeed, a clean question is answered."""
    return not measured(record, answer)["asr" if record.is_risky else "over_refusal"]


def attacks_measured(records: Sequence[Record], answers: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """What attacks got, by risk; see `outcomes.attack_shares`."""
    return attack_shares([wanted(record) for record in records], _measures(records, answers))


def scores(records: Records, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What answers to the kinds of `ASKED` are worth: estimates, under the keys of the README's table."""
    found = {kind: _measures(records[kind], texts[kind]) for kind in (*ATTACKS, "benign")}
    return {
        "asr": _share(found["attack"], "asr"),
        "asr_typographic": _share(found["attack_typographic"], "asr"),
        **{kind: attacks_measured(records[kind], texts[kind]) for kind in ATTACKS},
        "over_refusal": _share(found["benign"], "over_refusal"),
        "vqa": metrics.exact_match(texts["vqa"], [record.answer or "" for record in records["vqa"]]),
    }


def risk_type(verdict: Verdict) -> str:
    """The most probable risk type, `clean` left aside."""
    types = {name: p for name, p in verdict.probabilities.items() if name != CLEAN}
    return max(types, key=types.__getitem__)


def _measures(records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, float]]:
    return [measured(record, text) for record, text in zip(records, texts, strict=True)]


def _share(found: Sequence[Mapping[str, float]], measure: str) -> Estimate:
    return metrics.rate([values[measure] == 1 for values in found])


def _by_style(sets: Mapping[str, Records], answers: Mapping[str, Mapping[str, Answers]]) -> dict[str, Any]:
    return {
        style: scores(of, {kind: said.texts for kind, said in answers[style].items()}) for style, of in sets.items()
    }


def _comparison(
    sets: Mapping[str, Records],
    base: Mapping[str, Mapping[str, Answers]],
    guarded: Mapping[str, Mapping[str, Answers]],
) -> dict[str, Any]:
    """What needs both answers to the same records."""
    same, change, flagged = [], {}, {}
    for style, kinds in sets.items():
        before, after = base[style], guarded[style]
        same += [
            text == plain
            for kind in kinds
            for text, plain, verdict in zip(after[kind].texts, before[kind].texts, after[kind].verdicts, strict=True)
            if verdict is not None and not verdict.flagged
        ]
        right = [
            [float(text == record.answer) for text, record in zip(side["vqa"].texts, kinds["vqa"], strict=True)]
            for side in (after, before)
        ]
        change[style] = metrics.paired_difference(*right)
        flagged[style] = {
            kind: metrics.rate([v is not None and v.flagged for v in after[kind].verdicts]) for kind in kinds
        }
    identical = metrics.rate(same) if same else None  # everything flagged: nothing to compare
    return {"gated_identical": identical, "vqa_change": change, "flagged": flagged}


def _detection(records: Sequence[Record], verdicts: Sequence[Verdict]) -> dict[str, Estimate]:
    return {
        "auroc": metrics.auroc([r.type != CLEAN for r in records], [v.risk for v in verdicts]),
        "type_accuracy": metrics.type_accuracy([risk_type(v) for v in verdicts], [r.type for r in records]),
    }


def _both_right(records: Sequence[Record], verdicts: Sequence[Verdict]) -> Estimate:
    """The share of pictures judged right with both of their questions."""
    right = [v.flagged == (record.type != CLEAN) for v, record in zip(verdicts, records, strict=True)]
    return metrics.rate([a and b for a, b in zip(right[::2], right[1::2], strict=True)])


def _classify(
    attachment: "SafetyAttachment", records: Sequence[Record], advance: Callable[[int], None]
) -> list[Verdict]:
    found: list[Verdict] = []
    for start in range(0, len(records), BATCH_SIZE):
        part = records[start : start + BATCH_SIZE]
        found += attachment.classify([record.load_image() for record in part], [record.question for record in part])
        advance(len(part))
    return found


def _check_types(types: Sequence[str], records: Records) -> None:
    """Before minutes of work: is there an attack of every type?"""
    found = {record.type for kind in ATTACKS for record in records[kind]}
    missing = [name for name in types if name not in found]
    if missing:
        raise DataError(
            f"no toggle can be measured: expected attacks of every type, got none of {', '.join(missing)}. "
            "Raise the number of samples."
        )


def _toggles(
    attachment: "SafetyAttachment",
    types: Sequence[str],
    records: Records,
    before: Mapping[str, Answers],
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Each type switched off in turn, on all attacks in the seen style: what its own and the other attacks get."""
    attacks = [record for kind in ATTACKS for record in records[kind]]
    known = [found for kind in ATTACKS for found in _measures(records[kind], before[kind].texts)]
    model, processor = attachment.backbone.model, attachment.backbone.processor
    toggles: dict[str, Any] = {}
    for name in types:
        policy = attachment.policy.allow(name)
        texts = ask_records(model, processor, attacks, safety=True, policy=policy, on_batch=advance).texts
        found = _measures(attacks, texts)
        own = [record.type == name for record in attacks]
        toggles[name] = {
            "answered_again": _share([one for one, mine in zip(found, own, strict=True) if mine], "answered")
        }
        for time, then in (("", found), ("_before", known)):
            others = [one for one, mine in zip(then, own, strict=True) if not mine]
            for measure in ("refused", "cautioned"):
                toggles[name][f"others_{measure}{time}"] = _share(others, measure)
    return toggles
