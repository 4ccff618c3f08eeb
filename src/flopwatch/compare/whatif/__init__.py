"""What if: the closed forms of a model as coefficients, so that a page without Python works out the same figures."""
