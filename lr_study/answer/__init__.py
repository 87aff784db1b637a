"""Turns curves into an answer, and says how sure it is."""
