"""The reference network: one nn.Module built from a ModelSpec. What is traced, run and compared."""
