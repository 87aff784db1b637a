"""How fast a trial's step is, compared with other ways to train one network at many rates.

Each side is a process of its own (side.py), which waits while the others work: in one process
the thread pools of JAX and PyTorch slow each other down. rows.py lists the comparisons.
"""
