"""From runs to what is shown: figures, comparisons, criteria, results document, tables, plots."""
