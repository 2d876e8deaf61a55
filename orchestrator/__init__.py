"""Sweep files, planning, the engine and the command line: what ties the other rooms together."""
