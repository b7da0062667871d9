"""Our weights as other libraries keep them; the tables are the importers'."""
