"""One module per study: its figures and tables, drawn from small tidy files alone."""
