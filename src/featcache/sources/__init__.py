"""Where images come from: listing, decoding, and the manifest."""

from featcache.sources.files import FileStats
from featcache.sources.index import current_key, index_images, list_files, list_images, preview_images, reread_images
from featcache.sources.manifest import Manifest, stored_manifest
from featcache.sources.source import Source, open_source

__all__ = [
    "FileStats",
    "Manifest",
    "Source",
    "current_key",
    "index_images",
    "list_files",
    "list_images",
    "open_source",
    "preview_images",
    "reread_images",
    "stored_manifest",
]
