"""Where images come from: listing, decoding, and the manifest."""

from featcache.sources.index import current_key, index_images
from featcache.sources.manifest import Manifest, stored_manifest
from featcache.sources.source import Source, open_source

__all__ = ["Manifest", "Source", "current_key", "index_images", "open_source", "stored_manifest"]
