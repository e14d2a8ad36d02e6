"""Real processes under random faults, judged by the hosts' log and restored bytes: docs/fleet-faults.md."""
