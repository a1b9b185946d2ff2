"""The database: tables, transactions, batches of short transactions, and what differs between SQLite and PostgreSQL."""
