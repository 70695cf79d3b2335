"""What others read of results: pages, tables, files."""
