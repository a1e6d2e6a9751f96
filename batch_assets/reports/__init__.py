"""A night as pictures and as one page of HTML: drawn from what it left on disk."""
