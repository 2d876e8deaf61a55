"""From the store to tables: selection in SQL, typography of the paper. Knows no torch and no Ray."""
