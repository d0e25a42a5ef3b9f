"""What coverage-guided fuzzing attacks: for each of featcache's parsers, small real inputs and one call with some bytes.

`benchmarks/fuzz.py` runs them under atheris; `test_parsers.py` replays what it found worth keeping, in `tests/corpus`.
"""

from collections.abc import Callable
from pathlib import Path

import fuzzing

import featcache
from featcache.core.progress import Silent
from featcache.dataset.decoding.decode import decode_rgb, header_fault
from featcache.dataset.digest_cache import DigestCache
from featcache.dataset.groups import with_groups
from featcache.dataset.listing import list_files, preview_images
from featcache.dataset.manifest import Manifest
from featcache.dataset.sources.source import open_source
from featcache.ensemble.sample_submission import match_ids, read_sample
from featcache.inspection.verify.checks import file_faults
from featcache.settings.specs import DatasetSpec

CORPUS = Path(__file__).parent / "corpus"
_OFFSET_BYTES = 3


class Target:
    """One parser: what it reads lies in `folder`, made once.

    Attributes:
        seeds: real inputs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seeds = self.make()

    def make(self) -> list[bytes]:
        """Lay out what stays, and return real inputs."""
        return []

    def read(self, content: bytes) -> None:
        """Read `content`; only a FeatcacheError may come out."""
        raise NotImplementedError


class Structure(Target):
    """A feature cache with some bytes replaced: ``offset (3 bytes), length (1), bytes``, again and again."""

    def make(self) -> list[bytes]:
        (path,) = fuzzing.make_cache(self.folder)
        self.whole = path.read_bytes()
        return [b"", b"\0\0\0\4abcd", b"\0\x10\0\2\xff\xff\0\x20\0\1\0"]

    def read(self, content: bytes) -> None:
        damaged = bytearray(self.whole)
        while len(content) > _OFFSET_BYTES + 1:
            at, length = int.from_bytes(content[:_OFFSET_BYTES], "big") % len(damaged), content[_OFFSET_BYTES] % 17
            some = content[_OFFSET_BYTES + 1 :][:length]
            damaged[at : at + len(some)] = some
            content = content[_OFFSET_BYTES + 1 + length :]
        path = self.folder / "a.h5"
        path.write_bytes(damaged)
        list(file_faults(path))
        reader = featcache.open(path)
        list(reader.ids), list(reader.groups), list(reader.digests), reader.frame(), reader.durable, reader.run


class Files(Target):
    """A file that is replaced as a whole, and what reads its folder; the first byte says which file."""

    kind: str

    def make(self) -> list[bytes]:
        self.names = [path.relative_to(self.folder) for path in self.laid_out()]
        self.contents = [(self.folder / name).read_bytes() for name in self.names]
        return [bytes([number]) + content for number, content in enumerate(self.contents)]

    def laid_out(self) -> list[Path]:
        """The files."""
        return fuzzing.KINDS[self.kind][0](self.folder)

    def read(self, content: bytes) -> None:
        which = content[0] % len(self.names) if content else 0
        (self.folder / self.names[which]).write_bytes(content[1:])
        spec = DatasetSpec(name="set", source=self.kind, path=self.folder / "data")
        try:
            manifest, opened = preview_images(spec, self.folder / "out"), open_source(spec)
            for rows in manifest.splits.values():
                for location, digest in zip(rows.locations, rows.digests, strict=True):
                    assert opened.load(location, digest, 8).shape == (8, 8, 3)
        finally:
            (self.folder / self.names[which]).write_bytes(self.contents[which])


class Idx(Files):
    """idx files as a source."""

    kind = "idx"


class Table(Files):
    """CSV tables as a source."""

    kind = "csv"


class Listed(Files):
    """`manifest.arrow`, `manifest.json`, and `listing.csv` on its own."""

    def laid_out(self) -> list[Path]:
        fuzzing.make_project(self.folder)
        self.files, self.root = list_files(fuzzing.photos(self.folder)), self.folder / "photos"
        return [
            self.folder / "out" / name for name in ("manifest.arrow", "manifest.json", "listing.csv", "listing.json")
        ]

    def read(self, content: bytes) -> None:
        which = content[0] % len(self.names) if content else 0
        path = self.folder / self.names[which]
        path.write_bytes(content[1:])
        try:
            DigestCache.load(self.folder / "out/listing.csv").digest_all(self.files, self.root.joinpath, None, Silent())
            fuzzing.project_of(self.folder).manifest()
            manifest = Manifest.load(self.folder / "out")
            assert all(list(rows.locations) for rows in manifest.splits.values())
        finally:
            path.write_bytes(self.contents[which])


class Image(Target):
    """One image file."""

    def make(self) -> list[bytes]:
        forms = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
        return [fuzzing.encoded(fuzzing.picture(9, 7), form) for form in forms]

    def read(self, content: bytes) -> None:
        assert "\n" not in header_fault(content)
        assert decode_rgb(content, 8).shape == (8, 8, 3)


class Beside(Target):
    """What lies beside the images: a sample submission, and after a byte 0xff a table of groups."""

    def make(self) -> list[bytes]:
        fuzzing.make_project(self.folder)
        self.manifest = Manifest.load(self.folder / "out")
        ids = self.manifest.splits["train"].ids
        table = "".join(f"{row},p{number % 3}\n" for number, row in enumerate(ids))
        return [b"id,a,b\n1,0.5,0.5\n2.jpg,0,1\n", b"\xffimg,subject\n" + table.encode()]

    def read(self, content: bytes) -> None:
        path = self.folder / "beside.csv"
        path.write_bytes(content.removeprefix(b"\xff"))
        if content.startswith(b"\xff"):
            with_groups(self.manifest, path, "subject")
        else:
            match_ids(["1", "2"], read_sample(path))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "structure": Structure,
    "idx": Idx,
    "csv": Table,
    "listed": Listed,
    "image": Image,
    "beside": Beside,
}
