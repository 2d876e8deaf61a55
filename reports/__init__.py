"""From the store to tables: selection in SQL, typography of the paper. No torch, no Ray."""
