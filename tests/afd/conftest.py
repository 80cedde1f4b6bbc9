"""Shapes are checked while the tests of the maths run: a wrong axis fails at the call, by name."""

from jaxtyping import install_import_hook

from tests.afd import shape_checks

_hook = install_import_hook(
    [
        "afd.flow.path",
        "afd.flow.times",
        "afd.losses",
        "afd.advantage",
        "afd.students.codec",
        "afd.discriminators.conv",
    ],
    f"{shape_checks.__name__}.checked",
)
