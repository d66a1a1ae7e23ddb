"""The plots of an evaluation, as PNG pictures: trade-off, parts, corruption strengths, cost, reliability of risks."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from safety_modules.evaluation.harness.readout import STRENGTH, strengths
from safety_modules.evaluation.outcomes import BASE, MEASURES, REACTIONS, RISKS, attack_lines

WIDTH, DPI = 5.6, 150  # inches; narrow, so that letters can still be read on a phone
BAR = 0.13  # inches
FEW = 10
"""Cases below which a bin of the reliability curve says nothing and is left out."""
GOT = {"refused": "#1a6b3c", "cautioned": "#d99a1c", "answered": "#a8281e"}
COLOURS = [f"C{i}" for i in range(10) if i != 7] + ["navy", "gold"]  # C7 is grey, as the base is
MARKERS = "osD^vPX*<>hd"


def draw_charts(report: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name, those that there are numbers for; of the first judge."""
    judge, systems = next(iter(report["judges"])), list(report["systems"])
    parts = report["parts"][judge]
    figures = {
        "tradeoff": _tradeoff(report["results"][judge], systems),
        "attacks": _attacks(report["attacks"][judge]),
        "parts": _parts({name: table for name, table in parts.items() if not STRENGTH.fullmatch(name)}, systems),
        "strengths": _strengths(parts, systems),
        "cost": _cost(report),
        "reliability": _reliability(report["verdicts"]["all"], systems),
    }
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def _figure(heights: Sequence[float], more: float = 0, columns: int = 1) -> tuple[Any, Any]:
    """A figure with rows of panels of these heights, and `more` for what stands around them; in inches."""
    from matplotlib.figure import Figure  # draws without a screen; most of a second to import

    figure = Figure(figsize=(WIDTH, sum(heights) + more), layout="constrained")
    return figure, figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _colour(systems: Sequence[str], name: str) -> str:
    others = [system for system in systems if system != BASE]
    return "0.4" if name == BASE else COLOURS[others.index(name) % len(COLOURS)]


def _marker(systems: Sequence[str], name: str) -> str:
    return MARKERS[systems.index(name) % len(MARKERS)]


def _bar_axes(axes: Any, names: Sequence[str]) -> None:
    """Rows with names, from the top, of bars in percent."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, 100)


def _with_legend(figure: Any, panels: Any, columns: int = 2) -> Any:
    labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def _without_sum(groups: dict[str, Any]) -> dict[str, Any]:
    """The groups with something in them; several say more than `all`, which they sum up to."""
    shown = {name: found for name, found in groups.items() if found}
    return {name: found for name, found in shown.items() if len(shown) == 1 or name != "all"}


def _tradeoff(groups: Mapping[str, Any], systems: Sequence[str]) -> Any:
    """A panel for each group: attack success across, over-refusal up; bottom left is best."""
    shown = _without_sum(
        {
            name: {system: row for system, row in table.items() if row["asr"] and row["over_refusal"]}
            for name, table in groups.items()
        }
    )
    if not shown:
        return None
    figure, panels = _figure([3.3] * len(shown), 0.5 + 0.18 * len(systems))
    for axes, (name, table) in zip(panels[:, 0], shown.items(), strict=True):
        for system, row in table.items():
            # Whoever lies below is still seen: later ones are smaller, and the base is a ring around them all.
            look: dict[str, Any] = {"markersize": max(11 - 0.8 * systems.index(system), 4)}
            if system == BASE:
                look = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 2, "zorder": 9}
            x, y = (_percent(row[measure]) for measure in ("asr", "over_refusal"))
            look |= {"xerr": x[1], "yerr": y[1], "fmt": _marker(systems, system), "color": _colour(systems, system)}
            axes.errorbar(x[0], y[0], linewidth=1, label=system, **look)
        axes.set(xlabel="attack success, % (lower is better)", ylabel="over-refusal, % (lower is better)")
        axes.set_title("" if name == "all" else name, fontsize=10)
        axes.margins(0.08)
        axes.grid(alpha=0.25)
    return _with_legend(figure, panels)


def _attacks(groups: Mapping[str, Any]) -> Any:
    """A panel for each group: what attacks got from every system, by risk, as bars that sum to 100 %."""
    shown = _without_sum(
        {
            name: [
                (system if risk == "all" else f"{system}, {RISKS[risk][0]}", shares)
                for system, risk, shares in attack_lines(table)
                if REACTIONS.keys() <= shares.keys()
            ]
            for name, table in groups.items()
        }
    )
    if not shown:
        return None
    figure, panels = _figure([0.6 + 1.7 * BAR * len(rows) for rows in shown.values()], 0.5)
    for axes, (name, rows) in zip(panels[:, 0], shown.items(), strict=True):
        left = [0.0] * len(rows)
        for reaction, title in REACTIONS.items():
            widths = [100 * shares[reaction]["value"] for _, shares in rows]
            axes.barh(range(len(rows)), widths, 0.75, left=left, color=GOT[reaction], label=title)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        _bar_axes(axes, [label for label, _ in rows])
        axes.set_title("What attacks got, %" + ("" if name == "all" else f": {name}"), fontsize=10)
    return _with_legend(figure, panels, 3)


def _parts(parts: Mapping[str, Any], systems: Sequence[str]) -> Any:
    """Bars of every system for every part, by what is measured on it."""
    panels_of = {
        measure: [part for part, table in parts.items() if any(row[measure] for row in table.values())]
        for measure in ("asr", "over_refusal", "accuracy")
    }
    panels_of = {measure: names for measure, names in panels_of.items() if names}
    if not panels_of:
        return None
    bars = len(systems) + 1.5  # of a part, with the gap to the next
    figure, panels = _figure([0.7 + len(names) * bars * BAR for names in panels_of.values()], 0.3 + 0.12 * len(systems))
    for axes, (measure, names) in zip(panels[:, 0], panels_of.items(), strict=True):
        for number, system in enumerate(systems):
            found = [(place, parts[part][system][measure]) for place, part in enumerate(names)]
            known = [(place, *_percent(share)) for place, share in found if share]
            axes.barh(
                [place + (number + 0.5 - len(systems) / 2) / bars for place, *_ in known],
                [value for _, value, _ in known],
                1 / bars,
                xerr=list(zip(*([low[0], high[0]] for _, _, (low, high) in known), strict=True)),
                color=_colour(systems, system),
                error_kw={"linewidth": 0.7, "ecolor": "0.25"},
                label=system,
            )
        _bar_axes(axes, names)
        axes.grid(axis="x", alpha=0.25)
        axes.set_title(f"{MEASURES[measure].title}, % ({MEASURES[measure].better} is better)", fontsize=10)
    return _with_legend(figure, panels)


def _strengths(parts: Mapping[str, Any], systems: Sequence[str]) -> Any:
    """Lines over the strength: a row of panels for each kind, a column for each measure."""
    found = {measure: strengths(parts, measure) for measure in ("asr", "over_refusal")}
    kinds = list(dict.fromkeys(kind for tables in found.values() for kind in tables))
    if not kinds:
        return None
    figure, panels = _figure([1.25] * len(kinds), 0.8 + 0.12 * len(systems), 2)
    for row, kind in zip(panels, kinds, strict=True):
        for axes, (measure, tables) in zip(row, found.items(), strict=True):
            places = list(tables.get(kind, {}))
            for system in systems:
                values = [_percent(tables[kind][place][system][measure])[0] for place in places]
                wide = 4.5 if system == BASE else 1.5  # drawn first: seen on both sides of a line that lies on it
                look = {"color": _colour(systems, system), "markersize": 4, "linewidth": wide, "label": system}
                axes.plot(places, values, f"{_marker(systems, system)}-", **look)
            axes.set_title(f"{kind}: {MEASURES[measure].title}, %", fontsize=9)
            axes.set_xticks(places)
            axes.tick_params(labelsize=8)
            axes.set_ylim(-4, 104)
            axes.grid(alpha=0.25)
    return _with_legend(figure, panels)


def _cost(report: Mapping[str, Any]) -> Any:
    systems, cost = list(report["systems"]), report["cost"]
    figure, panels = _figure([1.0 + 0.3 * len(systems)], columns=3)
    ratios = [cost[name]["time_ratio"] or {"median": 0, "low": 0, "high": 0} for name in systems]
    spread = [[max(r["median"] - r["low"], 0) for r in ratios], [max(r["high"] - r["median"], 0) for r in ratios]]
    columns = (
        ("time, ratio", [r["median"] for r in ratios], spread),
        ("extra prompt tokens", [cost[name]["extra_prompt_tokens"]["value"] for name in systems], None),
        ("extra MB", [report["systems"][name]["extra_mb"] for name in systems], None),
    )
    colours = [_colour(systems, name) for name in systems]
    for axes, (title, values, error) in zip(panels[0], columns, strict=True):
        bars = axes.barh(range(len(systems)), values, color=colours, xerr=error, error_kw={"linewidth": 0.8})
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=3)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(len(systems) - 0.4, -0.6)
        axes.margins(x=0.55)
        axes.set_yticks(range(len(systems)), systems if axes is panels[0, 0] else [], fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
    return figure


def _reliability(verdicts: Mapping[str, Any], systems: Sequence[str]) -> Any:
    if not verdicts:
        return None
    figure, ((axes,),) = _figure([4.2])
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    for name, found in verdicts.items():
        bins = zip(*(found["reliability"][key] for key in ("said", "seen", "count")), strict=True)
        points = [(said, seen) for said, seen, count in bins if count >= FEW]
        said, seen = zip(*points, strict=True) if points else ((), ())
        label = f"{name}, ECE {found['ece']:.3f}"
        axes.plot(said, seen, f"{_marker(systems, name)}-", color=_colour(systems, name), label=label)
    axes.set(xlabel="risk the system said", ylabel="share that was risky", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(fontsize=9)
    return figure


def _percent(estimate: Mapping[str, float]) -> tuple[float, list[list[float]]]:
    """Value and distances to the ends of the interval, in the form of matplotlib's error bars."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return value, [[max(value - low, 0)], [max(high - value, 0)]]
