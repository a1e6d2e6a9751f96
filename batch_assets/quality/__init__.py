"""Judging: rows against the contract, a day against its limits. It serves nothing."""
