"""`safety-modules evaluate --suite ...`: several systems on the same cases, one report; and `evaluate pocket`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from safety_modules.cli.interruption import goes_on
from safety_modules.cli.options import Adapter, Dtype, Json, Model, Overwrite, Quantize, attach, load_base, new_file
from safety_modules.errors import ConfigError, DataError

DEFAULT_JUDGE = "string:start"


def evaluate(
    context: typer.Context,
    model: Model = None,
    adapter: Adapter = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME=FOLDER of a system to compare, or several with a plus between them, the outermost "
            "first; repeat. Default: gated, if there is an adapter."
        ),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Benchmark, such as pocket or figstep.")] = None,
    data: Annotated[str | None, typer.Option(help="The benchmark's folder, or a hub id (hf://owner/name).")] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="METHOD-EPS-AIM, such as apgd-4-readable, by one who knows the guard; or ask-FORM; repeat."),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(help="NAME=FOLDER of the system that attacks on pixels know; shown to every other one."),
    ] = None,
    part: Annotated[list[str] | None, typer.Option(help="Only this part, or pattern of parts; repeat.")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help=f"Who judges replies; repeat, the first is the report's own. Default: {DEFAULT_JUDGE}."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Cases of each part at most, spread evenly over it.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw that --limit makes.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Cases at a time.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Limit of an answer.")] = None,
    max_judge_errors: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of replies a judge may fail on before the run fails.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; an interrupted one goes on. Default: runs/evaluate-SUITE.")
    ] = None,
) -> None:
    """Measure a base model and its defences: safety, over-refusal, utility and cost in one report.

    Without a command: --suite names a benchmark; the bare base (none) is always among the systems.
    """
    given = [name for name in context.params if _is_given(context, name)]
    if context.invoked_subcommand is not None:
        if given:
            raise ConfigError(
                f"two things to do: expected options for a benchmark or the command {context.invoked_subcommand}, got "
                "both. Options of a command stand behind its name."
            )
        return
    if suite is None:
        if given:
            raise ConfigError("nothing to evaluate on: expected --suite, got none. Name a benchmark.")
        typer.echo(context.get_help())
        return
    from safety_modules.backbones.bases import find_base, local_config
    from safety_modules.defences.registry import GUARD_MODES
    from safety_modules.evaluation.attacks import PixelAttack, Transferred, attack_named
    from safety_modules.evaluation.attacks.adversary import attackable
    from safety_modules.evaluation.harness import run as harness
    from safety_modules.evaluation.harness.identity import identify
    from safety_modules.evaluation.harness.sample import draw
    from safety_modules.evaluation.judges import make_judge
    from safety_modules.evaluation.outcomes import BASE
    from safety_modules.evaluation.suites.registry import benchmark, data_folder
    from safety_modules.evaluation.systems import check_spec, make_system, parts_of
    from safety_modules.evaluation.terminal import print_overview
    from safety_modules.io.places import check_ours, check_writable
    from safety_modules.paths import adapter_dir

    # What costs least comes first: a mistake in it is found before cases are made and a base is loaded.
    out = out or Path("runs") / f"evaluate-{suite}"
    check_ours(out, (harness.MANIFEST,), "an evaluation")
    check_writable(out)
    adapter = adapter or (str(adapter_dir()) if model is None else None)
    specs = defence or ([] if adapter is None else ["gated"])
    for single in (one for spec in specs for one in parts_of(spec)):
        check_spec(single, adapter)
    attacks = [attack_named(name) for name in attack or ()]
    judging = [spec for spec in specs if any(one.partition("=")[0] in GUARD_MODES for one in parts_of(spec))]
    knowing = any(isinstance(one, PixelAttack) for one in attacks)
    if surrogate is not None and not knowing:
        raise ConfigError("nothing to transfer: expected --attack METHOD-EPS-AIM with --surrogate, got none. Name one.")
    for single in [] if surrogate is None else parts_of(surrogate):
        check_spec(single, adapter)
    readable = any(isinstance(one, PixelAttack) and one.aim == "readable" for one in attacks)
    if knowing and not judging and surrogate is None and not (readable and {*specs} - {BASE}):
        raise ConfigError(
            f"nothing to attack: expected one of {', '.join(GUARD_MODES)} among the systems, or any defence and the "
            f"aim readable, got {', '.join(specs) or 'none'}. Add --defence gated."
        )
    folder = None if model is None else find_base(model)
    if folder is not None:
        local_config(folder)
    sample = draw(benchmark(suite), None if data is None else data_folder(data), part or (), limit, seed, progress=True)
    judges = [make_judge(spec) for spec in judge or [DEFAULT_JUDGE]]
    limits = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "max_judge_errors": max_judge_errors}
    chosen: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    if BASE not in specs:
        typer.echo(f"{BASE} (the bare base) is added: changes and costs are measured against it.")
        specs = [BASE, *specs]
    base, processor = load_base(folder, quantize, dtype)
    name = "llava-pocket"
    if model is not None and folder is not None:
        name = (folder.resolve() if Path(model).exists() else Path(model)).name
    goes_on(context)
    asked: list[Any] = [*attacks]
    if surrogate is not None:
        known = make_system(surrogate, base, processor, adapter)
        asked = [Transferred(one, known) if isinstance(one, PixelAttack) else one for one in attacks]

    def meets(one: Any, spec: str) -> bool:
        """Whether a system is asked under an attack; why a defence is not is said."""
        if not isinstance(one, PixelAttack) or spec in judging:
            return True
        if spec == BASE:
            return False
        try:
            attackable(one.name, make_system(spec, base, processor, adapter), one.aim)
        except DataError as error:
            typer.echo(f"{spec} is not attacked: {error}")
            return False
        return True

    report = harness.evaluate(
        sample,
        [
            *(partial(make_system, spec, base, processor, adapter) for spec in specs),
            *(
                partial(make_system, spec, base, processor, adapter, one)
                for one in asked
                for spec in specs
                if meets(one, spec)
            ),
        ],
        judges,
        out,
        identify(base, processor, name) | {"quantization": quantize},
        harness.RunSettings(**chosen),
        progress=True,
    )
    print_overview(report)
    typer.echo(f"report: {out / harness.PAGE}")


def pocket(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    samples: Annotated[int, typer.Option(min=1, help="Records per set.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Base against guarded on pocket's held-out test data: the numbers in the README."""
    from safety_modules.evaluation.pocket_report import print_results
    from safety_modules.evaluation.pocket_suite import evaluate_pocket
    from safety_modules.io.files import write_json

    new_file(json_file, overwrite)
    results = evaluate_pocket(attach(None, adapter), samples=samples, seed=seed)
    print_results(results)
    if added := results.get("added_types"):
        typer.echo(f"Not measured: {', '.join(added)}. Pocket's test data has no attacks of added types.")
    if json_file is not None:
        write_json(json_file, results)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
