"""Closed forms: FLOPs, memory and traffic of a ModelSpec under a Workload, and the conventions of counting."""
