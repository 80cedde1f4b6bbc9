"""The error of sampling that a person can mend."""


class SamplingError(ValueError):
    """A campaign, round, sentence or file that no video can be made with: rule, value, cure."""
