"""Every error that featcache raises on purpose, as one tree::

    FeatcacheError
    ├── SettingsError (ValueError)        a setting, section or command-line flag is wrong
    ├── SourceError                       the images, tables or labels that the user gave are wrong
    │   └── SourceChangedError            an image is no longer what the manifest says
    ├── RejectedImageError                one image can't be used; its row is rejected, the run continues
    ├── WeightsError                      a weights file is missing, damaged or of another architecture
    │   └── WeightsUnavailableError       the weights are not on this machine and can't be downloaded
    ├── BackboneError (ValueError)        an unknown backbone or tap, or an image size below its minimum
    ├── CacheError
    │   ├── CacheFormatError              a file is not a feature cache, or a damaged one
    │   ├── CacheMismatchError            an intact cache, but of other rows or settings than required
    │   ├── CacheLockedError              another process is writing this file
    │   ├── UnknownTapError (KeyError)    an intact cache without the requested tap
    │   └── FeatureValueError             NaN, infinity or a value beyond float16's range
    ├── ClusterError                      workers are unreachable, differ, or die of their jobs
    ├── StorageError (OSError)            no space, no permission, read-only, a failing disk
    ├── TrainingError                     the rows can't train or score what the settings ask for
    └── SubmissionError (ValueError)      the submission and its sample disagree

A message leads with what is wrong (``name=value``, the file) and then says what to do. It is one line.
"""


class FeatcacheError(Exception):
    """Root of the tree; the command lines print it as one line and exit with a non-zero status."""


class SettingsError(FeatcacheError, ValueError):
    """A setting is unknown, misspelt or has a value of the wrong kind."""


class SourceError(FeatcacheError):
    """The data set can't be listed or read as its source requires."""


class SourceChangedError(SourceError):
    """An image changed after it was indexed; the next run indexes it again and continues."""


class RejectedImageError(FeatcacheError):
    """One image can't be decoded. ``str(error)`` is the reason that `rejected.csv` gives."""


class WeightsError(FeatcacheError):
    """A weights file is damaged, missing or belongs to another architecture."""


class WeightsUnavailableError(WeightsError):
    """The weights are not on this machine and can't be downloaded."""


class BackboneError(FeatcacheError, ValueError):
    """The backbone, one of its taps or the image size is not possible."""


class CacheError(FeatcacheError):
    """Something is wrong with a feature cache."""


class CacheFormatError(CacheError):
    """The file is not a feature cache of a known schema, or its structure is damaged."""


class CacheMismatchError(CacheError):
    """The cache is intact but has other rows or settings than required."""


class CacheLockedError(CacheError):
    """Another live process holds the partial file of this cache."""


class UnknownTapError(CacheError, KeyError):
    """The cache has no such tap; the message names its taps."""

    def __str__(self) -> str:
        """The message alone; KeyError would print its `repr`."""
        return str(self.args[0]) if self.args else ""


class FeatureValueError(CacheError):
    """A feature is NaN, infinite or outside float16's range (-65504 to 65504)."""


class ClusterError(FeatcacheError):
    """A Dask scheduler or its workers can't be reached, differ, or died of their jobs."""


class StorageError(FeatcacheError, OSError):
    """The operating system refused a write: disk full, read-only, no permission."""

    def __str__(self) -> str:
        """The message alone; OSError would print a tuple."""
        return str(self.args[0]) if self.args else ""


class TrainingError(FeatcacheError):
    """The rows can't train or score what the settings ask for."""


class SubmissionError(FeatcacheError, ValueError):
    """The submission can't be written as the settings ask, or disagrees with the sample submission."""
