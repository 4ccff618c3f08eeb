"""The library: one function for each question, the same that the command line asks. Nothing here prints."""
