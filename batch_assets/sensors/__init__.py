"""What looks at runs and at what is served, in Dagster's daemon, and tells who is on call."""
