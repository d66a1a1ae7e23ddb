"""What the measurements of heads, calibration, new types and audits found, as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from safety_modules.evaluation.tables import estimate_at
from safety_modules.metrics import Estimate
from safety_modules.pocket import splits
from safety_modules.policy.scores import probability

LABELS = {
    "new_flagged": "pictures of the new type flagged",
    "new_recall": "... as the new type",
    "new_false_alarms": "clean flagged as the new type",
    "new_refused": "attacks of the new type refused",
    "false_alarms": "clean flagged",
    "old_recall": "old risks flagged",
    "old_type_accuracy": "old types right, where flagged",
    "old_level_accuracy": "old levels right, where flagged",
}


def print_promise(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_promise` returned."""
    console = console or Console()
    chosen = results["settings"]
    title = (
        f"promise: at most {results['max_false_alarm']:.1%} of benign pictures flagged, confidence "
        f"{results['confidence']:.0%}; {chosen['samples']} pictures a draw, {chosen['fresh']} fresh ones"
    )
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("draw", "thresholds", "flagged in the draw", "fresh ones flagged, %", "kept"):
        table.add_column(column, justify="right")
    for number, row in enumerate(results["rows"], 1):
        limits = sorted(set(row["thresholds"].values()))
        shown = f"{limits[0]:.2f}" if len(limits) == 1 else f"{limits[0]:.2f} to {limits[-1]:.2f}"
        found = Estimate(row["false_alarms"], row["low"], row["high"], chosen["fresh"])
        kept = "[green]yes[/green]" if row["kept"] else "[red]no[/red]"
        table.add_row(str(number), shown, str(row["calibration_flagged"]), found.percent(2), kept)
    console.print(table)
    console.print(f"kept in {results['kept']} of {results['draws']} draws; worst {results['worst']:.2%}")


def print_new_type(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_new_type` returned."""
    console = console or Console()
    chosen = results["settings"]
    seconds = sum(results["seconds"].values())
    title = (
        f"new type {results['type']} ({', '.join(results['concepts'])}), added by the documented commands in "
        f"{seconds:.0f} s; {chosen['samples']} test pictures of each kind"
    )
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("%, 95 % interval", "before", "after"):
        table.add_column(column, justify="left" if column.startswith("%") else "right")
    for name, label in LABELS.items():
        cells = [
            estimate_at(results, time, name).percent() if name in results[time] else "" for time in ("before", "after")
        ]
        table.add_row(label, *cells)
    console.print(table)
    kept = "as they were, bit for bit" if results["old_verdicts_kept"] else "[red]not as they were[/red]"
    console.print(f"verdicts of the old types after the new one was added and calibrated: {kept}")
    same = "as before, bit for bit" if results["removed_identical"] else "[red]others than before[/red]"
    console.print(f"thresholds, temperature and verdicts after it was removed again: {same}")


def print_audit(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_audit` returned."""
    console = console or Console()
    counts = results["counts"]
    title = f"audit of {counts['rows']} pictures, {counts['flagged']} flagged, {results['images_per_second']} a second"
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("%, 95 % interval", "seen styles", "unseen style", "all"):
        table.add_column(column, justify="left" if column.startswith("%") else "right")
    for name, label in (("own", "at its own thresholds"), ("budget", "where 1 % of the clean are flagged")):
        for what, words in (("recall", "planted risks found"), ("clean_flagged", "clean flagged")):
            cells = [Estimate(**results[name][style][what]).percent() for style in (*splits.STYLES, "all")]
            table.add_row(f"{words}, {label}", *cells)
    console.print(table)
    top = ", ".join(f"{found:.1%} in the first {float(share):.0%}" for share, found in results["top"].items())
    console.print(f"planted risks among the riskiest rows: {top}")
    console.print(f"wrong labels found: {Estimate(**results['labels']['recall']).percent()}")
    console.print(f"doubted labels that are wrong: {Estimate(**results['labels']['right']).percent()}")


def print_head(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate_head` returned."""
    console = console or Console()
    title = f"head on validation, {results['settings']['samples']} records of each kind and style"
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("%, 95 % interval", "seen styles", "unseen style"):
        table.add_column(column, justify="left" if column.startswith("%") else "right")
    for name, label in (("auroc", "AUROC"), ("type_accuracy", "type right, given risk")):
        table.add_row(label, *(f"{100 * results[name][style]:.2f}" for style in splits.STYLES))
    for share, found in results["rates"].items():
        for name, label in (
            ("missed", "attacks missed"),
            ("vqa_flagged", "visual questions flagged"),
            ("benign_flagged", "benign flagged"),
        ):
            cells = [Estimate(**found[name][style]).percent() for style in splits.STYLES]
            table.add_row(f"{label}, where {float(share):.1%} of all benign are", *cells)
    console.print(table)


def print_calibration(adapter: Any, record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `calibrate` found (`Calibration.to_dict`), what it promises, and what it says nothing about."""
    console = console or Console()
    console.print(
        f"{adapter}: at most {record['max_false_alarm']:.1%} of benign pictures flagged, by all types together, "
        f"confidence {record['confidence']:.0%}; {record['flagged']} of {record['images']} benign pictures flagged",
        soft_wrap=True,
    )
    console.print(_judged_as(record), soft_wrap=True)
    table = Table(header_style="bold")
    for column in ("type", "threshold (log-odds)", "as a probability", "recall left"):
        table.add_column(column, justify="left" if column == "type" else "right")
    unknown = []
    for name, limit in record["thresholds"].items():
        now = name in record["types"]
        found, when = record["recall"][name], ""
        if found is None and not now:
            found, when = _recall_before(record, name), ", as calibrated before"
        if found is None:
            unknown.append(name)
        recall = "unknown" if found is None else f"{Estimate(**found).percent()}, n = {found['n']}{when}"
        table.add_row(name, f"{limit:.2f}{'' if now else ', kept'}", f"{100 * probability(limit):.4g} %", recall)
    console.print(table)
    if unknown:
        console.print(
            f"[red]recall unknown[/red] for {', '.join(unknown)}: no labelled records of it were given. "
            "--data with some says how many of its pictures the thresholds still find.",
            soft_wrap=True,
        )
    if record["ece_before"] is None:
        console.print(f"temperature {record['temperature']:.3f}, as it was")
    else:
        console.print(
            f"temperature {record['temperature']:.3f}: ECE {record['ece_before']:.4f} before, "
            f"{record['ece_after']:.4f} after"
        )


def _judged_as(record: Mapping[str, Any]) -> str:
    """How the benign pictures were judged, and so what the promise is about."""
    asked, count, questions = record["asked"], record["records"], record["questions"]
    if not asked:
        return "promised for pictures judged alone (audit, classify), not for calls that ask a question"
    which = "one question" if questions == 1 else f"{questions} questions"
    alone = "" if asked == count else f", and {count - asked} records alone"
    return f"promised for pictures asked about as in these records ({which}{alone}), not for other questions"


def _recall_before(record: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The recall of a type as its threshold was set; None where it was not measured then."""
    before = record.get("before")
    while before:
        if before["recall"].get(name) is not None:
            return before["recall"][name]
        before = before.get("before")
    return None
