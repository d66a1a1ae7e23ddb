"""`safety-modules evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Adapter, Cache, Json, Overwrite, attach, new_file
from safety_modules.errors import ConfigError


def pocket(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int, typer.Option(min=1, help="Records per set.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    base_card: Annotated[bool, typer.Option("--base-card", help="The base model's own numbers, no adapter.")] = False,
) -> None:
    """Base against guarded on pocket's held-out test data: the numbers in the README."""
    from safety_modules import pocket as world
    from safety_modules.evaluation.base_card import evaluate_base_card
    from safety_modules.evaluation.pocket_suite import evaluate_pocket
    from safety_modules.evaluation.results import write_json
    from safety_modules.evaluation.tables import print_base_card, print_results

    new_file(json_file, overwrite)
    if base_card:
        if adapter is not None:
            raise ConfigError("two subjects: expected --adapter or --base-card, got both. Leave one out.")
        results = evaluate_base_card(*world.load(), samples=samples, seed=seed)
        print_base_card(results)
    else:
        results = evaluate_pocket(attach(None, adapter), samples=samples, seed=seed)
        print_results(results)
        if added := results.get("added_types"):
            typer.echo(f"Not measured: {', '.join(added)}. Pocket's test data has no attacks of added types.")
    if json_file is not None:
        write_json(json_file, results)


def head(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int | None, typer.Option(min=1, help="Records of each kind and style; default: 5,000.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the records; default: 5.")] = None,
    cache: Cache = None,
) -> None:
    """A head by itself, on pocket's validation split, at fixed false-alarm rates: to compare heads and to choose."""
    from safety_modules.evaluation.head import SAMPLES, SEED, evaluate_head
    from safety_modules.evaluation.results import write_json
    from safety_modules.evaluation.training_tables import print_head

    new_file(json_file, overwrite)
    results = evaluate_head(attach(None, adapter), samples or SAMPLES, SEED if seed is None else seed, cache)
    print_head(results)
    if json_file is not None:
        write_json(json_file, results)


def promise(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    draws: Annotated[int | None, typer.Option(min=1, help="Calibrations; default: 20.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Benign pictures of each; default: 470.")] = None,
    fresh: Annotated[int | None, typer.Option(min=1, help="Fresh ones to measure on; default: 20,000.")] = None,
    pool: Annotated[
        int | None, typer.Option(min=1, help="Pictures the draws come from; default: enough for no two to share one.")
    ] = None,
    max_false_alarm: Annotated[float, typer.Option(help="The promised rate.")] = 0.01,
    per_type: Annotated[bool, typer.Option("--per-type", help="A threshold for each risk type.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Is the promise of calibration kept? Many calibrations on pocket, each measured on fresh benign pictures."""
    from safety_modules.evaluation.promise import DRAWS, FRESH, IMAGES, evaluate_promise
    from safety_modules.evaluation.results import write_json
    from safety_modules.evaluation.training_tables import print_promise

    new_file(json_file, overwrite)
    results = evaluate_promise(
        attach(None, adapter),
        draws or DRAWS,
        samples or IMAGES,
        fresh or FRESH,
        pool=pool,
        max_false_alarm=max_false_alarm,
        per_type=per_type,
        seed=seed,
    )
    print_promise(results)
    if json_file is not None:
        write_json(json_file, results)


def new_type(
    json_file: Json = None,
    overwrite: Overwrite = False,
    out: Annotated[Path | None, typer.Option(help="Empty folder for data and adapters; default: not kept.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Test pictures of each kind.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """What adding a risk type gives and costs: the commands of docs/fine-tuning.md, run and measured (two minutes)."""
    from tempfile import TemporaryDirectory

    from safety_modules.evaluation.new_type import evaluate_new_type
    from safety_modules.evaluation.results import write_json
    from safety_modules.evaluation.training_tables import print_new_type

    new_file(json_file, overwrite)
    with TemporaryDirectory() as folder:
        results = evaluate_new_type(out or folder, samples=samples, seed=seed)
    print_new_type(results)
    if json_file is not None:
        write_json(json_file, results)


def audit(
    context: typer.Context,
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    out: Annotated[
        Path | None, typer.Option(help="Keep dataset and audit here, and go on if interrupted; default: nowhere.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Pictures of the dataset.")] = 20_000,
    share: Annotated[float, typer.Option(min=0.001, max=0.2, help="Planted risks, and as many wrong labels.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Does an audit find what was planted? A pocket dataset with hidden risks and wrong labels, audited like any."""
    from tempfile import TemporaryDirectory

    from safety_modules.adapter.folder import read_adapter
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.evaluation.audit_proof import DATA, evaluate_audit
    from safety_modules.evaluation.results import write_json
    from safety_modules.evaluation.training_tables import print_audit
    from safety_modules.io.places import check_ours, check_writable

    given = None if adapter is None else read_adapter(find_adapter(adapter)).path  # before pictures are made
    new_file(json_file, overwrite)
    if out is not None:
        check_ours(out, (DATA,), "an `evaluate audit`")
        check_writable(out)
        goes_on(context)
    with TemporaryDirectory(prefix="safety-modules-") as folder:
        results = evaluate_audit(out or folder, samples, given, share=share, seed=seed)
    print_audit(results)
    if json_file is not None:
        write_json(json_file, results)
