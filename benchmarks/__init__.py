"""Side by side with other tools: each module is one command that prints a table."""
