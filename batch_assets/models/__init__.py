"""Models: what they expect, what they are made of, and who allowed their use."""
