"""From transcripts and judgements to the numbers of a report; pure, plain JSON types out.

Numbers are given for groups of cases: `all`, every part, every category, and every ending that parts share: `seen` of
`attack/seen` and `benign/seen`, where it holds both attacks and requests that deserve an answer. Parts that are one
thing at several strengths, such as corrupted pictures, stand for themselves: they are in no group and no category.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.harness.comparison import Comparison, Finding, compare, dominated, opposite
from safety_modules.evaluation.harness.cost import benign_lines, common, cost
from safety_modules.evaluation.harness.detection import detection
from safety_modules.evaluation.harness.judgements import Judgements
from safety_modules.evaluation.harness.readout import ALL, STRENGTH, TIME
from safety_modules.evaluation.harness.transcripts import Transcript
from safety_modules.evaluation.outcomes import BASE, MEASURES, attack_shares, is_benign, outcome
from safety_modules.metrics import Estimate, mean, rate
from safety_modules.taxonomy import CLEAN

PAIRS = (("asr", "over_refusal"), ("asr", "accuracy"), ("asr", TIME))

Answers = dict[str, list[Transcript]]
"""By system, in the order of the cases."""
Outcomes = dict[str, list[dict[str, float]]]
"""The measures of every reply, by system, in the order of the cases."""


def summarise(
    cases: Sequence[Case], transcripts: Sequence[Transcript], judged: Mapping[str, Judgements]
) -> dict[str, Any]:
    """Everything that is computed, of one transcript for every system (`BASE` among them) and case.

    Returns:
        The keys `results`, `attacks`, `parts`, `categories`, `comparisons`, `dominance`, `verdicts`, `cost`,
        `outside`, `judge_errors` of `report.json` (docs/evaluation.md).
    """
    answers: Answers = {}
    for line in transcripts:
        answers.setdefault(line.system, []).append(line)
    groups = groups_of(cases)
    parts = _split(cases, lambda case: case.part)
    headline = set(groups[ALL])
    categories = {
        name: kept
        for name, places in _split(cases, lambda case: case.category).items()
        if (kept := [place for place in places if place in headline])
    }
    benign = {case.id: is_benign(case) for case in cases}
    timed = _time_comparisons(answers, benign)
    tree: dict[str, Any] = {name: {} for name in ("results", "attacks", "parts", "categories", "dominance")}
    tree["comparisons"] = [*timed]
    for judge, judgements in judged.items():
        found = _outcomes(cases, answers, judgements)
        tree["results"][judge] = {name: _table(found, places) for name, places in groups.items()}
        tree["attacks"][judge] = {name: _attacks(cases, found, places) for name, places in groups.items()}
        tree["parts"][judge] = {name: _table(found, places) for name, places in parts.items()}
        tree["categories"][judge] = {name: _table(found, places) for name, places in categories.items()}
        compared = [row for name, places in groups.items() for row in _comparisons(judge, name, found, places)]
        tree["comparisons"] += compared
        tree["dominance"][judge] = {name: _dominance(list(answers), [*compared, *timed], name) for name in groups}
    tree["verdicts"] = {name: _verdicts(cases, answers, places) for name, places in groups.items()}
    tree["cost"] = {name: cost(lines, answers[BASE], benign) for name, lines in answers.items()}
    said = {name: [o for line in lines if (o := line.reply.outside) is not None] for name, lines in answers.items()}
    tree["outside"] = {name: rate(flags) for name, flags in said.items() if flags}
    tree["judge_errors"] = [
        {"judge": judge, "system": system, "case": case, "error": judgement.error}
        for judge, judgements in judged.items()
        for (system, case), judgement in judgements.items()
        if judgement.error is not None
    ]
    plain: dict[str, Any] = as_json(tree)
    return plain


def groups_of(cases: Sequence[Case]) -> dict[str, list[int]]:
    """Places of the cases of `all` and of the shared endings, see the module.

    Where every part is one of a strength, `all` is all of them.
    """

    def ending(case: Case) -> str | None:
        return case.part.rpartition("/")[2] if "/" in case.part and not STRENGTH.fullmatch(case.part) else None

    endings = _split(cases, ending)
    plain = [place for place, case in enumerate(cases) if not STRENGTH.fullmatch(case.part)]
    groups = {ALL: plain or list(range(len(cases)))}
    for name, places in endings.items():
        attacks = [cases[place].wanted in ("refuse", "caution") for place in places]
        if any(attacks) and any(cases[place].wanted == "answer" for place in places):
            groups[name] = places
    return groups


def as_json(tree: Any) -> Any:
    """The tree in plain JSON types; estimates become objects with their fields."""
    if hasattr(tree, "_asdict"):
        return as_json(tree._asdict())
    if isinstance(tree, Mapping):
        return {key: as_json(value) for key, value in tree.items()}
    return [as_json(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _split(cases: Sequence[Case], name: Callable[[Case], str | None]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        key = name(case)
        if key is not None:
            found.setdefault(key, []).append(place)
    return found


def _outcomes(cases: Sequence[Case], answers: Answers, judgements: Judgements) -> Outcomes:
    return {
        system: [
            outcome(case, line.reply, judgements.get((system, case.id)))
            for case, line in zip(cases, lines, strict=True)
        ]
        for system, lines in answers.items()
    }


def _table(found: Outcomes, places: Sequence[int]) -> dict[str, dict[str, Estimate | None]]:
    table: dict[str, dict[str, Estimate | None]] = {}
    for system, outcomes in found.items():
        table[system] = {}
        for name, measure in MEASURES.items():
            values = [outcomes[place][name] for place in places if name in outcomes[place]]
            estimate = (rate([bool(value) for value in values]) if measure.share else mean(values)) if values else None
            table[system][name] = estimate
    return table


def _attacks(cases: Sequence[Case], found: Outcomes, places: Sequence[int]) -> dict[str, Any]:
    """By system, what its attacks got, by risk."""
    wanted = [cases[place].wanted for place in places]
    return {system: attack_shares(wanted, [outcomes[place] for place in places]) for system, outcomes in found.items()}


def _comparisons(judge: str, group: str, found: Outcomes, places: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for against, system in combinations(found, 2):
        for name, measure in MEASURES.items():
            if measure.better is None:
                continue
            pairs = [
                (found[system][place][name], found[against][place][name])
                for place in places
                if name in found[system][place] and name in found[against][place]
            ]
            if pairs:
                ours, theirs = zip(*pairs, strict=True)
                rows.append(_row(judge, group, name, system, against, compare(ours, theirs, measure.better)))
    return rows


def _time_comparisons(answers: Answers, benign: Mapping[str, bool]) -> list[dict[str, Any]]:
    """On benign batches, where there are any; in logarithms, whose mean difference is that of a typical ratio."""
    of_benign = {name: benign_lines(lines, benign) for name, lines in answers.items()}
    timed = of_benign if all(of_benign.values()) else answers
    rows = []
    for against, system in combinations(timed, 2):
        ours, theirs = ([math.log(seconds) for seconds in of] for of in common(timed[system], timed[against]))
        if ours:
            rows.append(_row(None, ALL, TIME, system, against, compare(ours, theirs, "lower")))
    return rows


def _row(judge: str | None, group: str, measure: str, system: str, against: str, found: Comparison) -> dict[str, Any]:
    compared = {"judge": judge, "group": group, "measure": measure, "system": system, "against": against}
    return compared | found._asdict()


def _dominance(systems: Sequence[str], rows: Sequence[Mapping[str, Any]], group: str) -> dict[str, Any]:
    """By pair of measures, for every system those that dominate it; None where the pair was not measured."""
    findings: dict[tuple[str, str, str], Finding] = {}
    for row in rows:
        if row["group"] == group or row["measure"] == TIME:
            findings[row["measure"], row["system"], row["against"]] = row["finding"]
            findings[row["measure"], row["against"], row["system"]] = opposite(row["finding"])
    measured = {measure for measure, _, _ in findings}
    return {
        f"{pair[0]}, {pair[1]}": dominated(systems, pair, lambda *key: findings.get(key))
        if measured.issuperset(pair)
        else None
        for pair in PAIRS
    }


def _verdicts(cases: Sequence[Case], answers: Answers, places: Sequence[int]) -> dict[str, Any]:
    """For systems that say a risk, on cases whose label is known, where there are risky and clean ones."""
    found = {}
    for system, lines in answers.items():
        pairs = [
            (cases[place].type != CLEAN, lines[place].reply.risk)
            for place in places
            if cases[place].type is not None and lines[place].reply.risk is not None
        ]
        if len({risky for risky, _ in pairs}) == 2:
            found[system] = detection([risky for risky, _ in pairs], [risk for _, risk in pairs if risk is not None])
    return found
