"""The study: all mechanisms, seeds and tasks by one command, and its report."""
