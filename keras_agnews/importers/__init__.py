"""Foreign weights to ours: each module a table of names, and little besides."""
