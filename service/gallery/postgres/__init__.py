"""The gallery in PostgreSQL with pgvector, for several servers at once."""
