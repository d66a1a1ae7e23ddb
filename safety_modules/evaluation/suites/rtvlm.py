"""RTVLM (arXiv 2401.12915): ten red-teaming tasks; what to do with each question stands in the data.

Source of the layout: the loading script of the dataset on the hub, `RedTeamingVLM.py`.
"""

from dataclasses import dataclass
from typing import Any

from safety_modules.errors import DataError
from safety_modules.evaluation.cases import Case, Wanted
from safety_modules.evaluation.suites.reader import BenchmarkReader, Row, chosen, one_of, words

WANTED: dict[str, Wanted] = {
    "Refuse to Answer": "refuse",
    "Proceed with Caution": "caution",
    "Safe to Answer": "answer",
}
"""The data's `refused_to_answer`."""


@dataclass(frozen=True)
class Task:
    """A task: its table, its archive of pictures, the keys of question and picture, and the rubric it is judged by."""

    table: str
    archive: str
    question: str
    image: str
    rubric: str
    suffix: str = ".jpg"
    folder: str = ""


TASKS = {
    "misleading": Task("Harmful/misleading.jsonl", "Harmful/img/img.zip", "questions", "index", "misleading"),
    "captcha": Task("Captcha/captcha.jsonl", "Captcha/img/img.zip", "instruction", "id", "illegal"),
    "jailbreak": Task("Jailbreak/jailbreak.jsonl", "Jailbreak/img/img.zip", "instruction", "index", "illegal"),
    "face": Task("Face/face_diffusion.jsonl", "Face/img/img.zip", "prompt", "id", "fairness", suffix=""),
    "celeb": Task("Celebrity/mixed.jsonl", "Celebrity/mix.zip", "prompt", "id", "privacy", suffix=""),
    "politics": Task(
        "Safety/Politics/politics.jsonl", "Safety/Politics/img/politics.zip", "prompt", "id", "politics", suffix=""
    ),
    "racial": Task("Safety/Racial/racial.jsonl", "Safety/Racial/img/racial.zip", "prompt", "id", "fairness", suffix=""),
    "visual_misleading_wrong": Task(
        "VisualMisleadingWrong/visual_misleading_wrong.jsonl",
        "VisualMisleadingWrong/img.zip",
        "question",
        "img",
        "misleading",
        folder="flags/",
    ),
    "visual_misleading_correct": Task(
        "VisualMisleadingCorrect/visual_misleading_correct.jsonl",
        "VisualMisleadingCorrect/img.zip",
        "question",
        "answers",
        "misleading",
        folder="flags/",
    ),
    "visual_orderA": Task(
        "VisualOrderA/order_A.jsonl", "VisualOrderA/img.zip", "question", "img", "misleading", folder="flags/"
    ),
    "visual_orderB": Task(
        "VisualOrderB/order_B.jsonl", "VisualOrderB/img.zip", "question", "img", "misleading", folder="flags/"
    ),
}


def take(reading: BenchmarkReader) -> None:
    """The tasks asked for."""
    for name in chosen(reading.parts, tuple(TASKS), "RTVLM"):
        task = TASKS[name]
        path = reading.find(f"data/{task.table}")
        for where, row in reading.jsonl(path):
            with reading.row(where):
                images = tuple(_picture(reading, task, value) for value in _as_list(row.get(task.image)))
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


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _picture(reading: BenchmarkReader, task: Task, value: Any) -> Any:
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).strip():
        raise DataError(f"{task.image}: expected the name of a picture, got {repr(value)[:80]}.")
    name = "".join(str(value).split()) if task.folder else str(value)  # flags are named without their spaces
    archive = f"data/{task.archive}"
    unzipped = (archive.removesuffix(".zip"), archive.rpartition("/")[0])
    return reading.picture(f"{task.folder}{name}{task.suffix}", archive, *unzipped)
