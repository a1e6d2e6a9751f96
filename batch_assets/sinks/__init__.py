"""Remote stores that serve what is served here, one file each."""
