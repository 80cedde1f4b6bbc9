"""Videos from sentences by the student of any round: `afd.load_student`, `afd sample`."""
