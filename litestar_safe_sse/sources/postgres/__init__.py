"""An event log in PostgreSQL."""
