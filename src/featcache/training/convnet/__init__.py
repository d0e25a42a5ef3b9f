"""Small networks trained end to end on augmented images."""
