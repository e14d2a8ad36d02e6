"""What `cbtfleet doctor` looks at: small functions, each answering with Checks."""
