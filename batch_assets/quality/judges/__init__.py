"""What the gates look at: each file is one idea, each function judges one thing of a day."""
