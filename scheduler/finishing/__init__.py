"""From packs to a restore point and a result: the steps `finish-vm` and `end-run`, and what follows a run."""
