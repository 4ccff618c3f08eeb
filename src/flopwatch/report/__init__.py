"""Record to terminal, HTML, Markdown, CSV. Counts and measures nothing."""
