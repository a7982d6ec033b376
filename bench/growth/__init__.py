"""What a call costs as a pool grows: more channels, more client processes."""
