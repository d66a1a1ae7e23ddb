"""`safety-modules fit`."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from safety_modules.cli.options import Dtype, Overwrite, Quantize, grouped, load_base
from safety_modules.cli.outcome import Outcome
from safety_modules.errors import ConfigError, validation_problems


class Fitting(NamedTuple):
    """Settings of the defence; None = its default."""

    alpha: Annotated[float | None, typer.Option(help="How much of the shift is taken back.")] = None
    layer: Annotated[
        list[int] | None, typer.Option(help="Act behind this block, from 0, or from the last, -1; repeat for several.")
    ] = None
    form: Annotated[
        str | None, typer.Option(help="cmrm: mean or pc1_scaled. shiftdc: caption, or lite (not the paper's).")
    ] = None
    tokens: Annotated[str | None, typer.Option(help="cmrm: last or all tokens of the prompt.")] = None
    steps: Annotated[str | None, typer.Option(help="cmrm: the prompt's pass alone (prefill), or all.")] = None
    picture: Annotated[str | None, typer.Option(help="cmrm: the meaningless picture, white or noise.")] = None
    unsafe_only: Annotated[
        bool | None, typer.Option("--unsafe-only", help="cmrm: fit to unsafe texts alone, as published; over-refuses.")
    ] = None

    def settings(self) -> dict[str, Any]:
        """By the names that settings have."""
        named = self._asdict() | {"layers": self.layer, "anchors": "unsafe" if self.unsafe_only else None}
        return {key: value for key, value in named.items() if value is not None and key not in ("layer", "unsafe_only")}


@grouped
def fit(
    defence: Annotated[str, typer.Argument(help="cmrm or shiftdc.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    model: Annotated[
        str | None, typer.Argument(help="Base (transformers' LLaVA): folder or hub id; default: llava-pocket.")
    ] = None,
    anchors: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON with texts by the keys unsafe and safe; default: the shipped ones."),
    ] = None,
    fitting: Fitting = Fitting(),
    quantize: Quantize = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a defence that needs no training, and no picture, to a base with a few texts, and save it as an adapter."""
    from pydantic import ValidationError

    from safety_modules.attach.attach import attach_safety
    from safety_modules.defences.anchors import Anchors
    from safety_modules.defences.registry import FITTED

    if defence not in FITTED:
        raise ConfigError(
            f"nothing to fit: expected one of {', '.join(FITTED)}, got {defence!r}. Others are trained "
            "(safety-modules train), or need neither."
        )
    try:
        settings = FITTED[defence].settings_type.model_validate(fitting.settings())
    except ValidationError as error:
        raise ConfigError(
            f"no {defence}: expected other settings, got {'; '.join(validation_problems(error))} Change the options."
        ) from error
    texts = Anchors.default() if anchors is None else Anchors.read(anchors)
    outcome = Outcome(out, None, overwrite=overwrite)
    outcome.check()
    base, processor = load_base(model, quantize, dtype)
    safety = attach_safety(base, processor, defence=settings, anchors=texts)
    about = {"unsafe": len(texts.unsafe), "safe": len(texts.safe), "sha256": texts.digest}
    outcome.save(safety, {"anchors": about})
    typer.echo(f"{out}: {defence}, fitted to {len(texts.unsafe)} unsafe and {len(texts.safe)} safe texts.")
