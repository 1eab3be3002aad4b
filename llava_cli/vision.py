"""Turns a `Picture` into embeddings, exactly as the authors' code does; holds the vision tower only while it works.

LLaVA-1.5 sees a picture as one square; how LLaVA-1.6 cuts it into several is in `tiles.py`.

Two things in llama.cpp's image graph differ from the model that was trained (ggml-org/llama.cpp #25814, #25817):
it stops one layer early, and it puts the class token behind the patches although positions and row selection
expect it in front. The first is mended in the projector file (`gguf_file.repaired_projector`), the second here,
by moving that row while the graph runs.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from llava_cli import engine_log
from llava_cli.errors import EngineFailed, Stopped
from llava_cli.gguf_file import read_header
from llava_cli.gguf_projector import grid_sizes, newline_tensor
from llava_cli.settings import ROOM_FOR_WORDS, Detail, LoadOptions
from llava_cli.tiles import Tiling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.pictures import Picture, RememberedPicture

PADDING = (122, 116, 104)
"""CLIP's mean colour as LLaVA's `expand2square` rounds it."""

FEATURES_VERSION = 2
"""Raise it with every change here that changes embeddings by a bit: those on disk are then made anew."""

_BAND = 256
_NODES_BETWEEN_LOOKS = 32


def square_pixels(picture: Picture, size: int) -> bytes:
    """Fit `picture` into a square as the reference does: `size * size * 3` bytes of RGB.

    Equal to `expand2square` (padded, centred) followed by Pillow's bicubic resize, without ever building
    the padded square at full size: Pillow resizes rows first, then columns, and rows do not see each other.
    """
    from PIL import Image

    image = picture.image()
    width, height = image.size
    side = max(width, height)
    bicubic = Image.Resampling.BICUBIC
    # Rows first: (side, height) → (size, height), in bands, so that a tall picture needs no padded copy either.
    rows = Image.new("RGB", (size, side), PADDING)
    left, top = (side - width) // 2, (side - height) // 2
    for start in range(0, height, _BAND):
        band = image.crop((0, start, width, min(start + _BAND, height)))
        if width < side:
            padded = Image.new("RGB", (side, band.height), PADDING)
            padded.paste(band, (left, 0))
            band = padded
        rows.paste(band.resize((size, band.height), bicubic), (0, top + start))
    return rows.resize((size, size), bicubic).tobytes()


class View(NamedTuple):
    """What a tower sees of a picture. Other pixels, or the same looked at more closely, are another view."""

    sha256: str
    detail: Detail
    tokens: int
    """Embeddings it gives."""


@dataclass(frozen=True)
class TowerFacts:
    """What a projector file says about the tower in it."""

    image_size: int
    """Side of the square of pixels it takes."""
    square_tokens: int
    """Embeddings it gives for one square."""
    width: int
    """Width of the tower's own states."""
    class_token: bytes | None
    """`v.class_embd` as float32 bytes; None for towers without a class token."""
    tiling: Tiling | None
    """How pictures are cut into several squares; None if each is seen as one."""

    @classmethod
    def read(cls, projector: Path) -> TowerFacts:
        header = read_header(projector)
        # The gate has seen these keys and their types.
        size, patch, width = (
            cast(int, header.metadata[f"clip.vision.{key}"]) for key in ("image_size", "patch_size", "embedding_length")
        )
        side = size // patch

        def vector(name: str) -> bytes:
            info = header.tensors[name]
            with projector.open("rb") as file:
                file.seek(header.data_start + info.offset)
                return file.read(info.nbytes)

        class_token = vector("v.class_embd") if "v.class_embd" in header.tensors else None
        sizes = grid_sizes(header)
        tiling = Tiling(sizes, size, side, vector(newline_tensor(header))) if sizes else None
        return cls(size, side**2, width, class_token, tiling)

    def view(self, picture: Picture | RememberedPicture, detail: Detail) -> View:
        """Return what the tower sees of `picture`, at `detail` if the picture does not say."""
        if self.tiling is None:
            return View(picture.sha256, "high", self.square_tokens)  # there is no other way to look
        detail = picture.detail or detail
        size = picture.width, picture.height
        return View(picture.sha256, detail, self.square_tokens if detail == "low" else self.tiling.token_count(size))

    def most_tokens(self, detail: Detail) -> int:
        """Return how many embeddings the largest picture gives."""
        return self.square_tokens if self.tiling is None or detail == "low" else self.tiling.most_tokens

    def squares(self, picture: Picture, detail: Detail) -> list[bytes]:
        """Return the squares of RGB pixels that the tower gets of `picture`, that of the whole one first."""
        if self.tiling is None:
            return [square_pixels(picture, self.image_size)]
        is_close = (picture.detail or detail) == "high"
        return [self.tiling.overview(picture), *(self.tiling.cut(picture) if is_close else ())]

    def window(self, options: LoadOptions, trained: int) -> int:
        """Return how many cells the context window gets by `options`, for a model that was trained with so many."""
        one = self.most_tokens(options.detail)
        needed = max(one, min(one * options.pictures, trained - ROOM_FOR_WORDS)) + ROOM_FOR_WORDS
        wanted = options.context or -(-needed // 1024) * 1024
        # llama.cpp takes windows in such steps, but `Llama` keeps a list of as many tokens as it was told.
        return -(-wanted // 256) * 256


class Tower:
    """The vision tower and projector of one file, open in libmtmd. Use it with `with`."""

    def __init__(self, projector: Path, llama: Any, stopped: threading.Event) -> None:
        from llama_cpp import llama_cpp as c
        from llama_cpp import mtmd_cpp

        engine_log.silence()
        self._c = mtmd_cpp
        self._facts = TowerFacts.read(projector)
        self._width = int(llama.n_embd())
        self._stopped = stopped
        self._order = _TokenOrder(self._facts)
        self._nodes_seen = 0
        # llama.cpp keeps the bare pointer: the callback must live as long as the context.
        self._watch = c.ggml_backend_sched_eval_callback(self._on_node)
        self._resources = ExitStack()
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = False
        params.print_timings = False
        params.warmup = False  # it would encode an empty picture, 2.5 s on a full-size tower
        params.n_threads = llama.n_threads_batch
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.cb_eval = self._watch
        self._go_on = mtmd_cpp.mtmd_progress_callback(lambda _done, _data: not stopped.is_set())
        params.progress_callback = self._go_on
        self._context = mtmd_cpp.mtmd_init_from_file(str(projector).encode(), llama.model, params)
        if not self._context:
            if stopped.is_set():
                raise Stopped("picture", "stopped while looking at it")
            raise EngineFailed(
                projector.name,
                f"llama.cpp cannot open this projector ({engine_log.last_complaint() or 'perhaps memory ran out'})",
                hint="llava doctor says what a model takes and what there is, llava verify whether files are damaged",
            )
        self._resources.callback(mtmd_cpp.mtmd_free, self._context)

    def __enter__(self) -> Tower:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def encode(self, picture: Picture, detail: Detail) -> NDArray[np.float32]:
        """Return the image features as the language model receives them, float32 `(n_tokens, n_embd)`.

        Raise `EngineFailed` when they cannot be right, `Stopped` when the user asked to stop.
        """
        import numpy as np

        squares = self._facts.squares(picture, detail)
        features, *tiles = [self._encode_square(square, picture.name) for square in squares]
        if tiles and self._facts.tiling is not None:
            features = self._facts.tiling.join((picture.width, picture.height), features, tiles)
        if not np.isfinite(features).all():
            raise EngineFailed(picture.name, "the image features are not numbers; is the projector file damaged?")
        return features

    def _encode_square(self, pixels: bytes, name: str) -> NDArray[np.float32]:
        import numpy as np

        self._order.hits = 0
        with ExitStack() as stack:
            chunk = self._chunk(pixels, stack)
            status = self._c.mtmd_encode_chunk(self._context, chunk)
            if self._stopped.is_set():
                raise Stopped(name, "stopped while looking at the picture")
            if self._order.fault:
                raise EngineFailed(name, self._order.fault)
            count = self._c.mtmd_input_chunk_get_n_tokens(chunk)
        if status != 0:
            raise EngineFailed(name, f"llama.cpp could not encode it ({engine_log.last_complaint()})")
        if count != self._facts.square_tokens:
            raise EngineFailed(name, f"{count} picture tokens came back, not {self._facts.square_tokens}")
        if self._facts.class_token is not None and self._order.hits != 1:
            raise EngineFailed(
                name,
                f"the class token was seen {self._order.hits} times in the image graph, not once",
                hint="this version of llama-cpp-python is unknown: pip install 'llama-cpp-python==0.3.36'",
            )
        output = self._c.mtmd_get_output_embd(self._context)
        return np.ctypeslib.as_array(output, shape=(count * self._width,)).reshape(count, self._width).copy()

    def _chunk(self, pixels: bytes, stack: ExitStack) -> Any:
        """Hand the pixels to libmtmd and return its one picture chunk; `stack` frees what it made."""
        c, size = self._c, self._facts.image_size
        # Only ever finished RGB: libmtmd's own decoders have crashed on bad files, and may start ffmpeg.
        bitmap = c.mtmd_bitmap_init(size, size, (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels))
        stack.callback(c.mtmd_bitmap_free, bitmap)
        chunks = c.mtmd_input_chunks_init()
        stack.callback(c.mtmd_input_chunks_free, chunks)
        marker = c.mtmd_default_marker()
        text = c.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
        status = c.mtmd_tokenize(self._context, chunks, ctypes.byref(text), (c.mtmd_bitmap_p_ctypes * 1)(bitmap), 1)
        found = [c.mtmd_input_chunks_get(chunks, i) for i in range(c.mtmd_input_chunks_size(chunks))]
        pictures = [x for x in found if c.mtmd_input_chunk_get_type(x) == c.MTMD_INPUT_CHUNK_TYPE_IMAGE]
        if status != 0 or len(pictures) != 1:
            raise EngineFailed("picture", f"llama.cpp made {len(pictures)} pieces of it (status {status})")
        return pictures[0]

    def _on_node(self, node: int, ask: bool, _data: int) -> bool:
        """See every node of the image graph: mend the token order, and look for a stop now and then."""
        try:
            if ask:
                self._nodes_seen += 1
                return self._order.is_concat(node) or self._nodes_seen % _NODES_BETWEEN_LOOKS == 0
            return self._order.mend(node) and not self._stopped.is_set()
        except KeyboardInterrupt:
            # Ctrl-C lands in whatever Python is running; C code cannot pass an exception on.
            self._stopped.set()
            return False


class _TokenOrder:
    """Moves the class token in front of the patches, if the graph has put it behind them."""

    def __init__(self, facts: TowerFacts) -> None:
        from llama_cpp._ggml import libggml

        self.hits = 0
        self.fault = ""
        self._class_token = facts.class_token
        self._elements = facts.width * (facts.square_tokens + 1)
        self._ggml = libggml
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        libggml.ggml_op_desc.argtypes, libggml.ggml_op_desc.restype = [pointer], ctypes.c_char_p
        libggml.ggml_nelements.argtypes, libggml.ggml_nelements.restype = [pointer], ctypes.c_int64
        libggml.ggml_nbytes.argtypes, libggml.ggml_nbytes.restype = [pointer], size
        for transfer in (libggml.ggml_backend_tensor_get, libggml.ggml_backend_tensor_set):
            transfer.argtypes, transfer.restype = [pointer, pointer, size, size], None

    def is_concat(self, node: int) -> bool:
        """Tell whether `node` joins the patches and the class token."""
        return (
            self._class_token is not None
            and self._ggml.ggml_nelements(node) == self._elements
            and self._ggml.ggml_op_desc(node) == b"CONCAT"
        )

    def mend(self, node: int) -> bool:
        """Roll the rows of a joined node if the class token is last; False stops the graph."""
        if not self.is_concat(node) or self._class_token is None:
            return True
        self.hits += 1
        nbytes, row = self._ggml.ggml_nbytes(node), len(self._class_token)
        rows = ctypes.create_string_buffer(nbytes)
        self._ggml.ggml_backend_tensor_get(node, rows, 0, nbytes)
        # Decided by content, so that a llama.cpp with the order mended is left alone.
        if rows.raw[:row] == self._class_token:
            return True
        if nbytes != self._elements * 4 or rows.raw[-row:] != self._class_token:
            self.fault = "the class token is at neither end of the image tokens: llama.cpp has changed"
            return False
        self._ggml.ggml_backend_tensor_set(node, rows.raw[-row:] + rows.raw[:-row], 0, nbytes)
        return True
