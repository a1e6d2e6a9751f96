"""A project's nights, run through Dagster in this process."""
