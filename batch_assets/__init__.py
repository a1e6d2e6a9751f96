"""Score a whole user base every night, and prove that it was done right."""
