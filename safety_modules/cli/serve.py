"""`safety-modules serve`: a guarded model behind OpenAI's endpoints."""

from pathlib import Path
from typing import Annotated

import typer

from safety_modules.cli.options import Adapter, Dtype, Quantize, adapter_for, attach


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
    name: Annotated[str | None, typer.Option(help="The model's name for clients; default: its folder's.")] = None,
    quantize: Quantize = None,
    dtype: Dtype = None,
) -> None:
    """Serve a guarded model: OpenAI's chat and moderation, litellm's guardrail, metrics.

    Limits are variables of the environment, SAFETY_MODULES_SERVE_MAX_IMAGES=4 for example: docs/serving.md lists them.
    """
    from safety_modules.adapter.folder import read_adapter
    from safety_modules.adapter.format import CONFIG_FILE
    from safety_modules.adapter.hub import find_adapter
    from safety_modules.io.files import sha256_of
    from safety_modules.io.optional import needed
    from safety_modules.policy.policy import Policy

    for module in ("fastapi", "uvicorn", "prometheus_client", "pydantic_settings"):
        needed(module, "serving", "serve")
    from safety_modules.serving import Access, ServeSettings, Service, make_server
    from safety_modules.serving.settings import read_settings

    settings = read_settings(ServeSettings, host=host, port=port, access=access, image_hosts=image_host or None)
    # What costs least comes first: a mistake in it is found before a base is loaded.
    keys = Access() if settings.access is None else Access.from_yaml(settings.access)
    settings.check_reachable(bool(keys.keys))
    rules = None if policy is None else Policy.from_yaml(policy)
    chosen = adapter_for(model, adapter)
    found = read_adapter(find_adapter(chosen))
    safety = attach(model, chosen, quantize, dtype)
    if rules is not None:
        safety.policy = rules
    about = {"name": str(chosen if adapter else Path(chosen).name), "sha256": sha256_of(found.path / CONFIG_FILE)}
    called = name or ("llava-pocket" if model is None else Path(model).name)
    config = safety.backbone.model.config.get_text_config()
    service = Service(safety, settings, keys, called, about, getattr(config, "max_position_embeddings", None))

    def tell(listening: int) -> None:
        typer.echo(f"{called}, guarded by {about['name']}: http://{settings.host}:{listening}", err=True)

    make_server(service, tell).run()
