"""Who is on call is told, once: what happened, what is served, and what to do next."""
