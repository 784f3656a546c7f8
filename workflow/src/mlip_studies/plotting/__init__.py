"""Style, saving and tables that every study's figures share: `style`, `save`, `html_table`."""
