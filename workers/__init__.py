"""The data plane: one granted connection at a time is read, compressed, sealed and stored."""
