"""Models of other frameworks: each is saved by its own format, and called as torch's are."""
