"""`safety-modules demo`: the tour in the terminal, or a page to click."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer

from safety_modules.cli.options import Adapter, Dtype, Model, Quantize, grouped, load_base
from safety_modules.errors import ConfigError

NEEDED = ("gradio", "fastapi", "uvicorn", "prometheus_client", "pydantic_settings")
"""Packages behind the page, and behind the server that it is part of."""


class Web(NamedTuple):
    """What the page shows: only with --web."""

    model: Model = None
    adapter: Adapter = None
    compare: Annotated[
        list[str] | None, typer.Option(help="--web: another adapter for the same base, to compare; repeat.")
    ] = None
    policy: Annotated[Path | None, typer.Option(help="--web: policy file to begin with.")] = None
    port: Annotated[int, typer.Option(min=0, max=65535, help="--web: 0 = a free one.")] = 7860
    quantize: Quantize = None
    dtype: Dtype = None


@grouped
def demo(
    pretrained: Annotated[bool, typer.Option(help="Use the shipped adapter: one minute, no training.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the picture, the report and the adapter.")] = Path(
        "safety-demo"
    ),
    web: Annotated[
        bool,
        typer.Option("--web", help="Serve a page to click instead, on this machine alone: with pocket, or --model."),
    ] = False,
    page: Web = Web(),
) -> None:
    """The whole tour: attack, train, evaluate, toggle, save, detach, reload; or, with --web, a page to click."""
    if web:
        if pretrained:
            raise ConfigError("two demos: expected --web or --pretrained, got both. The page has the shipped adapter.")
        serve_page(page)
        return
    given = [name for name, value in page._asdict().items() if value != getattr(Web(), name)]
    if given:
        raise ConfigError(
            f"--{given[0]} is of the page: expected --web with it, got the tour, which is pocket's. Add it."
        )
    from safety_modules.demo import OURS, run_demo
    from safety_modules.io.places import check_ours, check_writable

    check_ours(out, OURS, "a demo")
    check_writable(out)
    run_demo(out, pretrained)


def serve_page(page: Web) -> None:
    """Serve the page until Ctrl-C."""
    import os
    import signal
    import sys

    from safety_modules import web  # noqa: F401  (first: it tells gradio to ask and report nothing)
    from safety_modules.io.optional import needed

    for module in NEEDED:
        needed(module, "the page", "demo")
    from safety_modules.adapter.folder import read_adapter
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.attach.attach import attach_safety
    from safety_modules.backbones.bases import find_base
    from safety_modules.defences.registry import KINDS
    from safety_modules.paths import adapter_for, checkpoint_dir
    from safety_modules.policy.policy import Policy
    from safety_modules.web.audits import Audits
    from safety_modules.web.page import Page
    from safety_modules.web.playground import Playground
    from safety_modules.web.samples import write_examples, write_folder
    from safety_modules.web.server import HOST, make_app, make_server

    # What costs least comes first: a mistake in it is found before a base is loaded.
    chosen = [adapter_for(page.model, page.adapter), *(page.compare or [])]
    folders = {name: find_adapter(one) for name, one in zip(_names(chosen), chosen, strict=True)}
    (first, folder), *others = folders.items()
    kinds, *_ = [read_adapter(one).kinds for one in folders.values()]
    beside = [kind for kind, one in KINDS.items() if not one.needs_training and kind not in kinds]
    rules = None if page.policy is None else Policy.from_yaml(page.policy)
    title = "llava-pocket" if page.model is None else page.model
    base = checkpoint_dir() if page.model is None else find_base(page.model)
    model, processor = load_base(page.model, page.quantize, page.dtype)
    safety = attach_safety(model, processor, folder, policy=rules, defence=[*kinds, *beside], adapter_name=first)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # ends by it leave no uploads behind either
    with TemporaryDirectory(prefix="safety-modules-demo-") as place:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(place) / "uploads")
        playground = Playground(safety, dict(others))
        audits = Audits(base, folders, Path(place) / "audits")
        examples, pictures = [], None
        if page.model is None:
            examples, pictures = write_examples(Path(place) / "examples"), write_folder(Path(place) / "pictures")
        blocks = Page(playground, audits, title, examples, pictures, beside).blocks()
        app = make_app(blocks, audits, playground.settings.max_image_bytes)
        make_server(
            app, page.port, lambda port: typer.echo(f"{title}: http://{HOST}:{port} (Ctrl-C ends it)", err=True)
        ).run()


def _names(adapters: list[str | Path]) -> list[str]:
    """What the page calls them: the names of their folders, told apart by a number where these are the same."""
    names = [Path(one).name or str(one) for one in adapters]
    return [name if names.count(name) == 1 else f"{name} {place + 1}" for place, name in enumerate(names)]
