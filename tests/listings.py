"""Listing a data set as the first stage does, without a project."""

from featcache.dataset.listing import list_images


def build_manifest(spec, folder, progress=None):
    """List every image of a data set and save the manifest in `folder`."""
    manifest = list_images(spec, folder, progress)
    manifest.save(folder)
    return manifest
