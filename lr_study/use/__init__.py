"""A finished study's trials at work: on images, explained, exported."""
