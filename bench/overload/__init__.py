"""A simulator of the rule of admission: it runs the rule itself, with a clock that is moved from event to event."""
