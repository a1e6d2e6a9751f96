"""What a person types. A command resolves, calls one function, and prints."""
