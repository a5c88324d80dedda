"""Parts of the SQLite exporter."""
