"""One run: several systems answer the same cases, judges read the answers, one report compares them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safety_modules.errors import ConfigError, DataError
from safety_modules.evaluation.asking import decoding
from safety_modules.evaluation.harness.html_report import write_page
from safety_modules.evaluation.harness.journal import Journal
from safety_modules.evaluation.harness.judgements import JudgedReply, Judgements, error_share, judge_all
from safety_modules.evaluation.harness.sample import CaseSample
from safety_modules.evaluation.harness.summary import summarise
from safety_modules.evaluation.harness.transcripts import Transcript, answer_all
from safety_modules.evaluation.judges.base import Judge
from safety_modules.evaluation.outcomes import BASE
from safety_modules.evaluation.results import versions
from safety_modules.evaluation.systems import System
from safety_modules.io.files import write_json
from safety_modules.io.run_manifest import begin_run

MAX_JUDGE_ERRORS = 0.02
MANIFEST, TRANSCRIPTS, REPORT, PAGE = "manifest.json", "transcripts.jsonl", "report.json", "report.html"


@dataclass(frozen=True)
class RunSettings:
    """What numbers depend on beside cases, systems and judges.

    Attributes:
        batch_size: cases at a time; part of the result, because sums in other batches round otherwise.
        max_new_tokens: limit of an answer.
        max_judge_errors: share of replies a judge may fail on before the run counts as failed.
    """

    batch_size: int = 16
    max_new_tokens: int = 128
    max_judge_errors: float = MAX_JUDGE_ERRORS


def evaluate(
    sample: CaseSample,
    systems: Sequence[Callable[[], System]],
    judges: Sequence[Judge],
    out: Path,
    base: Mapping[str, Any],
    settings: RunSettings | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Run, or go on with, an evaluation, and write its report.

    Args:
        sample: the cases, see `sample.draw`.
        systems: each makes a system, ready to answer; called several times, and never before the system made last
            is closed. One must be the bare base, named `none`.
        judges: the first one's numbers stand in the plots and in the text of the report.
        out: folder of the run: manifest, transcripts, judgements, report, plots. An interrupted run in it goes on.
        base: what identifies the base model; JSON-able.
        settings: None = the defaults.
        progress: show progress bars.

    Returns:
        What `report.json` holds (docs/evaluation.md).

    Raises:
        ConfigError: the folder holds another run; no `none`, or names that are not unique.
        DataError: a judge failed on too many replies. Everything is written before this is raised.

    Does not cover: whether a judge is right. What no judge could judge is in no rate.
    """
    settings = settings or RunSettings()
    openers, described = _describe(systems)
    judge_of, files = _judges(judges, out)
    sessions = begin_run(
        out / MANIFEST,
        key={
            "suite": sample.benchmark.name,
            "cases": sample.digest,
            "base": dict(base),
            **{f"system {name}": about["describe"] for name, about in described.items()},
            "order of systems": list(described),
            "batch size": settings.batch_size,
            "limit of new tokens": settings.max_new_tokens,
        },
        growing={f"judge {name}": judge.describe() for name, judge in judge_of.items()},
        session={"versions": versions()},
    )
    for leftover in out.glob("*.tmp"):
        leftover.unlink()
    journal = Journal(out / TRANSCRIPTS, Transcript)
    transcripts = answer_all(
        sample.cases, openers, journal, settings.batch_size, settings.max_new_tokens, len(sessions), progress
    )
    judged = {
        name: judge_all(judge, sample.cases, transcripts, Journal(files[name], JudgedReply), progress)
        for name, judge in judge_of.items()
    }
    shares = {name: error_share(found) for name, found in judged.items()}
    report = {
        "suite": _about(sample),
        "base": dict(base),
        "settings": {
            **asdict(settings),
            "decoding": decoding(settings.max_new_tokens, settings.batch_size),
            "sessions": sessions,
        },
        "systems": described,
        "judges": {
            name: {**judge.describe(), "judged": len(judged[name]), "error_share": shares[name]}
            for name, judge in judge_of.items()
        },
        **summarise(sample.cases, transcripts, judged),
    }
    report["failed"] = [name for name, share in shares.items() if share > settings.max_judge_errors]
    write_json(out / REPORT, report)
    write_page(out / PAGE, report, sample.cases, transcripts, next(iter(judged.values())))
    _refuse_failed(report, judged, out)
    return report


def _describe(
    systems: Sequence[Callable[[], System]],
) -> tuple[dict[str, Callable[[], System]], dict[str, dict[str, Any]]]:
    """Every system is made once before any work, so that what does not load is found at once."""
    openers, described = {}, {}
    for opener in systems:
        with closing(opener()) as system:
            if system.name in openers:
                raise ConfigError(
                    f"two systems with one name: expected another name for each, got {system.name!r} twice. "
                    "Leave one out."
                )
            openers[system.name] = opener
            told = {name: getattr(system, name) for name in ("source", "leaves_out", "extra_mb", "extra_parameters")}
            described[system.name] = told | {"describe": system.describe()}
    if BASE not in openers:
        raise ConfigError(
            f"nothing to compare with: expected the bare base, {BASE!r}, among the systems, "
            f"got {', '.join(openers) or 'none'}. Add it: cost and changes are measured against it."
        )
    names = sorted(openers, key=lambda name: name != BASE)  # the base first, the others as they were given
    return {name: openers[name] for name in names}, {name: described[name] for name in names}


def _judges(judges: Sequence[Judge], out: Path) -> tuple[dict[str, Judge], dict[str, Path]]:
    """The judges by name, and the file of each."""
    by_name = {judge.name: judge for judge in judges}
    files = {
        name: out / f"judgements-{''.join(c if c.isalnum() or c in '._-' else '_' for c in name)}.jsonl"
        for name in by_name
    }
    if not judges or len(set(files.values())) < len(judges):
        raise ConfigError(
            f"judges not usable: expected one or several with names of their own, "
            f"got {', '.join(judge.name for judge in judges) or 'none'}. Name each once."
        )
    return by_name, files


def _about(sample: CaseSample) -> dict[str, Any]:
    return {
        **{name: getattr(sample.benchmark, name) for name in ("name", "title", "licence", "citation")},
        **{name: getattr(sample, name) for name in ("available", "limit", "digest")},
        "parts": list(dict.fromkeys(case.part for case in sample.cases)),
        "cases": len(sample.cases),
        "seed": sample.seed if sample.limit is not None else None,
    }


def _refuse_failed(report: Mapping[str, Any], judged: Mapping[str, Judgements], out: Path) -> None:
    limit = report["settings"]["max_judge_errors"]
    problems = []
    for name in report["failed"]:
        errors = [judgement.error for judgement in judged[name].values() if judgement.error is not None]
        problems.append(f"judge {name} failed on {len(errors)} of {len(judged[name])} replies, the first: {errors[0]}")
    if problems:
        raise DataError(
            f"evaluation failed: expected judges that fail on at most {100 * limit:g} % of the replies, got: "
            f"{'; '.join(problems)}. All of them are listed in {out / REPORT}. The same command asks again what failed."
        )
