"""The built-in task: hotel price negotiation (REPO, arXiv 2510.04214), generated from a seed.

scenarios -> situations (what the hotelier does) -> replies (right ones and flawed ones)
-> data sets. The texts are in `phrases/*.yaml`.
"""
