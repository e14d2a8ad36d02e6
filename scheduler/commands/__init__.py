"""The commands of `cbtfleet`, one idea a file. Each takes plain options and prints through an Invocation."""
