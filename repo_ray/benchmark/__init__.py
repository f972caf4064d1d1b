"""What each part of the system costs beside what a user would pick instead, or beside its limit."""
