"""What has not changed since the night before, and what is taken over from it."""
