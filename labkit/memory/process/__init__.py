"""That step in a process of its own, under a limit: what it needs, and what running out says."""
