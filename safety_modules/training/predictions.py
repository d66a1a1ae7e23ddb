"""What a head predicts for many records, from cached features, and how good that is."""

from collections.abc import Sequence

import numpy as np

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.guard.judge import head_output
from safety_modules.defences.guard.modules import head_class
from safety_modules.errors import DataError
from safety_modules.policy.scores import HeadOutput, Judgements, judgements
from safety_modules.records.record import Record
from safety_modules.taxonomy import Taxonomy
from safety_modules.training.corpus import Corpus, QuestionEmbeddings

BATCH_SIZE = 256


def corpus_judgements(attachment: SafetyAttachment, corpus: Corpus) -> Judgements:
    """What the head says of each record: what its reading with the highest score gets. No language model.

    Raises:
        DataError: a record without an image.
    """
    output, owners = corpus_output(attachment, corpus)
    found = judgements(output, attachment.temperature)
    order = np.lexsort((-found.scores.max(1), owners))  # stable: of equals the whole question
    chosen = order[np.unique(owners[order], return_index=True)[1]]
    return Judgements._make(None if part is None else part[chosen] for part in found)


def corpus_output(attachment: SafetyAttachment, corpus: Corpus) -> tuple[HeadOutput, np.ndarray]:
    """What the head says of every reading of every record (see `guard.question_readings`), and which record each is of.

    On the CPU, before temperature and softmax, without attention, which would fill memory. A record's first reading is
    its whole question; one without words is of the image alone, as in `classify`, where the head can judge it so.
    """
    without = [index for index, digest in enumerate(corpus.digests) if digest is None]
    if without:
        raise DataError(f"nothing to judge: expected an image in every record, got none at {without[:10]}.")
    embed = QuestionEmbeddings(attachment.backbone, attachment.config)
    always = head_class(attachment.config).needs_question
    asked = [
        record.question if always or record.question.strip() or record.history else None for record in corpus.records
    ]
    texts = [embed.readings(words, record.history) for words, record in zip(asked, corpus.records, strict=True)]
    output = head_output(attachment.guard, corpus.vision, texts, BATCH_SIZE, attachment.inference, attention=False)
    on_cpu = HeadOutput._make(None if part is None else part.cpu() for part in output)
    return on_cpu, np.repeat(np.arange(len(texts)), [len(readings) for readings in texts])


def verdict_metrics(
    types: np.ndarray, levels: np.ndarray, records: Sequence[Record], taxonomy: Taxonomy
) -> dict[str, float]:
    """Quality of a head's probabilities on labelled records.

    Args:
        types: (N, types + 1).
        levels: (N, levels).
        records: N of them.
        taxonomy: names of both.

    Returns:
        `auroc` of 1 - p(clean) (where both clean and risky records are there), `type_accuracy` and
        `level_accuracy` on the risky ones (their most probable risk type and risky level; where there are any).
    """
    from sklearn.metrics import roc_auc_score  # a second to import

    risky = np.array([record.is_risky for record in records])
    found: dict[str, float] = {}
    if risky.any() and not risky.all():
        found["auroc"] = float(roc_auc_score(risky, 1 - types[:, taxonomy.clean_index]))
    if risky.any():
        true_types = np.array([taxonomy.type_index(record.type) for record in records])[risky]
        true_levels = np.array([taxonomy.level_index(record.level) for record in records])[risky]
        found["type_accuracy"] = float((types[risky, : taxonomy.clean_index].argmax(1) == true_types).mean())
        found["level_accuracy"] = float((levels[risky, 1:].argmax(1) + 1 == true_levels).mean())
    return found
