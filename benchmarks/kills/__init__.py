"""Members that are killed while they write one ensemble, and what becomes of it."""
