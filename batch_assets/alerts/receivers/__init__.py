"""Where alerts go, a module for each kind; a client that only one needs is an extra."""
