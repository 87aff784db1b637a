"""Files that a study keeps in its work directory while it trains."""
