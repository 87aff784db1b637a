"""Rendered letters: typefaces, stones, light and camera. Needs only NumPy, SciPy and Pillow."""
