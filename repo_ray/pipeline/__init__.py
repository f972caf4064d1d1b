"""A run from data to report: which phases there are, where they write, what people see."""
