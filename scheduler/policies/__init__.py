"""What the configuration asks for: pure values, nothing is looked up on a pool or in a store."""
