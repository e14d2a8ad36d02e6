"""What a person sees and types: tables, bars, a run as it goes, the passphrase."""
