"""Store metrics in PostgreSQL: the connection, the tables, the sink."""
