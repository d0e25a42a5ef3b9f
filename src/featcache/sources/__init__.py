"""Where images come from: listing, decoding, and the manifest."""

from featcache.sources.files import FileStats
from featcache.sources.index import build_manifest, current_key, list_files, list_images, preview_images, reread_images
from featcache.sources.manifest import Manifest, stored_manifest
from featcache.sources.source import Source, open_source

__all__ = [
    "FileStats",
    "Manifest",
    "Source",
    "build_manifest",
    "current_key",
    "list_files",
    "list_images",
    "open_source",
    "preview_images",
    "reread_images",
    "stored_manifest",
]
