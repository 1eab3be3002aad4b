"""Writes and reads rows: JSON Lines, or tables with commas or tabs; every row a line that stands for itself."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llava_cli.errors import UsageError
from llava_cli.pictures import shown
from llava_cli.sanitiser import escaped, sanitise

# A picture may stand in a cell as a whole, as a data: URL.
csv.field_size_limit(1 << 30)

Row = Mapping[str, Any]
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}


class RowFormat(Protocol):
    """One way to write rows."""

    def header(self) -> bytes:
        """Return what a file begins with."""

    def encode(self, row: Row) -> bytes:
        """Return the line of a row, with its end."""

    def split(self, data: bytes) -> list[bytes]:
        """Return the whole lines of `data`, each with its end; what was torn off behind them is left out."""

    def decode(self, line: bytes) -> dict[str, Any] | None:
        """Return the row of one line; None if it is none."""


class JsonLines:
    """One JSON object on each line."""

    def header(self) -> bytes:
        return b""

    def encode(self, row: Row) -> bytes:
        return escaped(json.dumps(row, ensure_ascii=False)).encode() + b"\n"

    def split(self, data: bytes) -> list[bytes]:
        return [line + b"\n" for line in data.split(b"\n")[:-1]]

    def decode(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return row if isinstance(row, dict) else None


@dataclass(frozen=True)
class Table:
    """A table with these columns, as spreadsheets read it: quoted where that is needed."""

    columns: Sequence[str]
    delimiter: str = ","

    def __post_init__(self) -> None:
        """Raise `UsageError` for a name that could not be read back as it is."""
        if unclean := [name for name in self.columns if cell(name) != name]:
            why = f"a field is called {unclean[0]!a:.80}, which no table can hold"
            raise UsageError("fields", why, hint="-o out.jsonl can")

    def header(self) -> bytes:
        return self._line(self.columns)

    def encode(self, row: Row) -> bytes:
        return self._line([cell(row.get(column)) for column in self.columns])

    def split(self, data: bytes) -> list[bytes]:
        lines, start, is_quoted = [], 0, False
        for found in re.finditer(b'["\n]', data):
            # A newline between quotes belongs to a cell; quotes inside one are doubled.
            if found[0] == b'"':
                is_quoted = not is_quoted
            elif not is_quoted:
                lines.append(data[start : found.end()])
                start = found.end()
        return lines

    def decode(self, line: bytes) -> dict[str, Any] | None:
        try:
            cells = next(self._read(line.decode()))
        except (UnicodeDecodeError, csv.Error, StopIteration):
            return None
        return dict(zip(self.columns, cells, strict=True)) if len(cells) == len(self.columns) else None

    def _line(self, cells: Sequence[str]) -> bytes:
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=self.delimiter, lineterminator="\n").writerow(cells)
        return file.getvalue().encode()

    def _read(self, text: str) -> Iterator[list[str]]:
        return csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)


def cell(value: object) -> str:
    """Return a value as a table shows it; what is no text is JSON, and a name that is no text is escaped."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return escaped(json.dumps(value, ensure_ascii=False, sort_keys=True))
    return sanitise("".join(shown(c) if "\ud800" <= c <= "\udfff" else c for c in value))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, by the end of its name; raise `UsageError`, with the line, where it is none."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(shown(str(path)), (error.strerror or str(error)).lower(), hint="check the name") from error
    except UnicodeDecodeError as error:
        hint = "save it as UTF-8"
        raise UsageError(shown(str(path)), f"it is not UTF-8 (byte {error.start})", hint=hint) from error
    if SUFFIXES[path.suffix.lower()] == "jsonl":
        return list(_json_rows(path, text))
    return list(_table_rows(path, text, "\t" if path.suffix.lower() == ".tsv" else ","))


def _json_rows(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = JsonLines().decode(line.encode("utf-8", "surrogatepass"))
        if row is None:
            raise UsageError(f"{shown(str(path))}, line {number}", "it is no JSON object", hint="one object per line")
        yield row


def _table_rows(path: Path, text: str, delimiter: str) -> Iterator[dict[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = next(reader, [])
        if twice := [name for at, name in enumerate(columns) if name in columns[:at]]:
            hint = "give one of them another name"
            raise UsageError(shown(str(path)), f"two of its columns are called {twice[0]!r:.80}", hint=hint)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                where = f"{shown(str(path))}, line {reader.line_num}"
                why = f"{len(cells)} cells under {len(columns)} columns"
                raise UsageError(where, why, hint="put quotes around cells with commas")
            yield dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise UsageError(f"{shown(str(path))}, line {reader.line_num}", str(error), hint="check that line") from error
