"""One recorder over a real run on tensors without data, and the views of what it wrote down."""
