"""Lookups and scores over HTTP."""
