"""From what was measured to what is shown: figures, criteria, results document, tables, picture."""
