"""What a person types: each command of `afd`, and what it shows."""
