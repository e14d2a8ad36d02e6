"""The hosts of a pool: how many of our connections each one has, and what its slots say to a person."""
