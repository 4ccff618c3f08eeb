"""Samples and what follows from them: timing, the search for the largest batch, series of probes."""
