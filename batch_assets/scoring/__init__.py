"""Scoring a day: the model, the chunk, the night, the engines. It serves nothing."""
