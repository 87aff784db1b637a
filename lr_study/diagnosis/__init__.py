"""Finds out why a trial diverged."""
