"""`safety-modules calibrate`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_modules.cli.options import Cache, Dtype, Json, Model, Quantize, attach, grouped
from safety_modules.cli.reading import Reading, load_records
from safety_modules.cli.recipes import validated
from safety_modules.config import ViewsSettings
from safety_modules.errors import ConfigError
from safety_modules.io.hub import hub_id
from safety_modules.paths import shipped
from safety_modules.taxonomy import CLEAN

if TYPE_CHECKING:
    from rich.console import Console

    from safety_modules.attach.attachment import SafetyAttachment
    from safety_modules.records import GoodRecords, ReadOptions, Record
    from safety_modules.taxonomy import Taxonomy


@grouped
def calibrate(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder; its thresholds are replaced.")],
    benign: Annotated[
        list[str] | None,
        typer.Option(help="Clean records, or a folder of clean pictures; repeat. Default: pocket's validation data."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Labelled records with other pictures: fit the temperature, measure the recall. Repeat for several. "
            "Default: pocket's."
        ),
    ] = None,
    max_false_alarm: Annotated[float, typer.Option(help="At most this share of benign images is flagged.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Probability that the promise holds.")] = 0.95,
    per_type: Annotated[bool, typer.Option("--per-type", help="A threshold for each risk type.")] = False,
    type: Annotated[
        list[str] | None,
        typer.Option(
            help="Set the threshold of this type; all others keep theirs. Repeat for several. Default: the types that "
            "were added, where there are any and the others are calibrated; else all."
        ),
    ] = None,
    all_types: Annotated[bool, typer.Option("--all-types", help="Set the thresholds of all types anew.")] = False,
    like: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of pictures of another kind, of which no label is known: the promise is then about these, as "
            "far as the benign ones look like them. Repeat."
        ),
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(
            help="Pictures like those the adapter was trained on: fit anew what tells others from them. Repeat for "
            "several; pocket = its training data."
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Judge every picture by so many random views of it, against perturbed ones, at the price of as many "
            "runs of the vision tower; 0 = by one look. Default: as the adapter did.",
        ),
    ] = None,
    model: Model = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    reading: Reading = Reading(),
    cache: Cache = None,
    json_file: Json = None,
) -> None:
    """Set an adapter's thresholds: "at most 1 % of my benign images flagged", a finite-sample guarantee."""
    from safety_modules.io.files import write_json
    from safety_modules.pocket import mix
    from safety_modules.records.readers import read_pictures

    if benign is None and model is not None:
        raise ConfigError("nothing to calibrate on: expected --benign with --model, got none. Name a data file.")
    if benign is None and data is None and known in (None, ["pocket"]) and reading.given():
        raise ConfigError(
            "nothing to read: expected --benign, --data or --known with these options, got none. Name a file."
        )
    if type and (all_types or views is not None):
        raise ConfigError(
            "types named twice: expected --type, or --all-types or --views, which set all thresholds anew, got both. "
            "Leave one out."
        )
    _check_own(adapter)
    looks = None if not views else validated("views", ViewsSettings, {"count": views})
    safety = attach(model, adapter, quantize, dtype)
    if views is not None:
        safety.modules.judge_by(looks)
    taxonomy, own = safety.config.taxonomy, [] if known == ["pocket"] else known or []
    options, labelled_options, known_options = reading.options(taxonomy, benign or (), data or (), own)
    options, known_options = (
        [_clean(path, one, taxonomy) for path, one in zip(paths, of, strict=True)]
        for paths, of in ((benign or (), options), (own, known_options))
    )
    if known:
        shown: Any = load_records(own, known_options, safety, cache=cache) if own else mix.training_records()
        fit_known(safety, shown, cache)
    labelled: Any = None
    if data is not None:
        labelled = load_records(data, labelled_options, safety, cache=cache)
    elif benign is None:
        labelled = mix.labelled_records()
    records: Any = mix.calibration_records() if benign is None else load_records(benign, options, safety, cache=cache)
    found = save_calibrated(
        adapter,
        safety,
        records,
        max_false_alarm=max_false_alarm,
        per_type=per_type,
        confidence=confidence,
        types=safety.config.taxonomy.types if all_types or views is not None else type,
        labelled=labelled,
        like=None if like is None else read_pictures(like, taxonomy),
        cache_dir=cache,
    )
    if json_file is not None:
        write_json(json_file, found)


def fit_known(safety: "SafetyAttachment", records: "GoodRecords", cache: Path | None) -> None:
    """Fit what tells pictures outside of the training's to these; saved with what is calibrated."""
    from safety_modules.errors import DataError
    from safety_modules.training.corpus import Corpus
    from safety_modules.training.outside import LEAST, fit_outside

    corpus = Corpus.make(safety.backbone, records, cache, modules=safety.modules)
    different = len({digest for digest in corpus.digests if digest is not None})
    if different < LEAST:
        raise DataError(
            f"nothing fitted: expected at least {LEAST} different pictures with --known, got {different}. Add some."
        )
    typer.echo(f"what is outside: fitted to {fit_outside(safety, corpus)} pictures")


def _clean(path: str, options: "ReadOptions", taxonomy: "Taxonomy") -> "ReadOptions":
    """With what --benign and --known say of a folder's pictures that lie in none of a type."""
    from safety_modules.records.readers import open_source

    folder = open_source(path, options, taxonomy).format == "folder"
    return replace(options, type=CLEAN) if folder else options


def _check_own(adapter: Path) -> None:
    """Refuse, before any work, an adapter that is not a folder of the user's own, or cannot be written to."""
    from safety_modules.adapter.files import check_target

    name = str(adapter)
    if not adapter.exists() and (hub_id(name) or shipped("adapters", name)):
        raise ConfigError(
            f"not changed in place: expected an adapter's folder, got the name {name}. Copy it first: "
            f"cp -r $(safety-modules path {name}) my-adapter"
        )
    check_target(adapter)


def save_calibrated(
    adapter: Path, safety: "SafetyAttachment", records: "list[Record] | GoodRecords", **options: Any
) -> dict[str, Any]:
    """Calibrate an adapter attached as it is on disk, so that rounding is part of it, on benign records (options: of
    `training.calibrate`); write the outcome there, and print it.
    """
    from safety_modules.adapter.folder import read_adapter
    from safety_modules.training import calibrate as set_thresholds

    config = read_adapter(adapter).config
    found = set_thresholds(safety, records, **options).to_dict()
    if set(found["types"]) < set(found["thresholds"]):
        found["before"] = config.metadata.get("calibration")  # the others' thresholds are from there
    safety.save_pretrained(adapter, dtype=config.dtype, metadata={**config.metadata, "calibration": found})
    print_calibration(adapter, found)
    return found


def print_calibration(adapter: Any, record: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Print what `calibrate` found (`Calibration.to_dict`), what it promises, and what it says nothing about."""
    from rich.console import Console
    from rich.table import Table

    from safety_modules.metrics import Estimate
    from safety_modules.policy.scores import probability

    console = console or Console()
    console.print(
        f"{adapter}: at most {record['max_false_alarm']:.1%} of benign pictures flagged, by all types together, "
        f"confidence {record['confidence']:.0%}; {record['flagged']} of {record['images']} benign pictures flagged",
        soft_wrap=True,
    )
    if record.get("like") is not None:
        console.print(
            f"the promise is about pictures like the {record['like']} of --like, approximately: the benign ones count "
            f"as much as they are like these, which leaves what {record['effective']:.0f} of them would say",
            soft_wrap=True,
        )
    console.print(_judged_as(record), soft_wrap=True)
    if record.get("views"):
        console.print(f"every picture was judged by the mean of {record['views']} random views of it", soft_wrap=True)
    for line in _outside_lines(record):
        console.print(line, soft_wrap=True, markup=False)
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


def _outside_lines(record: Mapping[str, Any]) -> list[str]:
    """What is known of the benign pictures beside those of the training, and of the calibration before."""
    from safety_modules.policy.outside import Outsiders

    if record.get("outside") is None:
        return ["nothing says which pictures are outside of what was trained: --known FILE fits that"]
    found = Outsiders(**record["outside"])
    lines = found._replace(void=None).lines()
    if found.void:
        lines.append(
            f"these pictures {found.differs('the calibration before')}: what it promised is not about them; what is "
            "promised now is about no others"
        )
    return lines


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
