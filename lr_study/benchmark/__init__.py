"""Measures how fast a trial's step is, compared with other ways to train at many rates.

Each side is a separate process (side.py) that waits while the others work, because in one process
the thread pools of JAX and PyTorch slow each other down. rows.py lists the comparisons.
"""
