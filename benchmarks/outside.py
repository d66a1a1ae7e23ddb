"""Does the head know what it was not trained on? Pictures marked `outside`, and promises called void, on pocket.

python benchmarks/outside.py --real photographs --real plans     # folders of pictures from elsewhere
python benchmarks/outside.py --packages X                        # or of those named below
python benchmarks/outside.py --compare 8000                      # other distances, fitted to so many pictures

X is where these Debian packages were unpacked (`apt-get download P`, `dpkg-deb -x P*.deb X`): mate-backgrounds,
python3-skimage, python3-sklearn, opencv-doc, gimp-help-en, gnuplot-doc, maint-guide; and the pages of the last two were
drawn (`pdftoppm -r 50 -l 100 -png X/usr/share/doc/.../ONE.pdf X/pages-ONE`).
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from script import command_line, keep, run

from safety_modules.adapter.folder import read_adapter
from safety_modules.adapter.hub import find_adapter
from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.cli.options import Adapter, Json, Overwrite, attach, new_file
from safety_modules.defences.guard.outside import pool
from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.results import settings
from safety_modules.evaluation.terminal import terminal_table
from safety_modules.io.progress import track
from safety_modules.metrics import Estimate, rate
from safety_modules.paths import adapter_for
from safety_modules.pictures import open_picture
from safety_modules.pocket import mix, splits
from safety_modules.pocket.transforms import TRANSFORMS
from safety_modules.policy.outside import outsiders
from safety_modules.records.record import Record
from safety_modules.training import calibrate
from safety_modules.training.corpus import Corpus
from safety_modules.training.outside import fit_outside, fitted
from safety_modules.training.strangers import strangers

SAMPLES, SEED, REAL = 300, 0, 300
SKIMAGE = "astronaut brick camera chelsea coffee coins grass gravel moon motorcycle_left rocket"
OPENCV = (
    "aero1 aloeL apple baboon basketball1 board box_in_scene building butterfly chicky_512 ela_original fruits graf1 "
    "home left left0[1-5] leuvenA licenseplate_motion messi5 orange rubberwhale1 squirrel_cls stuff"
)
GIMP = "dialogs/*-dialog* dialogs/*-menu* menus/[!t]* preferences/prefs-* using/*-dialog using/*-window*"
PACKAGES = {
    "photographs": (
        "usr/share/backgrounds/mate/nature/*.jpg",
        *(f"usr/lib/python3/dist-packages/skimage/data/{name}.*" for name in SKIMAGE.split()),
        "usr/lib/python3/dist-packages/sklearn/datasets/images/*.jpg",
        *(f"usr/share/doc/opencv-doc/examples/data/{name}.*" for name in OPENCV.split()),
        "usr/share/doc/opencv-doc/examples/text/scenetext0*.jpg",
    ),
    "windows": tuple(f"usr/share/gimp/2.0/help/en/images/{name}.png" for name in GIMP.split()),
    "pages": ("pages-*.png",),
}
"""Pictures of packages that are what their kind is called: no drawings among photographs, no icons among windows."""
LEAST = 48
"""Pixels of the shorter side, below which a picture is an icon."""
STYLES = (*splits.STYLES, "held_out")
NEIGHBOURS, NEIGHBOUR = 700, 3
"""Of kNN: as many pictures as fit into 0.3 MB on pocket, and which of the nearest counts."""


class Sets:
    """Pictures with what the guard says of them: of pocket's test split by style and transform, and of folders."""

    def __init__(
        self, safety: SafetyAttachment, real: Sequence[Path], samples: int, seed: int, packages: Path | None = None
    ) -> None:
        self.safety, self.samples, self.seed = safety, samples, seed
        self.own = {style: self.drawn(style) for style in STYLES}
        self.real = {folder.name: pictures_in(folder, seed) for folder in real}
        for kind, patterns in PACKAGES.items() if packages else ():
            self.real[kind] = pictures_in(packages, seed, patterns)

    def drawn(self, style: str, transform: str | None = None, times: int = 1) -> list[Record]:
        """Benign records of the test split."""
        made = {"split": "test", "style": style, "seed": self.seed, "transform": transform}
        return splits.make("benign", times * self.samples, **made)

    def verdicts(self, records: Sequence[Record]) -> tuple[np.ndarray, list[bool], np.ndarray]:
        """p-values of the pictures; whether they are flagged with the records' questions; and their risks."""
        pictures = [record.load_image() for record in records]
        found = self.safety.classify(pictures, [record.question or None for record in records])
        p_values, risks = (np.array(part) for part in zip(*((one.outside, one.risk) for one in found), strict=True))
        return p_values, [one.flagged for one in found], risks


def pictures_in(folder: Path, seed: int, patterns: Sequence[str] = ("**/*",)) -> list[Record]:
    """At most `REAL` of the pictures in a folder, in any folder below it, drawn at random; asked nothing."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    found: list[Record] = []
    for place in np.random.default_rng(seed).permutation(len(files)):
        if len(found) == REAL:
            break
        try:
            picture = open_picture(files[place])
        except DataError:  # something else that lies there
            continue
        if min(picture.size) < LEAST:
            continue
        found.append(Record(image=picture, question="", answer=None, type="clean", level="safe"))
    if not found:
        raise ConfigError(f"no pictures: expected some in {folder}, got none that can be read. Name another folder.")
    return found


def marked(sets: Sets, significance: float) -> dict[str, Any]:
    """By set the shares that are marked outside, at the significance and where 1 % of pocket's unchanged pictures are
    (`edge`), and that are flagged."""
    judged = {name: sets.verdicts(records) for name, records in {**sets.own, **sets.real}.items()}
    edge = float(np.quantile(np.concatenate([judged[style][0] for style in splits.STYLES]), 0.01))
    shares = {
        name: {
            "outside": rate((p_values <= significance).tolist())._asdict(),
            "at_edge": rate((p_values <= edge).tolist())._asdict(),
            "flagged": rate(flagged)._asdict(),
        }
        for name, (p_values, flagged, _) in judged.items()
    }
    return {"edge": edge, "sets": shares}


def promises(sets: Sets, significance: float, promised: float, progress: bool = True) -> list[dict[str, Any]]:
    """Of benign sets of every style and transform: whether the promise is kept, and whether it is called void."""
    known = sets.safety.modules.outside
    assert known is not None
    before = known.calibration(sets.safety.thresholds)
    rows: list[dict[str, Any]] = []
    names = [(style, name) for style in STYLES for name in (None, *TRANSFORMS)]
    with track("promises", len(names), progress, things="sets") as advance:
        for style, name in names:
            p_values, flagged, risks = sets.verdicts(sets.drawn(style, name))
            said = outsiders(p_values, significance, risks, before)
            assert said is not None
            alarms = rate(flagged)
            broken = alarms.low > promised  # not by chance
            rows.append({"set": f"{style}, {name or 'unchanged'}", "alarms": alarms._asdict(), "broken": broken})
            rows[-1] |= {"void": bool(said.void), "outside": said.share, "difference": said.difference}
            advance(1)
    return rows


def weighted(sets: Sets, every: int, promised: float, progress: bool = True) -> list[dict[str, Any]]:
    """Of every so many of these sets: thresholds for its first half without a label, and what they do to the other."""
    safety, rows = sets.safety, list[dict[str, Any]]()
    before, known = safety.thresholds, safety.modules.outside
    attacks = splits.make("attack", sets.samples, split="test", style="seen", seed=sets.seed)
    judged = safety.classify([one.load_image() for one in attacks], [one.question for one in attacks])
    risks = [max(one.scores.values()) for one in judged]
    names = [(style, name) for style in STYLES for name in [None, *TRANSFORMS][::every]]
    with tempfile.TemporaryDirectory() as cache, track("weights", len(names), progress, things="sets") as advance:
        for style, name in names:
            records = sets.drawn(style, name, times=2)
            like, others = records[: sets.samples], records[sets.samples :]
            row: dict[str, Any] = {"set": f"{style}, {name or 'unchanged'}"}
            row["alarms"] = rate(sets.verdicts(others)[1])._asdict()
            try:
                found = calibrate(
                    safety, mix.calibration_records(), promised, like=like, cache_dir=cache, progress=False
                )
                row |= {"effective": found.effective, "weighted": rate(sets.verdicts(others)[1])._asdict()}
                row["recall"] = rate([risk >= min(safety.thresholds.values()) for risk in risks])._asdict()
            except DataError as error:
                row["refused"] = str(error)
            safety.thresholds = before
            safety.modules.know(outside=known)
            rows.append(row)
            advance(1)
    return rows


def compared(sets: Sets, count: int, significance: float, seed: int) -> dict[str, dict[str, float]]:
    """Shares marked by the distance that was kept, by Mahalanobis++ alone and by kNN, fitted to the same pictures."""
    safety = sets.safety
    corpus = Corpus.make(safety.backbone, mix.training_records(count, seed), modules=safety.modules).store
    features = _pooled(safety, [torch.from_numpy(one[None]) for one in corpus.values()])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(features)))
    kept, near = features[order[: len(order) // 4]], features[order[len(order) // 4 :]]
    fit = fitted(near, kept, _pooled(safety, _seen(safety, strangers(100))))
    alone = fitted(near, kept, near[:100])
    alone.direction.zero_()
    neighbours = (near[:NEIGHBOURS] - fit.mean) @ fit.whiten.T

    def nearest(pooled: torch.Tensor) -> torch.Tensor:
        return torch.cdist((pooled - fit.mean) @ fit.whiten.T, neighbours).kthvalue(NEIGHBOUR, 1).values

    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "Mahalanobis++ and made-up pictures (kept)": fit.distance,
        "Mahalanobis++": alone.distance,
        f"kNN, {NEIGHBOUR} of {NEIGHBOURS}": nearest,
    }
    found: dict[str, dict[str, float]] = {}
    seen = {
        name: _pooled(safety, _seen(safety, [record.load_image() for record in records]))
        for name, records in {**sets.own, **sets.real}.items()
    }
    for way, distance in ways.items():
        own = distance(kept)
        found[way] = {}
        for name, pooled in seen.items():
            above = (own[None] >= distance(pooled)[:, None]).sum(1)  # (N,)
            found[way][name] = float(((1 + above) / (len(own) + 1) <= significance).float().mean())
    return found


def _seen(safety: SafetyAttachment, pictures: Sequence[Any]) -> list[torch.Tensor]:
    backbone, found = safety.backbone, list[torch.Tensor]()
    for start in range(0, len(pictures), 32):
        pixels = backbone.joined([backbone.pixel_values([one]) for one in pictures[start : start + 32]])
        with safety.inference():
            found.append(backbone.encode_images(pixels).vision)
    return found


def _pooled(safety: SafetyAttachment, batches: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([pool(batch).cpu() for batch in batches])


def print_outside(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what the command measured."""
    console = console or Console()
    edge, significance = results["marked"]["edge"], results["significance"]
    columns = ("n", f"outside, p <= {significance:g}", f"p <= {edge:.3f}: 1 % of pocket's own", "flagged")
    table = terminal_table("marked outside", "pictures", *columns)
    for name, row in results["marked"]["sets"].items():
        found = [Estimate(**row[what]) for what in ("outside", "at_edge", "flagged")]
        table.add_row(name, str(found[0].n), *(one.percent() for one in found))
    console.print(table)
    if results["compared"]:
        names = [*next(iter(results["compared"].values()))]
        table = terminal_table("marked outside, %", "distance", *names)
        for way, shares in results["compared"].items():
            table.add_row(way, *(f"{100 * shares[name]:.1f}" for name in names))
        console.print(table)
    rows = results["promises"]
    broken = [row for row in rows if row["broken"]]
    table = terminal_table("benign sets with more false alarms than promised", "set", "false alarms", "outside", "void")
    for row in broken:
        void = "[green]yes[/green]" if row["void"] else "[red]no[/red]"
        table.add_row(row["set"], Estimate(**row["alarms"]).percent(), f"{100 * row['outside']:.1f} %", void)
    console.print(table)
    kept = [row for row in rows if not row["broken"]]
    void = sum(row["void"] for row in broken)
    console.print(
        f"promise of {results['promised']:.1%} broken in {len(broken)} of {len(rows)} sets, {void} called void"
    )
    console.print(f"called void in {sum(row['void'] for row in kept)} of the {len(kept)} where it is not broken")
    if rows := results.get("weighted"):
        made = [row for row in rows if "weighted" in row]
        table = terminal_table("promises with weights", "set", "false alarms", "weighted", "says as much as", "recall")
        for row in made:
            cells = [Estimate(**row[name]).percent() for name in ("alarms", "weighted")]
            table.add_row(row["set"], *cells, f"{row['effective']:.0f}", Estimate(**row["recall"]).percent())
        console.print(table)
        broken = [row for row in rows if row["alarms"]["low"] > results["promised"]]
        still = [row for row in made if row["weighted"]["low"] > results["promised"]]
        console.print(
            f"made for {len(made)} of {len(rows)} sets, {sum(row in made for row in broken)} of the {len(broken)} with "
            f"a broken promise; broken with weights in {len(still)}"
        )


def outside(
    adapter: Adapter = None,
    json_file: Json = None,
    overwrite: Overwrite = False,
    real: Annotated[list[Path] | None, typer.Option(help="Folder of pictures from elsewhere; repeat.")] = None,
    samples: Annotated[int, typer.Option(min=20, help="Pictures of each of pocket's sets.")] = SAMPLES,
    fit: Annotated[int, typer.Option(min=0, help="Fit what is outside to so many training pictures first.")] = 0,
    compare: Annotated[int, typer.Option(min=0, help="Compare distances, fitted to so many training pictures.")] = 0,
    packages: Annotated[Path | None, typer.Option(help="Where the packages were unpacked.")] = None,
    weigh: Annotated[int, typer.Option(min=0, help="Weighted promises for one set of so many; 0 = none.")] = 0,
    seed: Annotated[int, typer.Option(min=0)] = SEED,
) -> None:
    """Does the head know what it was not trained on? Pictures marked outside, and promises called void."""
    new_file(json_file, overwrite)
    calibration: Any = read_adapter(find_adapter(adapter_for(None, adapter))).config.metadata.get("calibration") or {}
    promised = mix.MAX_FALSE_ALARM if fit else calibration.get("max_false_alarm", mix.MAX_FALSE_ALARM)
    safety = attach(None, adapter)
    if fit:
        fit_outside(safety, Corpus.make(safety.backbone, mix.training_records(fit), modules=safety.modules))
        calibrate(safety, mix.calibration_records(), max_false_alarm=promised)
    if safety.modules.outside is None or not len(safety.modules.outside.calibrated):
        raise ConfigError("nothing to measure: expected an adapter that says what is outside, got one without. --fit.")
    sets, significance = Sets(safety, real or [], samples, seed, packages), safety.policy.outside_significance
    results = {
        "suite": "outside",
        "settings": settings(samples, seed),
        "significance": significance,
        "marked": marked(sets, significance),
        "compared": compared(sets, compare, significance, seed) if compare else {},
        "promised": promised,
        "promises": promises(sets, significance, promised),
    }
    if weigh:
        results["weighted"] = weighted(sets, weigh, promised)
    print_outside(results)
    keep(results, json_file)


app = command_line(outside)


if __name__ == "__main__":
    run(app)
