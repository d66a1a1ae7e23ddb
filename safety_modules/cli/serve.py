"""`safety-modules serve`: a guarded model behind OpenAI's endpoints."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import Adapter, Dtype, Quantize


def serve(
    model: Annotated[
        str | None, typer.Argument(help="Base model: folder or hub id (owner/name); default: llava-pocket.")
    ] = None,
    adapter: Adapter = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file; default: the one that comes along.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: this machine alone.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: 8000; 0 = a free one.")] = None,
    access: Annotated[
        Path | None, typer.Option(help="Who may ask: a YAML file of names, digests of keys, and what each may.")
    ] = None,
    image_host: Annotated[
        list[str] | None, typer.Option(help="Host that pictures may be fetched from; repeat. Default: none.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Copies of the model, behind Ray Serve: here, or where RAY_ADDRESS says.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name for clients; default: its folder's.")] = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
) -> None:
    """Serve a guarded model: OpenAI's chat and moderation, litellm's guardrail, metrics.

    Limits are variables of the environment, SAFETY_MODULES_SERVE_MAX_IMAGES=4 for example: docs/serving.md lists them.
    """
    from safety_modules.io.optional import needed

    for module in ("fastapi", "uvicorn", "prometheus_client", "pydantic_settings"):
        needed(module, "serving", "serve")
    from safety_modules.serving import ServeSettings, make_server
    from safety_modules.serving.replicas import replicated
    from safety_modules.serving.served import Served
    from safety_modules.serving.settings import read_settings

    settings = read_settings(
        ServeSettings, host=host, port=port, access=access, replicas=replicas, image_hosts=image_host or None
    )
    lines = sys.stdout

    def tell(listening: int) -> None:
        count = f" in {settings.replicas} replicas" if settings.replicas > 1 else ""
        typer.echo(
            f"{served.name}{count}, guarded by {served.about['name']}: http://{settings.host}:{listening}", err=True
        )

    served = Served.read(settings, model, adapter, policy, name, quantize, dtype)
    # The lines about requests stay alone on standard output, whatever Ray prints.
    with redirect_stdout(sys.stderr) if settings.replicas > 1 else nullcontext():
        service = served.service() if settings.replicas == 1 else replicated(served, lines)
        make_server(service, tell).run()
