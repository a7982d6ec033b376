"""What stands in front of views under load: it refuses before others have worked, and lets in what Django can serve."""
