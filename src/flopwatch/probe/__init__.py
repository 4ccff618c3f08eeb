"""Questions to the hardware, each in a process of its own. The parent needs no torch."""
