"""Extraction and training on the workers of a Dask cluster."""
