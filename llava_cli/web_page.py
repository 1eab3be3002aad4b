"""Lays out the page of `llava web`, and ties its buttons to `web_chat`. Gradio is there when the command imports it."""

from __future__ import annotations

import asyncio
import html
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import fastapi
import gradio as gr

from llava_cli.errors import LlavaError
from llava_cli.pictures import LIMITS, Picture, PictureLimits, RememberedPicture, SentPicture, open_picture
from llava_cli.sanitiser import sanitise
from llava_cli.settings import DEFAULT_QUESTION, Settings
from llava_cli.web_answer import View
from llava_cli.web_chat import Visitor, Visitors, Wishes

_LONGEST_SIDE = 1024
"""Pixels of a picture as the page shows it; the model gets all there are."""
_SMALL = 500_000
"""Pixels up to which a picture is shown without any loss."""

_CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto; }
#llava-title { padding: 0; }
#llava-title h1 { font-size: 1.4rem; margin: 0; font-weight: 650; }
#llava-title p, #llava-notice p { margin: 0; color: var(--body-text-color-subdued); font-size: var(--text-sm); }
#llava-look { flex: none; align-self: center; }
#llava-status { padding: 0 .3rem; min-height: 1.6rem; }
#llava-status p { margin: 0; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
#llava-status p.error { color: var(--error-text-color); }
#llava-chat .message-buttons-right { display: none; }
@media (max-width: 700px) {
  /* The chat comes right below the picture, and what is needed more seldom below that. */
  #llava-row { flex-direction: column; flex-wrap: nowrap; }
  #llava-left { display: contents; }
  #llava-more { order: 3; }
  #llava-right { order: 2; }
  #llava-picture { height: 15rem !important; }
  #llava-chat { height: 45vh !important; }
}
"""

# Between light and dark the page changes by itself, without a word to llava.
_HEAD = """
<meta name="color-scheme" content="light dark">
<script>
document.addEventListener("click", (event) => {
  if (event.target.closest("#llava-look")) document.body.classList.toggle("dark");
});
</script>
"""


_STAY = 5.0
"""Seconds between two signs of life."""
_KEPT = (3600, 86400)
"""Every so many seconds files are removed that are so many seconds old: what was uploaded, shown or written down."""


def examples() -> list[Path]:
    """Return the pictures that come with llava."""
    # A wheel carries them inside the package; in a checkout they stand beside it, at the top.
    inside = Path(str(resources.files("llava_cli"))) / "examples"
    return sorted((inside if inside.is_dir() else Path(__file__).parent.parent / "examples").glob("*.png"))


def build(
    visitors: Visitors,
    uploads: Path,
    chosen: Settings,
    first: Picture | None,
    *,
    allow_truncated: bool = False,
    limits: PictureLimits = LIMITS,
) -> Any:
    """Make the page; return it as an ASGI application.

    `uploads` is where the files of visitors are, `first` the picture they find there. With `allow_truncated` what is
    there of a cut file is used. `limits` are those of all pictures.
    """
    page = _Page(visitors, uploads, first, allow_truncated=allow_truncated, limits=limits)
    theme = gr.themes.Soft(
        primary_hue="teal", neutral_hue="slate",
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    )  # fmt: skip
    with gr.Blocks(title="llava", analytics_enabled=False, fill_width=True, delete_cache=_KEPT) as blocks:
        with gr.Row():
            gr.Markdown("# llava\nAsk about a picture. It stays on this computer.", elem_id="llava-title")
            gr.Button("Light / dark", elem_id="llava-look", size="sm", min_width=90)
        with gr.Row(elem_id="llava-row"):
            with gr.Column(scale=5, min_width=320, elem_id="llava-left"):
                picture = gr.Image(
                    label="Picture", sources=["upload", "webcam", "clipboard"], type="filepath", height=320, buttons=[],
                    elem_id="llava-picture",
                )  # fmt: skip
                samples = gr.Dataset(
                    label="Examples", components=[gr.Image(visible=False)], type="index",
                    samples=[[str(one)] for one in examples()],
                )  # fmt: skip
                with gr.Column(elem_id="llava-more"):
                    with gr.Accordion("What the model sees", open=False):
                        seen = gr.Gallery(
                            show_label=False, columns=2, height="auto", object_fit="contain", format="png", buttons=[],
                            interactive=False, elem_id="llava-seen",
                        )  # fmt: skip
                    with gr.Accordion("Settings", open=False):
                        names = visitors.models.names
                        model = gr.Dropdown(list(names), value=names[0], label="Model", filterable=False)
                        system = gr.Textbox(
                            value=chosen.system or "", label="System prompt", lines=2,
                            placeholder="the one the model was trained with",
                        )  # fmt: skip
                        temperature = gr.Slider(
                            0, 2, value=chosen.sampling.temperature, step=0.05, label="Temperature",
                            info="0: always the likeliest word",
                        )  # fmt: skip
                        longest = gr.Slider(
                            16, 2048, value=chosen.sampling.max_tokens, step=1, label="Longest answer, in tokens"
                        )
                    with gr.Accordion("Keep this conversation", open=False), gr.Row():
                        kept = [
                            gr.DownloadButton(label, size="sm", interactive=False, elem_id=f"llava-{kind}")
                            for kind, label in page.kinds.items()
                        ]
            with gr.Column(scale=7, min_width=320, elem_id="llava-right"):
                chat = gr.Chatbot(
                    elem_id="llava-chat", show_label=False, height="58vh", buttons=["copy"], latex_delimiters=[],
                    allow_tags=False, feedback_options=None, placeholder="What would you like to know?",
                )  # fmt: skip
                status = gr.Markdown(elem_id="llava-status")
                question = gr.Textbox(
                    show_label=False, placeholder=DEFAULT_QUESTION, submit_btn=True, max_lines=6,
                    elem_id="llava-question",
                )  # fmt: skip
                with gr.Row():
                    retry, undo, clear = (
                        gr.Button(label, size="sm", min_width=80) for label in ("Retry", "Undo", "Clear")
                    )
        gr.Markdown(_notice(chosen), elem_id="llava-notice")

        wishes = [model, system, temperature, longest]
        shows = [chat, status, question]
        # Nothing here is for programs: `llava serve` is.
        how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

        new = [picture, *shows, *kept, seen]
        # `pictures` reads the file as it came, not Gradio.
        picture.upload(page.take, [picture, model], new, preprocess=False, **how)
        samples.click(page.take_example, [samples, model], new, **how)
        blocks.load(page.greet, model, new, **how)
        blocks.load(page.stay, None, None, **how)
        picture.clear(page.hide, None, seen, **how)
        for asks in (question.submit, retry.click):
            handler, inputs = (page.ask, [question, *wishes]) if asks == question.submit else (page.retry, wishes)
            asks(handler, inputs, [*shows, *kept], **how)
        question.stop(page.stop, None, None, **how)
        undo.click(page.undo, model, [*shows, *kept], **how)
        for clears in (clear.click, chat.clear):
            clears(page.clear, model, [*shows, *kept], **how)
        blocks.unload(page.leave)

    return gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None), blocks, "/",
        theme=theme, css=_CSS, head=_HEAD, footer_links=[], run_history=False, show_error=True,
        max_file_size=limits.max_bytes, ssr_mode=False, enable_monitoring=False, mcp_server=False, pwa=False,
    )  # fmt: skip


class _Page:
    """What follows a click: what `web_chat` does, as the fields of the page show it."""

    kinds: ClassVar = {"md": "Markdown", "json": "JSON"}
    """The ways in which a conversation can be kept."""

    def __init__(self, visitors: Visitors, uploads: Path, first: Picture | None, **how: Any) -> None:
        """Make it; `how` is how uploads are opened."""
        self._visitors, self._uploads, self._first = visitors, uploads, first
        self._how = how

    # The picture.

    def take(self, upload: dict[str, Any] | None, model: str, request: gr.Request) -> list[Any]:
        if upload is None:  # taken away again before it was here
            return [gr.skip(), *self._fields(self._visitor(request).view()), *(gr.skip() for _ in self.kinds), []]
        name = upload.get("orig_name") or "picture"

        def opened() -> tuple[Picture, RememberedPicture]:
            # Its bytes, so that nobody looks for the file later, when it is gone.
            data = Path(upload["path"]).read_bytes()
            one = open_picture(data, name=name, **self._how)
            return one, SentPicture(one.sha256, one.name, one.width, one.height, file=data, how=self._how)

        return self._show(request, model, opened)

    def take_example(self, number: int, model: str, request: gr.Request) -> list[Any]:
        example = examples()[number]

        def opened() -> tuple[Picture, RememberedPicture]:
            one = open_picture(example, name=example.name)
            return one, one.remembered()

        return self._show(request, model, opened)

    def greet(self, model: str, request: gr.Request) -> list[Any]:
        first = self._first
        if first is not None:
            return self._show(request, model, lambda: (first, first))
        # The picture is left alone: somebody quick may have given one already.
        return [gr.skip(), *self._fields(self._visitor(request).view()), *(gr.skip() for _ in self.kinds), gr.skip()]

    async def stay(self) -> AsyncIterator[None]:
        """Always have something to say to a page, so that it never stops listening.

        Gradio's page does when nothing is under way, and what it ordered in that very moment would be lost (6.31).
        """
        while True:
            await asyncio.sleep(_STAY)
            yield

    def hide(self, request: gr.Request) -> list[Any]:
        self._visitor(request).picture = None
        return []

    # The chat.

    def ask(
        self, question: str, model: str, system: str, temperature: float, longest: int, request: gr.Request
    ) -> Iterator[list[Any]]:
        visitor = self._visitor(request)
        wishes = Wishes(model, system.strip() or None, temperature, longest)
        yield from self._while_written(visitor.ask(question, wishes), visitor, model)

    def retry(
        self, model: str, system: str, temperature: float, longest: int, request: gr.Request
    ) -> Iterator[list[Any]]:
        visitor = self._visitor(request)
        wishes = Wishes(model, system.strip() or None, temperature, longest)
        yield from self._while_written(visitor.retry(wishes), visitor, model)

    def stop(self, request: gr.Request) -> None:
        self._visitor(request).stop()

    def undo(self, model: str, request: gr.Request) -> list[Any]:
        visitor = self._visitor(request)
        return [*self._fields(visitor.undo()), *self._kept(visitor, model)]

    def clear(self, model: str, request: gr.Request) -> list[Any]:
        visitor = self._visitor(request)
        return [*self._fields(visitor.clear()), *self._kept(visitor, model)]

    def leave(self, request: gr.Request) -> None:
        self._visitors.leave(request.session_hash)

    # What the fields show.

    def _visitor(self, request: gr.Request) -> Visitor:
        return self._visitors.of(request.session_hash)

    def _show(
        self, request: gr.Request, model: str, opened: Callable[[], tuple[Picture, Picture | RememberedPicture]]
    ) -> list[Any]:
        """Show what is `opened`: a picture, and what is kept of it."""
        visitor = self._visitor(request)
        try:
            picture, kept = opened()
            visitor.show(kept)
        except LlavaError as error:
            visitor.picture = None
            return [None, *self._fields(visitor.view(error=error)), *(gr.skip() for _ in self.kinds), []]
        visitor.look_ahead(model)
        said = " · ".join([f"{picture.name}: {picture.width} × {picture.height}", *picture.notes])
        view = replace(visitor.view(), status=said)
        squares = [square.image() for square in visitor.seen(picture)]
        return [self._displayed(picture), *self._fields(view), *self._kept(visitor, model), squares]

    def _while_written(self, views: Iterator[View], visitor: Visitor, model: str) -> Iterator[list[Any]]:
        for view in views:
            yield [
                *self._fields(view),
                *([gr.skip()] * len(self.kinds) if view.is_busy else self._kept(visitor, model)),
            ]

    def _fields(self, view: View) -> list[Any]:
        """Return the chat, the line below it, and the line for the next question."""
        line: dict[str, Any] = {"submit_btn": not view.is_busy, "stop_btn": view.is_busy}
        if view.draft is not None:
            line["value"] = view.draft
        return [view.messages, _below(view), gr.update(**line)]

    def _kept(self, visitor: Visitor, model: str) -> list[Any]:
        """Write the conversation down, to be downloaded."""
        fields = []
        for kind in self.kinds:
            text = visitor.transcript(kind, model)
            path = self._file(f"chat.{kind}") if text else None
            if path is not None:
                path.write_text(text, encoding="utf-8")
            fields.append(gr.update(value=path and str(path), interactive=bool(path)))
        return fields

    def _displayed(self, picture: Picture) -> str:
        image = picture.image()
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), reducing_gap=2.0)
        path = self._file("picture.png" if picture.width * picture.height < _SMALL else "picture.jpg")
        image.save(path, quality=90)
        return str(path)

    def _file(self, name: str) -> Path:
        # In a folder of its own: nobody can guess its address, and no browser takes it for an older one.
        return Path(tempfile.mkdtemp(dir=self._uploads)) / name


def _notice(chosen: Settings) -> str:
    kept = "Questions and answers are written into its log (`llava log`)." if chosen.log else "Nothing is written down."
    return f"Pictures, questions and answers stay on the computer that runs llava. {kept}"


def _below(view: View) -> str:
    if view.error is None:
        return f'<p role="status">{_plain(view.status)}</p>'
    error = view.error
    hint = f"<p>{_plain(error.hint)}</p>" if error.hint else ""
    return f'<p class="error" role="alert">{_plain(f"{error.what}: {error.why}")}</p>{hint}'


def _plain(text: str) -> str:
    # A line break would end the paragraph, and let Markdown begin.
    return html.escape(sanitise(text)).replace("\n", " ")
