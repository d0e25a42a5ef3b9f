"""CSV files: read whatever packs them, encodes them and separates their fields; written so that any reader has the same back."""

import csv
import gzip
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, TextIO, cast

from featcache.core.disk import replacing
from featcache.core.paths import regular

_NAME = re.compile(r"(?P<stem>[^.].*?)\.(csv|csv\.gz|csv\.zip|zip)", re.IGNORECASE)
_DELIMITERS = ",;\t"
_QUOTED = re.compile(r'"[^"]*"')
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_ENCRYPTED = 1
_UTF_8 = "utf-8-sig"
_PART = 1 << 20  # characters
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
_NO_ARCHIVE = (*_DAMAGED, NotImplementedError, RuntimeError, ValueError, struct.error)


def csv_files_like(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    """Return the files ``.csv``, ``.csv.gz``, ``.csv.zip`` and ``.zip`` of a folder whose stems match, by stem.

    Of a CSV that is there plain and packed it is the plain one. Empty where the folder can't be listed.
    """
    found: dict[str, Path] = {}
    with suppress(OSError):
        for path in sorted(folder.iterdir(), reverse=True):
            match = _NAME.fullmatch(path.name)
            if match and pattern.fullmatch(match["stem"]):
                found[match["stem"]] = path
    return found


class UnreadableError(Exception):
    """What a file holds instead of a readable CSV, and what to do: a phrase that follows "got"."""


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file; one that is gzipped, or a zip with one CSV inside, is unpacked on the way.

    Raises:
        UnreadableError: it is packed and can't be unpacked; also while it is read.
        OSError: it is no file or can't be read.
    """
    try:
        with ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(open(path, "rb", opener=regular))
            begin = stream.read(4)
            stream.seek(0)
            if begin[:2] == b"\x1f\x8b":
                stream = cast("IO[bytes]", stack.enter_context(gzip.open(stream)))
            elif begin[:2] == b"PK" and begin[2:] in (b"\3\4", b"\5\6"):
                stream = stack.enter_context(_only_table(stack, stream))
            yield stream
    except _DAMAGED as error:
        raise UnreadableError(f"damaged data ({error}): download it again") from error


def _only_table(stack: ExitStack, stream: IO[bytes]) -> IO[bytes]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(stream))
        files = [file for file in archive.infolist() if file.filename.lower().endswith(".csv")]
        tables = [file for file in files if not file.filename.startswith("__MACOSX/")]
        if len(tables) != 1:
            raise UnreadableError(f"a zip with {len(tables)} CSV files inside, not one: pack it alone or unpack it")
        if tables[0].flag_bits & _ENCRYPTED:
            raise UnreadableError("an encrypted zip: unpack it and use the CSV itself")
        return archive.open(tables[0])
    except _NO_ARCHIVE as error:
        raise UnreadableError(f"a zip that can't be unpacked ({error}): unpack it or download it again") from error


def delimiter(header: str, line: str) -> str:
    """Return what separates the fields of a header and of the line after it: a comma, a semicolon or a tab."""
    counts = {sign: [_QUOTED.sub("", text).count(sign) for text in (header, line)] for sign in _DELIMITERS}
    agreed = {sign: count for sign, (count, next_one) in counts.items() if count == next_one and count}
    return max(agreed or _DELIMITERS, key=lambda sign: counts[sign][0])


class CsvLines:
    """The non-empty lines of a CSV as lists of fields, the header first; can be iterated once.

    Attributes:
        delimiter: what separates the fields, by the first two lines.
    """

    def __init__(self, text: TextIO) -> None:
        self._blank, first = 0, text.readline()
        while first and not first.strip():
            self._blank, first = self._blank + 1, text.readline()
        begin = [first, text.readline()]
        self.delimiter = delimiter(*begin)
        self._reader = csv.reader(chain(filter(None, begin), text), delimiter=self.delimiter)

    @property
    def number(self) -> int:
        """The number of the line that came last; 1 is the file's first."""
        return self._blank + self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the next lines; those of blanks and delimiters alone, as a spreadsheet leaves them, are passed over."""
        return (fields for fields in self._reader if any(map(str.strip, fields)))


def text_encoding(path: Path) -> str:
    """Return a whole text file's encoding: UTF-8, by its byte order mark UTF-16 or UTF-32, or else Latin-1.

    Raises:
        UnreadableError, OSError: as `opened`.
    """
    with unpacked(path) as stream:
        encoding = _encoding(stream)
        try:
            with io.TextIOWrapper(stream, encoding) as text:
                while text.read(_PART):
                    pass
        except UnicodeDecodeError as error:
            if encoding != _UTF_8:
                raise UnreadableError(f"damaged {encoding.upper()} ({error.reason}): download it again") from error
            return "latin-1"
    return encoding


@contextmanager
def opened(path: Path, errors: str = "strict", encoding: str = "") -> Iterator[CsvLines]:
    """Open a CSV in UTF-8, or in UTF-16 or UTF-32 with its byte order mark, plain, ``.gz`` or ``.zip``.

    `errors` is what to do with bytes that aren't UTF-8, as of `open`; `encoding` is what `text_encoding` found.

    Raises:
        UnreadableError: it isn't one; also while it is read.
        OSError: it is no file or can't be read.
    """
    with unpacked(path) as stream:
        encoding = encoding or _encoding(stream)
        try:
            with io.TextIOWrapper(stream, encoding, errors, newline="") as text:
                yield CsvLines(text)
        except UnicodeDecodeError as error:
            raise UnreadableError(
                f"text that is not {encoding.removesuffix('-sig').upper()} ({error.reason}): save it as UTF-8"
            ) from error
        except csv.Error as error:
            raise UnreadableError(f"text that is no CSV ({error}): correct it") from error


def _encoding(stream: IO[bytes]) -> str:
    begin = stream.read(4)
    stream.seek(0)
    found = next((name for mark, name in _MARKS.items() if begin.startswith(mark)), None)
    if found is None and b"\0" in begin:
        raise UnreadableError("text that is not UTF-8 (it has NUL characters, like UTF-16): save it as UTF-8")
    return found or _UTF_8


class CsvWriter:
    r"""Writes rows, comma-separated, each line ended by ``\n``, that the csv module and pandas read back as they were.

    The module quotes line ends only where they are its own ``lineterminator`` (until Python 3.13), and a lone carriage
    return ends a line for its readers. So it gets both, and the line's end is corrected here.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.rows = csv.writer(self, lineterminator="\r\n").writerows

    def row(self, fields: Iterable[object]) -> None:
        """Write one row."""
        self.rows([list(fields)])

    def write(self, line: str) -> None:
        """Take one row's line from the csv module."""
        self._stream.write(line.removesuffix("\r\n") + "\n")


@contextmanager
def replacing_csv(path: Path) -> Iterator[CsvWriter]:
    """Write a CSV that gets its name when all is in it.

    Raises:
        StorageError: the disk is full, read-only or not permitted.
    """
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield CsvWriter(stream)
