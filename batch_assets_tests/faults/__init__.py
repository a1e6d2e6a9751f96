"""Storage that fails, tears, delays, reorders and lies, and nights that must bear it."""
