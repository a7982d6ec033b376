"""What makes a call of each row. Each module is imported in client processes only, where its row is asked for."""
