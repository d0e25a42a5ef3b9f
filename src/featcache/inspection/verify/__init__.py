"""Check files of caches and artifacts."""
