"""How runs begin, go on after a loss, and what state they are in."""
