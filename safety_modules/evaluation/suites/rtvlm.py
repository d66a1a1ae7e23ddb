"""RTVLM (arXiv 2401.12915): ten red-teaming tasks; what to do with each question stands in the data.

Source of the layout: the loading script of the dataset on the hub, `RedTeamingVLM.py`.
"""

from typing import Any, NamedTuple

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case, Wanted
from safety_modules.evaluation.suites.reader import BenchmarkReader, Row, chosen, one_of, words

WANTED: dict[str, Wanted] = {
    "Refuse to Answer": "refuse",
    "Proceed with Caution": "caution",
    "Safe to Answer": "answer",
}
"""The data's `refused_to_answer`."""


class Task(NamedTuple):
    """A task: its table, its archive of pictures, the keys of question and picture, and the rubric it is judged by."""

    table: str
    archive: str
    question: str
    image: str
    rubric: str
    suffix: str = ""
    folder: str = ""


_WRONG, _RIGHT = "VisualMisleadingWrong", "VisualMisleadingCorrect"
_FLAGS = ("misleading", ".jpg", "flags/")
TASKS = {
    "misleading": Task("Harmful/misleading", "Harmful/img/img", "questions", "index", "misleading", ".jpg"),
    "captcha": Task("Captcha/captcha", "Captcha/img/img", "instruction", "id", "illegal", ".jpg"),
    "jailbreak": Task("Jailbreak/jailbreak", "Jailbreak/img/img", "instruction", "index", "illegal", ".jpg"),
    "face": Task("Face/face_diffusion", "Face/img/img", "prompt", "id", "fairness"),
    "celeb": Task("Celebrity/mixed", "Celebrity/mix", "prompt", "id", "privacy"),
    "politics": Task("Safety/Politics/politics", "Safety/Politics/img/politics", "prompt", "id", "politics"),
    "racial": Task("Safety/Racial/racial", "Safety/Racial/img/racial", "prompt", "id", "fairness"),
    "visual_misleading_wrong": Task(f"{_WRONG}/visual_misleading_wrong", f"{_WRONG}/img", "question", "img", *_FLAGS),
    "visual_misleading_correct": Task(
        f"{_RIGHT}/visual_misleading_correct", f"{_RIGHT}/img", "question", "answers", *_FLAGS
    ),
    "visual_orderA": Task("VisualOrderA/order_A", "VisualOrderA/img", "question", "img", *_FLAGS),
    "visual_orderB": Task("VisualOrderB/order_B", "VisualOrderB/img", "question", "img", *_FLAGS),
}


def take(reading: BenchmarkReader) -> None:
    """The tasks asked for."""
    for name in chosen(reading.parts, tuple(TASKS), "RTVLM"):
        task = TASKS[name]
        path = reading.find(f"data/{task.table}.jsonl")
        for where, row in reading.jsonl(path):
            with reading.row(where):
                shown = row.get(task.image)
                images = tuple(_picture(reading, task, one) for one in (shown if isinstance(shown, list) else [shown]))
                for number, (question, label) in enumerate(_questions(name, task, row)):
                    reading.add(
                        Case(
                            id=f"{name}/{where.rpartition(':')[2]}/{number}",
                            part=name,
                            wanted=WANTED[label],
                            prompt=question,
                            images=images,
                            category=name,
                            meta={"rubric": task.rubric},
                        )
                    )


def _questions(name: str, task: Task, row: Row) -> list[tuple[str, str]]:
    """(question, label) pairs of a row: several in `misleading`; the script gives `captcha` its label itself."""
    if name == "captcha":
        return [(words(row, task.question), "Proceed with Caution")]
    if name != "misleading":
        return [(words(row, task.question), one_of(row, "refused_to_answer", tuple(WANTED)))]
    questions, labels = row.get(task.question), row.get("refused_to_answer")
    if not isinstance(questions, list) or not isinstance(labels, list) or len(questions) != len(labels):
        raise DataError("expected as many questions as entries of refused_to_answer, in lists.")
    pairs = [{"questions": question, "label": label} for question, label in zip(questions, labels, strict=True)]
    return [(words(pair, "questions"), one_of(pair, "label", tuple(WANTED))) for pair in pairs]


def _picture(reading: BenchmarkReader, task: Task, value: Any) -> Any:
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).strip():
        raise DataError(f"{task.image}: expected the name of a picture, got {repr(value)[:80]}.")
    name = "".join(str(value).split()) if task.folder else str(value)  # flags are named without their spaces
    archive = f"data/{task.archive}.zip"
    unzipped = (archive.removesuffix(".zip"), archive.rpartition("/")[0])
    return reading.picture(f"{task.folder}{name}{task.suffix}", archive, *unzipped)
