"""What a pool refuses under load, and in which order it serves: the rule itself, without I/O, for both transports."""
