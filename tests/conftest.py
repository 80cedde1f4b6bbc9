"""What every test needs of the process it runs in."""

import signal

# A shell lets its background jobs ignore Ctrl-C, and children inherit that: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
