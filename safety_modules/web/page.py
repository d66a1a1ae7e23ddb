"""The page: a form, a verdict, two or three answers, the policy's controls; and a tab for whole folders."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from safety_modules.pocket.base import notice
from safety_modules.policy.policy import Policy
from safety_modules.policy.verdict import ACTIONS, Verdict
from safety_modules.serving.errors import as_refused
from safety_modules.serving.reading import Prompt
from safety_modules.web import panels
from safety_modules.web.audits import Audits
from safety_modules.web.controls import RuleShown, Shown, span
from safety_modules.web.playground import Playground, Setting

LOG = logging.getLogger(__name__)
NO_MAP, DECIDING = "none", "the one that decides"
NOTHING = "nothing"
GUARD = "guard"
STALE = "Changed since: ask again for answers."
NEW_QUESTION = "A new question: ask, for its verdict and answers."
# On a phone the verdict is below the form.
TO_VERDICT = """(...values) => {
  if (innerWidth < 700) document.getElementById("verdict").scrollIntoView({behavior: "smooth"});
  return values;
}"""


class Example(NamedTuple):
    """A picture's file, and a question about it."""

    title: str
    picture: Path
    question: str


@dataclass(frozen=True)
class Asked:
    """What the form and the controls say."""

    picture: Path | None
    question: str
    heat: str
    beside: str
    on: Sequence[str]
    shown: Shown


class Page:
    """Builds the page, and answers its events.

    Args:
        playground: the model.
        audits: what the second tab does.
        title: of the model.
        examples: to choose from.
        folder: what the second tab begins with.
        off: names of defences that are off at first.
    """

    def __init__(
        self,
        playground: Playground,
        audits: Audits,
        title: str,
        examples: Sequence[Example] = (),
        folder: Path | None = None,
        off: Sequence[str] = (),
    ) -> None:
        self._playground, self._audits, self._title = playground, audits, title
        self._examples, self._folder, self._at_first_off = examples, folder, off
        self._limits = playground.limits
        self._before = Shown.of(playground.policy, self._limits)
        self._span = span(self._limits)
        self._first, *self._others = playground.adapters
        self._kinds = [one.kind for one in playground.safety.defences]

    def blocks(self) -> gr.Blocks:
        """The page, as gradio has it."""
        with gr.Blocks(title="safety-modules demo", analytics_enabled=False, delete_cache=(600, 3600)) as page:
            told = notice(self._playground.safety.backbone.fingerprint())
            gr.HTML(panels.header(self._title, [*self._playground.adapters], told), elem_id="header")
            with gr.Tab("Ask"):
                self._ask_tab()
            with gr.Tab("Audit a folder"):
                self._audit_tab()
        return page

    def _ask_tab(self) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                ask, stop, examples = self._form()
            with gr.Column(scale=3, min_width=300):
                verdict = gr.HTML(panels.verdict_panel(None, "", self._span), elem_id="verdict")
                note = gr.HTML(panels.note(), elem_id="note")
                with gr.Row():
                    answers = [
                        _answer("Base", "base"),
                        _answer(f"Guarded: {self._first}", "guarded"),
                        _answer("Guarded", "other", visible=False),
                    ]
                maps = [NO_MAP, DECIDING, *self._limits]
                self._heat = gr.Radio(maps, value=NO_MAP, label="Heat map: where the guard looked", elem_id="heat")
                overlay = gr.Image(
                    label="Heat map", visible=False, interactive=False, height=300, buttons=[], elem_id="overlay"
                )
        self._defences = gr.CheckboxGroup(
            self._kinds,
            value=[kind for kind in self._kinds if kind not in self._at_first_off],
            label="Defences that are on",
            elem_id="defences",
        )
        self._policy, reset, told = self._policy_controls()
        inputs = [self._picture, self._question, self._heat, self._beside, self._defences, *self._policy]
        shown = [verdict, overlay, told, note]
        hidden = {"api_visibility": "private", "show_progress": "hidden"}
        asks = [ask.click, self._question.submit]
        asking = gr.on(asks, self.ask, inputs, [*shown, *answers], js=TO_VERDICT, **hidden)
        stop.click(self.stopped, None, note, cancels=asking, **hidden)
        # What an answer depends on ends one that is being made; where the guard looked is only shown.
        judging: dict[str, Any] = {"fn": self.judge, "inputs": [answers[0], *inputs], "outputs": shown, **hidden}
        moved = [_settled(control) for control in (*self._policy, self._defences, self._beside)]
        # Of the steps of a slider that is being moved, the last one counts.
        changed = [self._picture.upload, self._picture.clear, *moved]
        gr.on(changed, cancels=asking, trigger_mode="always_last", **judging)
        if examples is not None:
            examples.load_input_event.then(cancels=asking, **judging)
        self._heat.input(self.heat, inputs, [overlay, note], **hidden)
        self._question.change(None, None, note, js=f"() => {json.dumps(panels.note(NEW_QUESTION))}", **hidden)
        self._beside.change(self.compared, self._beside, answers[2], **hidden)
        reset.click(self._values, None, self._policy, cancels=asking, **hidden).then(**judging)

    def _form(self) -> tuple[gr.Button, gr.Button, Any]:
        """Picture and question; the buttons that ask and stop; the examples, if there are some."""
        self._picture = gr.Image(
            label="Picture",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            height=280,
            buttons=[],
            elem_id="picture",
        )
        # gradio's own opens the file and fails on what is none; the server's limits say why, before they decode it.
        self._picture.preprocess = _path
        self._question = gr.Textbox(label="Question", lines=2, max_lines=6, elem_id="question")
        with gr.Row():
            ask = gr.Button("Ask", variant="primary", scale=3, min_width=120, elem_id="ask")
            stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
        examples = None
        if self._examples:
            examples = gr.Examples(
                [[str(one.picture), one.question] for one in self._examples],
                [self._picture, self._question],
                label="Examples",
                example_labels=[one.title for one in self._examples],
            )
        self._beside = gr.Radio(
            [NOTHING, *self._others],
            value=NOTHING,
            label="Compare with",
            visible=bool(self._others),
            elem_id="beside",
        )
        return ask, stop, examples

    def _policy_controls(self) -> tuple[list[Any], gr.Button, gr.HTML]:
        """Controls of the policy in the order of `_values`, the button that puts them back, and what is told of it."""
        rules: list[Any] = []
        with gr.Accordion("Policy: what is flagged, and what follows", open=False, elem_id="policy"):
            for type, rule in self._before.rules.items():
                with gr.Row(elem_classes="sm-rule-row"):
                    rules += [
                        gr.Checkbox(rule.on, label=type, min_width=120, elem_id=f"on-{type}"),
                        gr.Radio(
                            [*ACTIONS[1:]], value=rule.action, label="Action", min_width=220, elem_id=f"action-{type}"
                        ),
                        gr.Slider(
                            -round(self._span),
                            round(self._span),
                            rule.threshold,
                            step=0.01,
                            label="Fires from score",
                            min_width=220,
                            elem_id=f"threshold-{type}",
                        ),
                    ]
            words = [
                gr.Textbox(hint, label=f"Hint, level {level}", lines=2, elem_id=f"hint-{level}")
                for level, hint in self._before.hints.items()
            ]
            words.append(gr.Textbox(self._before.refusal, label="Refusal", lines=2, elem_id="refusal"))
            told = gr.HTML(self._difference(self._playground.policy), elem_id="told")
            reset = gr.Button("Put the policy back", elem_id="reset")
        return [*rules, *words], reset, told

    def _audit_tab(self) -> None:
        gr.Markdown(
            "Judge every picture of a folder on this machine, by the policy of the first tab; nothing is copied."
        )
        folder = gr.Textbox(str(self._folder or ""), label="Folder", elem_id="folder")
        question = gr.Textbox("", label="Asked about every picture; empty: pictures alone", elem_id="audit-question")
        adapter = gr.Radio(
            [self._first, *self._others],
            value=self._first,
            label="Adapter",
            visible=bool(self._others),
            elem_id="audit-adapter",
        )
        run = gr.Button("Audit", variant="primary", elem_id="audit")
        found = gr.HTML(panels.note(), elem_id="found")
        run.click(
            self.audited,
            [folder, question, adapter, *self._policy],
            found,
            api_visibility="private",
            show_progress="full",
        )

    def _values(self) -> list[Any]:
        """Of the policy's controls, as the page began."""
        rules = [part for rule in self._before.rules.values() for part in (rule.on, rule.action, rule.threshold)]
        return [*rules, *self._before.hints.values(), self._before.refusal]

    def _shown(self, values: Sequence[Any]) -> Shown:
        """The policy's controls, from their values in this order."""
        rules, count = {}, 3 * len(self._before.rules)
        for place, type in enumerate(self._before.rules):
            on, action, threshold = values[3 * place : 3 * place + 3]
            rules[type] = RuleShown(bool(on), str(action), float(threshold))
        hints = dict(zip(self._before.hints, map(str, values[count:-1]), strict=True))
        return Shown(rules, hints, str(values[-1]))

    def _asked(self, values: Sequence[Any]) -> Asked:
        picture, question, heat, beside, on, *policy = values
        path = None if picture is None else Path(picture)
        return Asked(path, question or "", heat, beside, on, self._shown(policy))

    def _settings(self, asked: Asked) -> list[Setting]:
        """Who judges and answers: the first adapter, and the one that is compared with it."""
        policy = self._playground.policy.changed(asked.shown.changes(self._before))
        off = [kind for kind in self._kinds if kind not in asked.on]
        names = [self._first] + [name for name in self._others if name == asked.beside]
        return [Setting(name, policy, off) for name in names]

    def _difference(self, policy: Policy) -> str:
        changed = policy.digest != self._playground.policy.digest
        return panels.differences(policy, changed, self._playground.looser(policy))

    def _judged(self, asked: Asked) -> tuple[list[Any], Prompt | None, list[Setting]]:
        """Verdict, heat map and policy as the page shows them; the prompt; who answers it."""
        settings = self._settings(asked)
        told = self._difference(settings[0].policy)
        if asked.picture is None and not asked.question.strip():
            return [panels.verdict_panel(None, "", self._span), gr.update(visible=False), told], None, settings
        # A picture alone is judged by itself, as in an audit.
        prompt = self._playground.prompt(asked.picture, asked.question.strip() or "?")
        verdicts = [self._playground.judged(prompt, asked.question, one) for one in settings]
        titles = [one.adapter if len(settings) > 1 else "" for one in settings]
        panel = "".join(
            panels.verdict_panel(verdict, title, self._span, GUARD in asked.on)
            for verdict, title in zip(verdicts, titles, strict=True)
        )
        return [panel, self._overlay(asked, verdicts), told], prompt, settings

    def _overlay(self, asked: Asked, verdicts: Sequence[Verdict | None]) -> Any:
        """The heat map, if one is asked for: the first adapter's that has the type."""
        knowing = [one for one in verdicts if one is not None and (asked.heat == DECIDING or asked.heat in one.scores)]
        if not knowing or asked.picture is None:
            return gr.update(visible=False)
        type = None if asked.heat == DECIDING else asked.heat
        return gr.update(value=knowing[0].overlay(asked.picture, type), visible=True)

    def judge(self, answered: str, *values: Any) -> list[Any]:
        """Verdict, heat map, policy and note, whenever something was changed; no language model runs."""
        try:
            shown, _, _ = self._judged(self._asked(values))
        except Exception as error:
            return [gr.skip(), gr.skip(), gr.skip(), _told(error)]
        return [*shown, panels.note(STALE if answered else "")]

    def heat(self, *values: Any) -> list[Any]:
        """Heat map and note."""
        try:
            return [self._judged(self._asked(values))[0][1], gr.skip()]
        except Exception as error:
            return [gr.skip(), _told(error)]

    async def ask(self, *values: Any) -> AsyncIterator[list[Any]]:
        """Verdict first, then the answers while they are made: the base's, then the guarded ones."""
        asked = self._asked(values)
        texts = ["", "", ""]
        try:
            shown, prompt, settings = await asyncio.to_thread(self._judged, asked)
            if prompt is None or not asked.question.strip():
                self._playground.prompt(asked.picture, asked.question)  # says what is missing
            assert prompt is not None
            yield [*shown, panels.note("Answering."), *texts]
            for place, (setting, guarded) in enumerate([(settings[0], False), *((one, True) for one in settings)]):
                async for text in self._playground.answer(prompt, setting, guarded):
                    texts[place] = text
                    yield [*[gr.skip()] * 4, *texts]
            yield [*[gr.skip()] * 3, panels.note(), *texts]
        except Exception as error:
            yield [*[gr.skip()] * 3, _told(error), *texts]

    def stopped(self) -> str:
        """The note after `Stop`."""
        return panels.note("Stopped.")

    def compared(self, beside: str) -> Any:
        """The third answer's box."""
        return gr.update(visible=beside != NOTHING, label=f"Guarded: {beside}", value="")

    def audited(self, folder: str, question: str, adapter: str, *policy: Any) -> str:
        """A folder's gallery."""
        try:
            changed = self._playground.policy.changed(self._shown(policy).changes(self._before))
            fitted = self._playground.adapters[adapter].fitted(changed)
            number, summary = self._audits.run(folder, adapter, fitted, question)
        except Exception as error:
            return _told(error)
        return panels.gallery(f"audits/{number}", summary)


def _path(picture: Any) -> str | None:
    """Where an upload lies."""
    return None if picture is None else picture.path


def _answer(label: str, name: str, visible: bool = True) -> gr.Textbox:
    """The box of an answer: plain words, whatever a model writes."""
    return gr.Textbox(
        label=label, lines=4, max_lines=16, interactive=False, visible=visible, min_width=200, elem_id=name
    )


def _settled(control: Any) -> Callable[..., Any]:
    """When a control was changed: by pointer or keys, by its own button; of words, when somebody is done with them."""
    found: Callable[..., Any] = (
        control.change
        if isinstance(control, gr.Slider)
        else control.blur
        if isinstance(control, gr.Textbox)
        else control.input
    )
    return found


def _told(error: Exception) -> str:
    """The sentence for an error; what only the operator may see goes to the log."""
    refused = as_refused(error)
    if refused.status >= 500 and refused.code == "failed":
        LOG.error("the page failed", exc_info=error)
    return panels.note(str(refused), alarm=True)
