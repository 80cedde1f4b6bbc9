"""The run-time checker behind jaxtyping's shapes: an int may stand where a float is expected."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
