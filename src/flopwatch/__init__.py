"""Work, fit, speed and ceiling of PyTorch models, each number proved against an independent one."""
