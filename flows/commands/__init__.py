"""Commands of `afd`: one module a command or group, with its output."""
