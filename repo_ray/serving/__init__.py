"""What is done with a finished run: talk to it, score a reply as it would, export it."""
