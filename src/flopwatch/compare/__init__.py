"""Two numbers side by side: utilization, roofline, closed form against trace, run against run."""
