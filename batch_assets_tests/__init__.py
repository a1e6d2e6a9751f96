"""The tests, one file for each module, and the toys that they play with."""
