"""What one call costs, against the alternatives: peers, callers, conditions, figures, criteria, reports."""
