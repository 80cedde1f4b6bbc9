"""The error of sampling that a person can mend."""

from afd.errors import InputError


class SamplingError(InputError):
    """A campaign, round, sentence or file that no video can be made with: rule, value, cure."""
