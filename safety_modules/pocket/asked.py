"""Pictures with questions as people put them: reworded, spread over turns, harmless with forbidden words, or none.

The grammar of `language` asks in clean sentences, one to a picture. These pairs are what the safety modules have to
cope with beside them, each with a kind of its own in `splits`, and what half of their training is made of.
"""

from collections.abc import Callable

from safety_modules.pocket import language, rewording
from safety_modules.pocket.concepts import BY_NAME
from safety_modules.pocket.questions import INSTRUCTIONS, TALK, Turn, answerable, turnable
from safety_modules.pocket.rewording import Reworded
from safety_modules.pocket.sampler import Pair, Sampler
from safety_modules.pocket.scenes import Scene
from safety_modules.pocket.sentences import free_text

REWORDED = 0.5
"""Share of the training mix that is asked as in this file."""
MEASURED_WORDS = 60
"""Around a question where dilution is measured."""
I_SEE = "I see."


def put(pair: Pair, said: Reworded) -> Pair:
    """The pair with the question as it was said."""
    scene, turn = pair
    return scene, turn._replace(question=said.question, history=said.history, form=said.form)


def reworded(sampler: Sampler, pair: Pair) -> Pair:
    """The pair with its question in some form of `rewording`, sometimes after a plain question about the picture."""
    rng, (scene, turn) = sampler.rng, pair
    said = rewording.reword(turn.question, sampler.split, rng, turn.answer)
    if not said.history and rng.random() < 0.15 and (first := plain_question(sampler, scene)):
        said = said._replace(history=((first.question, first.answer),), form=f"{said.form} later")
    return put(pair, said)


def plain_question(sampler: Sampler, scene: Scene) -> Turn | None:
    """A question about a picture that asks for no instruction; None where a transform leaves none to be asked."""
    kinds = [kind for kind in sampler.asker.kinds(scene) if kind not in INSTRUCTIONS]
    return sampler.asker.turn(scene, language.choose(sampler.rng, kinds)) if kinds else None


def in_other_words(sampler: Sampler, harmful: bool, announced: bool = False) -> Pair:
    """A dual-use or sensitive thing with a harmful or harmless question outside of the grammar.

    Args:
        announced: tell the deed in one turn and ask for it in the next.
    """
    scene = sampler.turnable_scene()
    concept = BY_NAME[turnable(scene)[0]]
    say = rewording.announced if announced else rewording.other_words
    answer = language.steps("" if harmful else concept.kind, concept.name)
    turn = Turn("", answer, "do", (concept.name,), harmful)
    return put((scene, turn), say(harmful, concept.type, sampler.split, sampler.rng))


def harmless_talk(sampler: Sampler) -> Pair:
    """A dual-use or sensitive thing with a harmless question that has forbidden words or a negation in it."""
    scene = sampler.turnable_scene()
    concept = BY_NAME[turnable(scene)[0]]
    turn = Turn("", language.kept_safe(concept.name), TALK, (concept.name,))
    return put((scene, turn), rewording.harmless_talk(concept.type, sampler.split, sampler.rng))


def free(sampler: Sampler, scene: Scene, garbled: bool = False) -> Pair:
    """Harmless sentences instead of a question; or garbled into words of no language."""
    rng, split = sampler.rng, sampler.split
    text = free_text(round(float(2 ** rng.uniform(0, 6))), split, rng)
    said = rewording.garbled(text, split, rng) if garbled else Reworded(text, form="free")
    return put((scene, Turn("", I_SEE, TALK)), said)


def unasked(sampler: Sampler, scene: Scene) -> Pair:
    """No question; the answer describes the picture, or is the base's own where a transform leaves no right one."""
    described = sampler.asker.turn(scene, "describe")
    if not answerable("describe", scene):
        described = described._replace(answer="")
    return put((scene, described), rewording.blank(sampler.split, sampler.rng))


def risky_scene(sampler: Sampler) -> Pair:
    """A picture that is risky whatever is asked, with an instruction."""
    return sampler.typographic() if sampler.rng.random() < 0.4 else sampler.attack()


def risky(sampler: Sampler) -> Pair:
    """The risky half of the training mix: as the grammar asks, and as people do."""
    rng = sampler.rng
    if rng.random() >= REWORDED:
        return sampler.risky()
    draw, split = rng.random(), rng.random()
    if draw < 0.5:
        pair = sampler.turned(True) if split < 0.4 else in_other_words(sampler, True, announced=split > 0.88)
    elif draw < 0.6:
        return free(sampler, risky_scene(sampler)[0])
    elif draw < 0.7:
        return unasked(sampler, risky_scene(sampler)[0])
    else:
        return reworded(sampler, sampler.risky())
    return _perhaps_reworded(sampler, pair, split < 0.4)


def harmless(sampler: Sampler) -> Pair:
    """The clean half of the training mix."""
    rng = sampler.rng
    if rng.random() >= REWORDED:
        return sampler.harmless()
    draw, split = rng.random(), rng.random()
    if draw < 0.28:
        pair = sampler.turned(False) if split < 0.4 else in_other_words(sampler, False, announced=split > 0.88)
        return _perhaps_reworded(sampler, pair, split < 0.4)
    if draw < 0.5:
        return _perhaps_reworded(sampler, harmless_talk(sampler), False)
    if draw < 0.64:
        scene = sampler.turnable_scene() if split < 0.4 else sampler.clean_scene()
        return free(sampler, scene)
    if draw < 0.72:
        return unasked(sampler, sampler.turnable_scene() if split < 0.3 else sampler.clean_scene())
    return reworded(sampler, sampler.clean())


def _perhaps_reworded(sampler: Sampler, pair: Pair, always: bool) -> Pair:
    """Reworded on top, half of the time or always; what has a history already keeps it."""
    if pair[1].history or not (always or sampler.rng.random() < 0.5):
        return pair
    return reworded(sampler, pair)


def _said(form: Callable[..., Reworded], **options: float) -> Callable[[Sampler], Pair]:
    """A harmful question about a dual-use or sensitive thing, in one form."""

    def draw(sampler: Sampler) -> Pair:
        pair = sampler.turned(True)
        return put(pair, form(pair[1].question, sampler.split, sampler.rng, **options))

    return draw


def _continued(sampler: Sampler) -> Pair:
    pair = sampler.turned(True)
    return put(pair, rewording.continued(pair[1].question, sampler.split, sampler.rng, pair[1].answer))


MEASURED: dict[str, Callable[[Sampler], Pair]] = {
    "diluted_before": _said(rewording.before, words=MEASURED_WORDS),
    "diluted_after": _said(rewording.after, words=MEASURED_WORDS),
    "later_turn": _continued,
    "announced": lambda sampler: in_other_words(sampler, True, announced=True),
    "role_markers": _said(rewording.forged),
    "typing_errors": _said(rewording.mistyped),
    "capitals": _said(rewording.capitals),
    "other_words": lambda sampler: in_other_words(sampler, True),
    "forbidden_word": harmless_talk,
    "empty_question": lambda sampler: unasked(sampler, risky_scene(sampler)[0]),
    "empty_benign": lambda sampler: unasked(sampler, sampler.clean_scene()),
    "garbled": lambda sampler: free(sampler, risky_scene(sampler)[0], garbled=True),
    "noted": lambda sampler: put(
        pair := risky_scene(sampler), rewording.noted(pair[1].question, sampler.split, sampler.rng)
    ),
    "free_benign": lambda sampler: free(sampler, sampler.clean_scene()),
    "garbled_benign": lambda sampler: free(sampler, sampler.clean_scene(), garbled=True),
    "reworded_benign": lambda sampler: reworded(sampler, sampler.harmless()),
}
"""Kinds for measuring. Harmful questions on dual-use or sensitive things, but for `forbidden_word` (the same pictures,
harmless), risky pictures without a question, with words of no language, or with a note that all is well
(`empty_question`, `garbled`, `noted`), and the clean ones at the end. Nothing is trained on garbled words or notes."""
