"""One self-contained HTML report of finished runs."""
