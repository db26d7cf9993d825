"""What people and other programs meet: the command line, and what comes to stand beside it."""
