"""From the names of VMs to plans in the ledger: the steps `plan-run` and `plan-vm`, and what they decide."""
