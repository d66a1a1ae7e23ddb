"""Where the shipped folders lie: the pocket base model, its safety adapter and the training recipes.

In a source checkout (an editable install included) they stand beside the package, as `checkpoints/`,
`adapters/` and `training/`. A wheel brings them along inside the package, in `safety_modules/_data`.
"""

import os
from os import PathLike
from pathlib import Path

from safety_modules.errors import ConfigError, DataError

KINDS = ("checkpoints", "adapters", "training")
_PACKAGE = Path(__file__).resolve().parent


def checkpoint_dir(name: str = "llava-pocket") -> Path:
    """Return the folder of a shipped base model, for `from_pretrained`.

    Raises:
        DataError: neither the checkout nor the installed package holds that checkpoint.
    """
    return _find(f"checkpoints/{name}", "config.json")


def adapter_dir(name: str = "llava-pocket-safe") -> Path:
    """Return the folder of a shipped safety adapter, for `attach_safety(adapter=...)`.

    Raises:
        DataError: neither the checkout nor the installed package holds that adapter.
    """
    return _find(f"adapters/{name}", "adapter_config.json")


def adapter_for(model: str | Path | None, adapter: str | Path | None) -> str | Path:
    """The adapter that is named, or the shipped one for pocket, which stands for a model that is not named.

    Raises:
        ConfigError: another base, and no adapter.
    """
    if adapter is None and model is not None:
        raise ConfigError("no adapter: expected one with a base of your own, got none. Name its folder or hub id.")
    return adapter or adapter_dir()


def recipe_dir(name: str = "llava-pocket") -> Path:
    """Return the folder with the training recipes for a base model: `stage1.yaml` and `stage2.yaml`.

    Raises:
        DataError: neither the checkout nor the installed package holds those recipes.
    """
    return _find(f"training/{name}", "stage1.yaml")


def shipped(kind: str, name: str | PathLike[str]) -> Path | None:
    """The shipped thing of this name; None where there is something of this name here (a path wins), or no such thing.

    Args:
        kind: one of KINDS.
        name: as `shipped_names` has it, the ending `.yaml` of a file or not; a `Path` is never a name.
    """
    if not isinstance(name, str) or os.path.lexists(name):
        return None
    return shipped_names(kind).get(name.removesuffix(".yaml"))


def shipped_names(kind: str) -> dict[str, Path]:
    """Everything of a kind that comes with the package, by name: folders of models and adapters, YAML files."""
    found: dict[str, Path] = {}
    for place in reversed(_places()):
        for path in sorted((place / kind).glob("*/*")):
            if kind == "training" and path.suffix == ".yaml":
                found[f"{path.parent.name}/{path.stem}"] = path
            elif path.name in ("config.json", "adapter_config.json"):
                found[path.parent.name] = path.parent
    return found


def shipped_path(name: str) -> Path:
    """Where something shipped lies: a model, an adapter, a recipe, a configuration of accelerate's, `policy.yaml`.

    Raises:
        ConfigError: no such thing; it lists the names.
    """
    known = {name: path for kind in KINDS for name, path in shipped_names(kind).items()}
    known["policy"] = _PACKAGE / "data" / "policy.yaml"
    if name.removesuffix(".yaml") not in known:
        raise ConfigError(f"nothing shipped of this name: expected one of {', '.join(known)}, got {name}. Pick one.")
    return known[name.removesuffix(".yaml")]


def recipe_file(name: str | PathLike[str]) -> Path:
    """The YAML file of a recipe: a path, or a shipped one's name, such as `llava-1.5-7b/stage2-qlora`.

    Raises:
        ConfigError: neither; it lists the names.
    """
    if os.path.lexists(name):
        return Path(name)
    found = shipped("training", name)
    if found is None or found.parent.name == "accelerate":
        names = ", ".join(known for known in shipped_names("training") if not known.startswith("accelerate/"))
        raise ConfigError(
            f"recipe {name} not found: expected a YAML file, or the name of a shipped one ({names}), got neither. "
            "Check the spelling."
        )
    return found


def source_root() -> Path | None:
    """Return the root of the source checkout this package is imported from, None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def _places() -> list[Path]:
    # The checkout comes first: an editable install also holds a copy of the folders, as old as the install.
    root = source_root()
    return [place for place in (root, _PACKAGE / "_data") if place is not None]


def _find(relative: str, marker: str) -> Path:
    candidates = [place / relative for place in _places()]
    for candidate in candidates:
        if (candidate / marker).is_file():
            return candidate
    looked = " or ".join(str(candidate / marker) for candidate in candidates)
    raise DataError(
        f"Shipped folder '{relative}' not found: expected {looked}, got no such file. "
        "Reinstall safety-modules, or build the folder in a source checkout as its README.md says."
    )
