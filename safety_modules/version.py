"""The package's version, and the versions of libraries that its tests were run with."""

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

TRIED = {
    "torch": ("2.13",),
    "transformers": ("4.57", "5.17", "5.23", "5.24"),
    "peft": ("0.17", "0.21"),
    "accelerate": ("1.3", "1.15"),
    "bitsandbytes": ("0.50",),
}
"""By library the series the tests passed with (`make test-matrix`, `make test-quant`). Others are allowed, and told."""


def installed() -> dict[str, str]:
    """Versions of the libraries that answers depend on, as far as they are there."""
    found = {"safety-modules": __version__}
    for name in TRIED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an optional one
            continue
    return found


def never_tried() -> list[str]:
    """A sentence for each installed library whose series no test was run with."""
    return [
        f"{name} {got} was never tried (tried: {', '.join(TRIED[name])})"
        for name, got in installed().items()
        if name in TRIED and ".".join(got.split(".")[:2]) not in TRIED[name]
    ]


@cache
def tell_never_tried() -> None:
    """One warning, once a process, where such a library is installed."""
    if found := never_tried():
        warnings.warn(
            f"safety-modules {__version__}: {'; '.join(found)}. It may well work: `safety-modules doctor MODEL` checks "
            "it on your own model.",
            stacklevel=3,
        )
