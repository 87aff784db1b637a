"""From curves to an answer, and how sure it is."""
