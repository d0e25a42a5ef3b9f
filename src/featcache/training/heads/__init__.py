"""Heads on cached features: stacked training of whole bags."""
