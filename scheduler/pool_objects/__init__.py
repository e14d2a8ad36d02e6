"""What we make on a pool: snapshots, the tags that say they are ours, and how they go again."""
