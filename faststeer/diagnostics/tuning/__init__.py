"""Choosing where and how strongly vectors steer, under a budget of damage to neutral text."""
