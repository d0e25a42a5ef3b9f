"""Convnets: small networks trained end to end on augmented images."""
