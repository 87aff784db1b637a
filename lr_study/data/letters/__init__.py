"""The rendered letters: typefaces, stones, light and camera. NumPy, SciPy and Pillow alone."""
