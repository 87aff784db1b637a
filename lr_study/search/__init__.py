"""Decides which trials a study has: strategies, rounds, the plan on disk, and range tests."""
