"""torch's eager mode on tensors that have only a size: what a step keeps alive, without torch."""
