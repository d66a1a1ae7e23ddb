"""`safety-modules evaluate`."""

from typing import Annotated

import typer

from safety_modules.cli.options import Adapter, Json, attach
from safety_modules.errors import ConfigError


def pocket(
    adapter: Adapter = None,
    json_file: Json = None,
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

    if base_card:
        if adapter is not None:
            raise ConfigError("two subjects: expected --adapter or --base-card, got both. Leave one out.")
        results = evaluate_base_card(*world.load(), samples=samples, seed=seed)
        print_base_card(results)
    else:
        results = evaluate_pocket(attach(None, adapter), samples=samples, seed=seed)
        print_results(results)
    if json_file is not None:
        write_json(json_file, results)
