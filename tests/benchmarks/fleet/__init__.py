"""What the fleet costs, and how it shares: `make bench-fleet`. How to read it: tests/benchmarks/README.md."""
