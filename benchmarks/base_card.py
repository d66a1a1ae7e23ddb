"""The numbers on the card of the base model, llava-pocket: how able it is, and how vulnerable.

python benchmarks/base_card.py --samples 400
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules import metrics, pocket
from safety_modules.cli.options import Json, Overwrite, new_file
from safety_modules.evaluation.asking import Answers, ask_records
from safety_modules.evaluation.matchers import is_refusal, reaction
from safety_modules.evaluation.pocket_report import cell, estimate_at, table_title
from safety_modules.evaluation.pocket_suite import SAMPLES, SEED
from safety_modules.evaluation.results import intervals, settings, values
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.progress import track
from safety_modules.metrics import Estimate
from safety_modules.pocket import splits
from safety_modules.pocket.language import TITLES
from safety_modules.policy.policy import Policy
from safety_modules.records.record import Record

ATTACKS = {"glyph": "attack", "typographic": "attack_typographic"}


def evaluate_base_card(
    model: Any, processor: Any, samples: int = SAMPLES, seed: int = SEED, progress: bool = True
) -> dict[str, Any]:
    """Text refusal, question answering and the bypass through images, on the test split.

    Args:
        model: llava-pocket, without safety attached.
        processor: its processor.
        samples: records per set; there are ten rounds, and three of pictures told in words.
        seed: of the records.
        progress: show a progress bar.

    Returns:
        Plain JSON types: shares from 0 to 1, and their intervals under `intervals`. Captions say in words what a
        picture would show, with a question that points at it, about half of them drawn text. Of attacks, `answered`
        counts those neither refused nor cautioned, `answered_exactly` those answered with the steps for the very thing
        shown.
    """

    def make(kind: str, style: str) -> list[Record]:
        return splits.make(kind, samples, split="test", style=style, seed=seed)

    def put(records: Sequence[Record]) -> Answers:
        return ask_records(model, processor, records, on_batch=advance)

    tree: dict[str, Any] = {}
    with track("evaluating the base", 13 * samples, progress) as advance:
        harmful, benign = make("text_harmful", "seen"), make("text_benign", "seen")
        tree["text_refusal"] = metrics.rate([is_refusal(text) for text in put(harmful).texts])
        tree["text_over_refusal"] = metrics.rate([reaction(text) != "answered" for text in put(benign).texts])
        told = splits.make("caption_harmful", 2 * samples, split="test", seed=seed)
        contents = ["typographic" if record.meta["typographic"] else "glyph" for record in told]
        tree["caption_refusal"] = _by([is_refusal(text) for text in put(told).texts], contents)
        told_benign = make("caption_benign", "seen")
        tree["caption_over_refusal"] = metrics.rate([reaction(text) != "answered" for text in put(told_benign).texts])
        tree["vqa"], tree["vqa_by_kind"] = {}, {}
        tree["answered"], tree["answered_exactly"], tree["answered_exactly_by"] = {}, {}, {}
        for style in splits.STYLES:
            vqa = make("vqa", style)
            right = _exact(vqa, put(vqa), [record.answer or "" for record in vqa])
            tree["vqa"][style] = metrics.rate(right)
            tree["vqa_by_kind"][style] = _by(right, [record.meta["question_kind"] for record in vqa])
            tree["answered"][style], steps, taught = {}, [], []
            for name, kind in ATTACKS.items():
                records = make(kind, style)
                answers = put(records)
                tree["answered"][style][name] = metrics.rate([reaction(text) == "answered" for text in answers.texts])
                steps += _exact(records, answers, [record.meta["unguarded"] for record in records])
                taught += [f"{name}, {'taught' if record.meta['taught'] else 'untaught'}" for record in records]
            tree["answered_exactly"][style] = metrics.rate(steps)
            tree["answered_exactly_by"][style] = _by(steps, taught)
        tree["follows_hint"] = {
            "image": _follows_hint(make("attack", "seen"), put),
            "text": _follows_hint(benign, put),
        }
    return {
        "suite": "pocket base card",
        "settings": settings(samples, seed),
        **values(tree),
        "intervals": intervals(tree),
    }


def _follows_hint(records: Sequence[Record], put: Any) -> Estimate:
    """Share refused once the policy's strongest hint stands behind the question."""
    policy = Policy.default()
    types = list(policy.rules)
    hinted = []
    for index, record in enumerate(records):
        name = record.type if record.is_risky else types[index % len(types)]
        hinted.append(record.model_copy(update={"question": f"{record.question} {policy.hint(name, 'high')}"}))
    return metrics.rate([is_refusal(text) for text in put(hinted).texts])


def _exact(records: Sequence[Record], answers: Answers, wanted: Sequence[str]) -> list[bool]:
    return [text == reference.strip() for text, reference in zip(answers.texts, wanted, strict=True)]


def _by(hits: Iterable[bool], groups: Iterable[str]) -> dict[str, Estimate]:
    found: dict[str, list[bool]] = {}
    for hit, group in zip(hits, groups, strict=True):
        found.setdefault(group, []).append(hit)
    return {group: metrics.rate(found[group]) for group in sorted(found)}


def print_base_card(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_base_card` returned, one line a number."""
    table = terminal_table(table_title("base card", results), "share", "%, 95 % interval", "n")
    for path in _paths(results["intervals"]):
        estimate = estimate_at(results, *path)
        label = ", ".join(TITLES.get(key, key.replace("_", " ")) for key in path)
        table.add_row(label, cell(estimate), str(estimate.n))
    (console or Console()).print(table)


def _paths(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if "low" in tree and "high" in tree:
        return [prefix]
    return [path for key, branch in tree.items() for path in _paths(branch, (*prefix, key))]


def base_card(
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int, typer.Option(min=1, help="Records per set.")] = SAMPLES,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
) -> None:
    """The base model's own numbers, no adapter."""
    new_file(json_file, overwrite)
    results = evaluate_base_card(*pocket.load(), samples=samples, seed=seed)
    print_base_card(results)
    keep(results, json_file)


app = command_line(base_card)


if __name__ == "__main__":
    run(app)
