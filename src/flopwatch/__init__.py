"""Work, fit, speed and ceiling of PyTorch models, each number proved against an independent one."""

__version__ = "0.1.0"
