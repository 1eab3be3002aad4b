"""Cuts a picture into tiles and joins what the tower makes of them, as LLaVA-1.6 does (`anyres`, `spatial_unpad`).

The model sees a picture twice: squeezed into one square, as an overview, then cut into a grid of such squares. What
comes back of the grid is laid out like the picture again; tokens that show only padding are left out, and a learned
embedding ends each row. The authors' code: `process_anyres_image` and `select_best_resolution` of `mm_utils.py`,
`prepare_inputs_labels_for_multimodal` of `llava_arch.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.pictures import Picture

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class Tiling:
    """How one model cuts pictures."""

    sizes: tuple[Size, ...]
    """What a picture may be brought to before it is cut, in pixels: whole tiles. The authors call them pinpoints."""
    side: int
    """Pixels of a tile's side."""
    side_tokens: int
    """Embeddings of a tile's side: a tile gives the square of it."""
    newline: bytes
    """The embedding that ends a row, float32."""

    @property
    def most_tokens(self) -> int:
        """Return how many embeddings a picture takes at most."""
        return max(map(self.token_count, self.sizes))

    def token_count(self, size: Size) -> int:
        """Return how many embeddings a picture of `size` takes."""
        rows, columns = self._kept(size)
        return self.side_tokens**2 + len(rows) * (len(columns) + 1)

    def overview(self, picture: Picture) -> bytes:
        """Return the whole picture as one tile, RGB; its sides are squeezed, not padded."""
        from PIL import Image

        return picture.image().resize((self.side, self.side), Image.Resampling.BICUBIC).tobytes()

    def cut(self, picture: Picture) -> Iterator[bytes]:
        """Yield the tiles of the grid, RGB, row by row; what the picture does not cover is black."""
        from PIL import Image

        image = picture.image()
        width, height = self._best_size(image.size)
        across, down = width / image.width, height / image.height
        if across < down:
            fitted = width, min(math.ceil(image.height * across), height)
        else:
            fitted = min(math.ceil(image.width * down), width), height
        padded = Image.new("RGB", (width, height))
        corner = (width - fitted[0]) // 2, (height - fitted[1]) // 2
        padded.paste(image.resize(fitted, Image.Resampling.BICUBIC), corner)
        for top in range(0, height, self.side):
            for left in range(0, width, self.side):
                yield padded.crop((left, top, left + self.side, top + self.side)).tobytes()

    def join(
        self, size: Size, overview: NDArray[np.float32], grid: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the embeddings of a picture of `size` from those of its overview and its tiles, each `(n, n_embd)`."""
        import numpy as np

        columns, rows = self._grid(size)
        width = overview.shape[1]
        laid_out = np.stack(grid).reshape(rows, columns, self.side_tokens, self.side_tokens, width).swapaxes(1, 2)
        plane = laid_out.reshape(rows * self.side_tokens, columns * self.side_tokens, width)
        kept_rows, kept_columns = self._kept(size)
        plane = plane[kept_rows.start : kept_rows.stop, kept_columns.start : kept_columns.stop]
        ends = np.broadcast_to(np.frombuffer(self.newline, dtype=np.float32), (len(plane), 1, width))
        return np.concatenate([overview, np.concatenate([plane, ends], axis=1).reshape(-1, width)])

    def _best_size(self, size: Size) -> Size:
        """Return the one of `sizes` that keeps most of the picture, then wastes least; of equals the first."""
        width, height = size

        def fit(candidate: Size) -> tuple[int, int]:
            scale = min(candidate[0] / width, candidate[1] / height)
            used = min(int(width * scale) * int(height * scale), width * height)
            return used, used - candidate[0] * candidate[1]

        return max(self.sizes, key=fit)

    def _grid(self, size: Size) -> Size:
        width, height = self._best_size(size)
        return width // self.side, height // self.side

    def _kept(self, size: Size) -> tuple[range, range]:
        """Return which rows and columns of the plane of tokens show the picture: `unpad_image` of `llava_arch.py`."""
        width, height = size
        columns, rows = (count * self.side_tokens for count in self._grid(size))
        # Rounded as in transformers, where a product like 23.999999999999996 is 24.
        if width / height > columns / rows:
            padding = (rows - int(round(height * (columns / width), 7))) // 2
            return range(padding, rows - padding), range(columns)
        padding = (columns - int(round(width * (rows / height), 7))) // 2
        return range(rows), range(padding, columns - padding)
