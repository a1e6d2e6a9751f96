"""Remote stores that serve a snapshot: one protocol, and one file for each store."""
