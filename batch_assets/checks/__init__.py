"""The checks of a pipeline: each shows one verdict of a gate, for one day."""
