"""The control plane: what to back up, when, from which base; plans, grants, commits."""
