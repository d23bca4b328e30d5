"""The behaviours whose questions the tests of experiments write."""

NAMES = ["myopic", "agreeableness"]
