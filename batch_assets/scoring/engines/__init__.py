"""Where chunks are scored. An engine runs tasks somewhere and yields what they left."""
