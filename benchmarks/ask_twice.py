"""Ask two questions about one picture in one process, and print the seconds to each first token as JSON.

`python -m benchmarks.ask_twice stock MODEL PROJECTOR PICTURE` uses llama-cpp-python's own `Llava15ChatHandler`,
opened as its documentation shows; with `llava` in place of `stock`, this project's `Chat`.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.programs import OTHER, QUESTION

_TOKENS = 8
"""Of each answer: what comes after the first is not timed, but stands in the second prompt."""

Send = Callable[[str], Iterator[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=("stock", "llava"))
    parser.add_argument("files", nargs=3, type=Path, metavar="MODEL PROJECTOR PICTURE")
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    model, projector, picture = chosen.files
    run = stock if chosen.program == "stock" else llava
    print(json.dumps(run(model, projector, picture, chosen.threads)))


def stock(model: Path, projector: Path, picture: Path, threads: int) -> dict[str, float]:
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Llava15ChatHandler

    handler = Llava15ChatHandler(clip_model_path=str(projector), verbose=False)
    with closing(Llama(str(model), chat_handler=handler, n_ctx=2048, n_threads=threads, verbose=False)) as llama:
        url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        messages: list[dict[str, object]] = []

        def send(question: str) -> Iterator[str]:
            text = {"type": "text", "text": question}
            content = [{"type": "image_url", "image_url": {"url": url}}, text] if not messages else question
            messages.append({"role": "user", "content": content})
            answer = ""
            for chunk in llama.create_chat_completion(messages, max_tokens=_TOKENS, temperature=0, stream=True):
                piece = chunk["choices"][0]["delta"].get("content") or ""
                answer += piece
                if piece:
                    yield piece
            messages.append({"role": "assistant", "content": answer})

        return both(send)


def llava(model: Path, projector: Path, picture: Path, threads: int) -> dict[str, float]:
    from llava_cli import LoadOptions, load

    options = LoadOptions(threads=threads)
    with load(
        model_path=model, projector_path=projector, prompt_layout="llava_v1", options=options, cache=False
    ) as opened:
        chat = opened.chat()

        def send(question: str) -> Iterator[str]:
            new = None if chat.messages else picture
            yield from chat.send(question, picture=new, max_tokens=_TOKENS, temperature=0)

        return both(send)


def both(send: Send) -> dict[str, float]:
    """Ask both questions, and return how long each took to its first token."""
    return {"first": to_first(send(QUESTION), time.monotonic()), "second": to_first(send(OTHER), time.monotonic())}


def to_first(pieces: Iterator[str], begun: float) -> float:
    """Read all pieces; return the seconds from `begun` to the first."""
    next(pieces)
    first = time.monotonic() - begun
    for _ in pieces:
        continue
    return first


if __name__ == "__main__":
    main()
