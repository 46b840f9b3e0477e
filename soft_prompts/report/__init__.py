"""Results to look at: tables, curves, a page, and data frames."""
