"""What several hosts cost and give: one call against the alternatives, and answers in time with one to three pools."""
