"""One walk over folders of images: what is an image by its name, and how many other files are left out."""

from collections.abc import Callable, Iterator
from pathlib import Path

from featcache.core import paths
from featcache.core.formatting import readable_name
from featcache.core.names import IMAGE_SUFFIXES
from featcache.core.texts import CHUNK
from featcache.dataset.file_stats import FileStats
from featcache.dataset.sources import walk
from featcache.dataset.sources.misplaced import count_images
from featcache.errors import SourceError

# Whatever has an image's name is a row, readable or not: a test image that can't be read keeps its row of the submission.
SUFFIXES = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)


def image_files(path: Path) -> Iterator[Path]:
    """Yield every image file in and below a folder, as `files_below` has it."""
    return walk.files_below(path, is_image)


def is_image(name: str) -> bool:
    """Whether a file has an image's suffix."""
    return name.lower().endswith(SUFFIXES)


class Scan:
    """The images found by walks over several folders; each has as location that of its folder and its path below."""

    def __init__(self, *, keep: bool = True, wanted: Callable[[str], bool] = is_image) -> None:
        self.files = FileStats()  #: the images, if `keep`, or else what is in folders that are passed over
        self.left_out = self.files.left_out
        self._keep, self._wanted = keep, wanted
        self._found = 0  # images

    def classes(self, path: Path, split: str) -> None:
        """Look for images in the class folders of a split's folder."""
        for entry in walk.entries(path):
            if walk.is_folder(entry):
                if not self._is_skipped(entry, split):
                    filled = self._class(Path(entry.path), f"{split}/{entry.name}")
                    if split == "train" and not filled:
                        self.files.empty.add(entry.name)
            elif is_image(entry.name) and not walk.is_hidden(entry):
                self.left_out["images outside a class folder"] += 1
            elif entry.is_symlink() and not walk.is_hidden(entry) and not paths.is_file(Path(entry.path)):
                # a class whose folder is elsewhere, and can't be reached
                what = paths.what_is(Path(entry.path))
                raise SourceError(f"{entry.path!r} is not a class folder but {what}: correct or remove the link")
            else:
                self._leave_out(entry)

    def _class(self, path: Path, location: str) -> bool:
        before = self._found
        for entry in self._others(path, f"{location}/"):
            folder = walk.is_folder(entry)
            if not folder or is_image(entry.name):  # a folder called like an image is an image that can't be read
                self._file(path, entry, f"{location}/")
            if folder and not self._is_skipped(entry):
                if count := self._count(entry):
                    self.left_out["images in folders inside a class folder"] += count
                elif not is_image(entry.name):
                    self.left_out["folders inside a class folder"] += 1
        return self._found > before

    def _others(self, path: Path, begin: str) -> Iterator[walk.Entry]:
        """Take the images right in a folder, some at a time; yield what else is in it, to be looked at more closely."""
        images: list[str] = []
        wanted, is_folder = self._wanted, walk.is_folder
        for entry in walk.entries(path):
            name = entry.name
            if not wanted(name) or name.startswith(".") or is_folder(entry):
                yield entry
            else:
                images.append(name)
                if len(images) == CHUNK:
                    self._take(path, images, begin)
        self._take(path, images, begin)

    def _take(self, folder: Path, images: list[str], begin: str) -> None:
        if self._keep and images:
            self.files.look_at(folder, begin, images)
        self._found += len(images)
        images.clear()

    def tree(self, top: Path, location: str) -> None:
        """Look for images in and below a folder, whose own location is given."""
        waiting: list[tuple[Path, str, walk.Above]] = [(top, location, frozenset())]
        while waiting:
            path, location, above = waiting.pop()
            here = walk.below(path, above)
            if here is None:
                continue
            begin = location and f"{location}/"
            for entry in self._others(path, begin):
                if not walk.is_folder(entry) or (self._wanted(entry.name) and not any(walk.entries(Path(entry.path)))):
                    self._file(path, entry, begin)
                elif not self._is_skipped(entry, "" if above else location):
                    waiting.append((Path(entry.path), begin + entry.name, here))

    def _is_skipped(self, folder: walk.Entry, split: str = "") -> bool:
        """Whether a folder is hidden or a system's; one right in a split that holds images might be meant as a class."""
        if walk.is_hidden(folder):
            if split and self._count(folder):
                self.left_out[f"folder {split}/{readable_name(folder.name)}/, as its name begins with a dot"] += 1
            return True
        if walk.is_system(folder):
            self.left_out[f"system folders ({folder.name})"] += 1
            return True
        return False

    def _count(self, folder: walk.Entry) -> int:
        """How many images are in a folder that is left out; with `keep`, when nobody may ask, it is passed over."""
        self.files.passed_over |= self._keep
        return 0 if self._keep else count_images(Path(folder.path), is_image)

    def _file(self, folder: Path, entry: walk.Entry, begin: str) -> None:
        if not self._wanted(entry.name) or walk.is_hidden(entry):
            self._leave_out(entry)
        else:
            self._take(folder, [entry.name], begin)

    def _leave_out(self, entry: walk.Entry) -> None:
        if not walk.is_hidden(entry):
            if entry.is_symlink() and not paths.is_file(Path(entry.path)):
                self.left_out["links that lead to no file"] += 1
                return
            self.left_out[readable_name(walk.suffix(entry.name)) or "no suffix"] += 1
        elif is_image(entry.name) and not entry.name.startswith("._"):  # macOS keeps a file's attributes there
            self.left_out["images whose names begin with a dot"] += 1
