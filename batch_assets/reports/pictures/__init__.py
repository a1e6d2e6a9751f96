"""The pictures of a report, one a file: each is a function from facts to a picture."""
